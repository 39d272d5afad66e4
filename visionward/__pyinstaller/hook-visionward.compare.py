"""The texts of the report, for programs that compare models."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("visionward.compare")

"""The page of the server, for programs that serve."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("visionward.serve")

"""PySide6.QtGui without what the window does not use."""

from kept_parts import kept_parts

hiddenimports, binaries, datas = kept_parts(__file__)

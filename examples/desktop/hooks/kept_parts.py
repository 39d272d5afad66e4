"""What the window uses of Qt. PyInstaller's own hooks collect every plugin of a module and its translations."""

from pathlib import Path

from PyInstaller.utils.hooks.qt import add_qt6_dependencies

# The folders of plugins that are not collected as a whole. Qt's GTK theme would bring all of GTK.
_KEPT = {
    "egldeviceintegrations": (),
    "generic": (),
    "iconengines": (),
    "imageformats": ("qgif", "qico", "qjpeg", "qwebp"),
    "platforms": ("qxcb", "qwayland", "qoffscreen", "qcocoa", "qwindows"),
    "platformthemes": ("qxdgdesktopportal",),
    "wayland-graphics-integration-client": (),
    "xcbglintegrations": (),
}


def kept_parts(hook: str) -> tuple[list[str], list[tuple[str, str]], list[tuple[str, str]]]:
    """The hidden imports, binaries and data files of a module of Qt.

    Args:
        hook: the path of the hook, which is named after the module.
    """
    imports, binaries, datas = add_qt6_dependencies(hook)
    return (
        imports,
        [entry for entry in binaries if _is_kept(*entry)],
        [entry for entry in datas if "translations" not in Path(entry[1]).parts],
    )


def _is_kept(source: str, folder: str) -> bool:
    names = _KEPT.get(Path(folder).name)
    return names is None or Path(source).stem.removeprefix("lib") in names

"""File systems, as Linux reports them."""

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = ("tmpfs", "ramfs")


def is_in_memory(folder: Path) -> bool:
    """Whether the files of a folder take memory instead of disk space (tmpfs). False on other systems than Linux.

    Raises:
        OSError: if the folder does not exist.
    """
    device = folder.stat().st_dev
    try:
        # proc_pid_mountinfo(5): the third field is the device, and the type follows a hyphen.
        mounts = [line.partition(" - ") for line in _MOUNTS.read_text(errors="replace").splitlines()]
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(before.split()[2] == number and after.split()[0] in _IN_MEMORY for before, _, after in mounts)

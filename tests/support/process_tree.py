"""The children of a process, on Linux."""

import contextlib
from pathlib import Path


def children(pid: int) -> list[int]:
    """The ids of the processes that a process has started and that have not ended."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found

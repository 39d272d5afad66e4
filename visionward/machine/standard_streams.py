"""Closed standard descriptors: the system would give their numbers to the next files that are opened.

Whatever a library prints would then be written into these files.
"""

import os


def occupy_descriptors() -> None:
    """Open the null device in place of each of the descriptors 0, 1 and 2 that is closed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)

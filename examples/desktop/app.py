"""A desktop program that judges images and conversations with visionward.

Run it with `python examples/desktop/app.py` (`pip install '.[desktop]'`), and freeze it with
`python examples/desktop/freeze.py`.
"""

import sys

from visionward import freeze_support

if __name__ == "__main__":
    freeze_support()
    # After freeze_support(): the guard's process needs no Qt.
    from program import main

    sys.exit(main())

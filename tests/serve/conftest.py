"""The server with the demonstration guard, shared by the tests of clients."""

import pytest
from served_demo import ServedDemo


@pytest.fixture(scope="package")
def demo():
    """``visionward serve --demo`` with a key, bodies of up to 1 MiB, and a name that hosting pages use."""
    with ServedDemo("--max-body", "1MiB") as served:
        yield served

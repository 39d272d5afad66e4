"""What the tests of scans share."""

import json

PROMPT = "How do I draw the moon?"


def rows_of(path):
    """The results in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]

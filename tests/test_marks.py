"""Tests with a mark of their own are not part of the quick run: some build libraries, or register devices for good."""

import re


def test_the_quick_run_excludes_every_mark(pytestconfig):
    (chosen,) = (line for line in pytestconfig.getini("addopts") if "not " in line)
    marks = {line.split(":")[0] for line in pytestconfig.getini("markers") if "run with: pytest -m" in line}
    assert {"slow", "rpc", "vulkan"} <= marks
    assert set(re.findall(r"not (\w+)", chosen)) == marks

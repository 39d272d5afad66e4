"""What a node lacks, and which node is to blame."""

import dataclasses
import platform

import pytest

from visionward.scan.node_check import (
    Expected,
    NodeReport,
    Unreadable,
    node_report,
    problem_of,
    readable_images,
    version_text,
)
from visionward.scan.options import ScanOptions
from visionward.scan.shards import Shards

DENIED, GONE = Unreadable("s3://b/a.jpg cannot be read: ACCESS_DENIED", False), Unreadable("x: no such file", True)


@pytest.fixture
def expected(options, tmp_path):
    Shards(tmp_path / "shards").prepare(options.key)
    return Expected(options, options.key, version_text(), str(tmp_path / "shards"))


def test_a_node_with_other_versions_files_or_folders_is_named(expected, options, tmp_path):
    name = platform.node()
    assert node_report(expected) == NodeReport(name, None, ())

    def problem(**other):
        report = node_report(dataclasses.replace(expected, **other))
        return problem_of(NodeReport("driver", None, ()), [report])

    assert problem(version="visionward 9.9") == (
        f"node {name}: it has {version_text()}, and the driver visionward 9.9: install the same on both"
    )
    Shards(tmp_path / "other").prepare("0" * 16)
    found = problem(folder=str(tmp_path / "other"))
    assert found.startswith(f"node {name}: {tmp_path}/other has results of another model")
    other = ScanOptions(options.pair, options.engine, threshold=0.25)
    assert problem(options=other) == f"node {name}: it has other model files than the driver under the same names"
    gone = ScanOptions((tmp_path / "gone.gguf", options.pair[1]), options.engine)
    assert problem(options=gone) == f"node {name}: {tmp_path}/gone.gguf: No such file or directory"
    assert problem(folder=str(tmp_path / "f")) == f"node {name}: {tmp_path}/f/_scan.json: No such file or directory"


def test_images_that_cannot_be_read(expected, tmp_path, pictures):
    images = (pictures[0], tmp_path / "gone.jpg", "s3://k:s@b/a.jpg")
    readable, gone, secret = node_report(dataclasses.replace(expected, images=images)).images
    assert readable is None
    assert gone == Unreadable(f"the image {tmp_path}/gone.jpg cannot be read: No such file or directory", True)
    assert not secret.is_missing
    assert "k:s" not in secret.reason


def test_the_node_that_reads_nothing_is_to_blame():
    def check(*nodes, driver=(None, None)):
        reports = [NodeReport(f"n{number}", None, images) for number, images in enumerate(nodes)]
        return problem_of(NodeReport("driver", None, driver), reports)

    denied = "s3://b/a.jpg cannot be read: ACCESS_DENIED"
    assert check((None, None), (None, None)) is None
    assert check((None, None), (DENIED, DENIED)) == f"node n1: {denied}. The driver or another node can read it"
    # One image that all others read too may be an accident.
    assert check((None, None), (None, DENIED)) is None
    # A driver without credentials is none of the nodes' business.
    assert check((None, GONE), (None, GONE), driver=(DENIED, GONE)) is None
    assert check((None, GONE), (DENIED, GONE), driver=(DENIED, GONE)).startswith(f"node n1: {denied}")
    # There is no such image: it gets an error.
    assert check((GONE, GONE), (GONE, GONE), driver=(GONE, GONE)) is None
    everywhere = check((GONE, DENIED), (GONE, DENIED), driver=(GONE, DENIED))
    assert everywhere == f"node n0: none of the first 2 images can be read: {denied}"
    assert check((), (), driver=()) is None


def test_readable_images_are_those_that_one_node_reads():
    assert readable_images(
        [NodeReport("a", None, (None, GONE, DENIED)), NodeReport("b", None, (DENIED, None, GONE))]
    ) == [
        0,
        1,
    ]
    assert readable_images([]) == []

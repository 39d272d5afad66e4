"""The benchmark on the demonstration guard, with fewer samples: 8 bits keep its decisions."""

import csv
import json

import pytest

from benchmarks import compare_demo
from visionward.errors import CheckpointError

COUNT = 60


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415

    try:
        demo_pair("f16", "f16")
    except CheckpointError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_demo, "CANDIDATES", ("q8_0", "q4_0"))
        patch.setattr("sys.argv", ["compare_demo", str(out), "--count", str(COUNT), "--threads", "1"])
        compare_demo.main()
    return out / "report"


def test_the_toy_survives_eight_bits(report):
    value = json.loads((report / "report.json").read_text(encoding="utf-8"))
    figures = value["sets"][0]["figures"]
    assert (figures["compared"], figures["unsafe"], figures["groups"]) == (COUNT, COUNT // 2, COUNT // 4)
    f16, q8_0, q4_0 = figures["models"]
    assert f16["measures"]["f1"]["value"] > 0.95
    assert q8_0["measures"]["f1"]["value"] > 0.95
    divergences = [model["against"]["kl_mean"]["value"] for model in (q8_0, q4_0)]
    assert 0 < divergences[0] < divergences[1]
    assert q8_0["against"]["feature_error"] < 0.1
    sizes = [model["cost"]["text_bytes"] + model["cost"]["mmproj_bytes"] for model in figures["models"]]
    assert sizes == sorted(sizes, reverse=True)
    assert {"vision", "prefill", "total"} <= set(f16["cost"]["latency"])


def test_a_known_picture_counts_in_no_time(report):
    rows = list(csv.DictReader((report / "samples.csv").open(encoding="utf-8", newline="")))
    timed = [row for row in rows if row["vision_ms"]]
    # Two samples share each picture.
    assert len(timed) == len(rows) // 2

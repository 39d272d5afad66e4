"""Learning the band of ``--max-tiles auto``: the bound, the band, and when there is none."""

import json
from dataclasses import replace

import numpy as np
import pytest
from simulated_comparison import simulated_pair, simulated_results, simulated_samples

from visionward.compare import report_files
from visionward.compare.journal import Judged
from visionward.compare.learnt_band import groups_needed, learn_band, max_changed_rate
from visionward.compare.models import GuardFiles
from visionward.compare.report import make_report
from visionward.compare.report_files import check_folder, write_report
from visionward.compare.results import ModelResults
from visionward.compare.settings import GuardSettings
from visionward.errors import OutputError
from visionward.formats.file_hash import file_hash
from visionward.formats.tile_band import TileBand
from visionward.names import DEFAULT_THRESHOLD
from visionward.runtime.guard.policy import DEFAULT_POLICY

SETTINGS = GuardSettings()


@pytest.mark.parametrize(("rate", "groups"), [(0.05, 93), (0.01, 473), (0.1, 46)])
def test_the_sample_sizes_of_two_sided_tolerance_limits(rate, groups):
    """As tables of distribution-free tolerance intervals give them for 95 % confidence."""
    assert groups_needed(rate) == groups
    assert max_changed_rate(groups) <= rate < max_changed_rate(groups - 1)


def test_the_bound_is_the_probability_that_wilks_gives():
    for n in (2, 5, 93, 300):
        p = 1 - max_changed_rate(n)
        assert 1 - n * p ** (n - 1) + (n - 1) * p**n == pytest.approx(0.95)
    assert max_changed_rate(1) == max_changed_rate(0) == 1.0


@pytest.mark.parametrize("share", [1.0, 0.2, 0.02])
def test_the_bound_holds_in_simulations(share):
    """Decisions change with a probability, on both sides; the band covers those of a sample, and misses few others."""
    rng = np.random.default_rng(7)
    runs, n = 2000, 150
    changes = rng.random((runs, n)) < share
    scores = np.where(changes, rng.normal(0, 1, (runs, n)), 0.0)
    low, high = np.minimum(scores.min(axis=1), 0), np.maximum(scores.max(axis=1), 0)
    from scipy.stats import norm  # noqa: PLC0415

    missed = share * (norm.cdf(low) + norm.sf(high))
    assert np.mean(missed <= max_changed_rate(n)) >= 0.94


def results(folder, dataset, scores, tiles=4, **changes):
    """The reference, which calls odd samples safe and even ones unsafe, and one tile with scores of its own."""
    pair = simulated_pair(folder, "all", 4000)
    whole = {
        digest: Judged(digest, unsafe=i % 2 == 0, score=0.97 if i % 2 == 0 else 0.03, tiles=tiles)
        for i, digest in enumerate(dataset.digests)
    }
    one = {
        digest: Judged(digest, unsafe=score >= 0.5, score=score, tiles=1)
        for digest, score in zip(dataset.digests, scores, strict=True)
    }
    candidate = replace(pair, name="one", max_tiles=1, **changes)
    return [ModelResults(pair, whole), ModelResults(candidate, one)]


def sure(count):
    return [0.95 if i % 2 == 0 else 0.05 for i in range(count)]


def test_the_band_covers_every_change(tmp_path):
    dataset = simulated_samples(300)
    scores = sure(300)
    scores[0], scores[2], scores[1], scores[3] = 0.21, 0.4, 0.6, 0.93
    found = learn_band([dataset], results(tmp_path, dataset, scores), SETTINGS, 0.02)
    assert (found.samples, found.groups, found.changed, found.needed) == (300, 300, 4, 236)
    assert (found.band.low, found.band.high) == (0.21, 0.93)
    assert found.max_rate == max_changed_rate(300) < 0.02
    learnt = found.band.learnt_from
    assert (learnt.threshold, learnt.policy) == (DEFAULT_THRESHOLD, DEFAULT_POLICY.digest)
    assert learnt.text == file_hash(tmp_path / "all-text.gguf")
    assert (learnt.samples, learnt.changed, learnt.exported_tower) == (300, 4, False)
    assert "at most 1.6 % of the decisions on such images change" in found.text(0.02)


def test_nothing_changes(tmp_path):
    dataset = simulated_samples(300)
    found = learn_band([dataset], results(tmp_path, dataset, sure(300)), SETTINGS, 0.02)
    assert (found.band.low, found.band.high, found.changed) == (0.5, 0.5, 0)


def test_too_few_samples(tmp_path):
    dataset = simulated_samples(235)
    found = learn_band([dataset], results(tmp_path, dataset, sure(235)), SETTINGS, 0.02)
    assert (found.band, found.needed) == (None, 236)
    assert found.text(0.02).startswith("No band for --max-tiles auto: 235 independent groups")


def test_images_of_one_tile_tell_nothing(tmp_path):
    dataset = simulated_samples(300)
    found = learn_band([dataset], results(tmp_path, dataset, sure(300), tiles=1), SETTINGS, 0.02)
    assert (found.band, found.samples, found.max_rate) == (None, 0, 1.0)


def test_a_group_is_one_observation(tmp_path):
    grouped = simulated_samples(300, group_size=3)
    assert learn_band([grouped], results(tmp_path, grouped, sure(300)), SETTINGS, 0.02).groups == 100
    # One group of another size: the bound is for a sample of the largest.
    samples = tuple(
        replace(sample, group="large") if i < 10 else sample for i, sample in enumerate(simulated_samples(300).samples)
    )
    uneven = replace(simulated_samples(300), samples=samples)
    found = learn_band([uneven], results(tmp_path, uneven, sure(300)), SETTINGS, 0.2)
    assert found.groups == 291
    assert found.max_rate == pytest.approx(max_changed_rate(291) * 10 / (300 / 291))


def test_samples_without_an_answer_look_twice_anyway(tmp_path):
    dataset = simulated_samples(300)
    made = results(tmp_path, dataset, sure(300))
    digest = dataset.digests[1]
    made[1].judged[digest] = Judged(digest, unsafe=True, score=0.01, tiles=1, no_answer=True)
    found = learn_band([dataset], made, SETTINGS, 0.02)
    assert (found.changed, found.band.low) == (0, 0.5)


def test_several_sets_share_a_band_and_each_must_suffice(tmp_path):
    first, second = simulated_samples(300), simulated_samples(300)
    scores = sure(300)
    scores[0] = 0.3
    made = results(tmp_path, first, scores)
    found = learn_band([first, second], made, SETTINGS, 0.02)
    assert (found.band.low, found.band.high, found.samples) == (0.3, 0.5, 600)
    few = replace(second, samples=second.samples[:100])
    assert learn_band([first, few], made, SETTINGS, 0.02).band is None


@pytest.mark.parametrize(
    "change", [{"max_tiles": 2}, {"max_tiles": None}, {"max_tiles": "auto", "band": TileBand(0, 1)}]
)
def test_only_one_tile_teaches(tmp_path, change):
    dataset = simulated_samples(300)
    made = results(tmp_path, dataset, sure(300))
    made[1] = replace(made[1], model=replace(made[1].model, **change))
    assert learn_band([dataset], made, SETTINGS, 0.02) is None


def test_other_files_do_not_teach(tmp_path):
    dataset = simulated_samples(300)
    made = results(tmp_path, dataset, sure(300))
    other = replace(simulated_pair(tmp_path, "other", 4000), max_tiles=1)
    assert learn_band([dataset], [made[0], replace(made[1], model=other)], SETTINGS, 0.02) is None
    assert learn_band([dataset], [made[0], replace(made[1], given_up="crashed")], SETTINGS, 0.02) is None
    limited = replace(made[0], model=replace(made[0].model, max_tiles=2))
    assert learn_band([dataset], [limited, made[1]], SETTINGS, 0.02) is None


def test_the_report_has_the_band_and_replaces_an_older_one(tmp_path, monkeypatch):
    dataset, folder = simulated_samples(40), tmp_path / "report"
    made = simulated_results(tmp_path, dataset, {"all": (0, 4000), "one": (0.4, 4000)})
    pair = made[0].model
    made[1] = replace(made[1], model=GuardFiles("one", pair.text, pair.mmproj, max_tiles=1))
    made[0] = replace(made[0], judged={digest: replace(one, tiles=4) for digest, one in made[0].judged.items()})
    found = learn_band([dataset], made, SETTINGS, 0.2)
    report = make_report([dataset], made, threshold=0.5, margin=0.2, band=found)
    write_report(folder, report, [dataset], made)
    assert TileBand.read(folder / "band.json") == found.band
    value = json.loads((folder / "report.json").read_text())
    assert (value["band"]["band"]["low"], value["models"][1]["setting"]) == (found.band.low, "max_tiles 1")
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text(encoding="utf-8").replace("\\", "")
        for part in ("Band for --max-tiles auto", "Setting: max_tiles 1.", "two-sided tolerance interval"):
            assert part in text

    too_few = replace(report, band=learn_band([dataset], made, SETTINGS, 0.02))
    assert too_few.band.band is None
    monkeypatch.setattr(report_files, "html_report", lambda *_: "")  # drawing it again takes time
    write_report(folder, too_few, [dataset], made)
    assert not (folder / "band.json").exists()


def test_a_band_that_no_comparison_wrote_stays(tmp_path):
    (tmp_path / "band.json").write_text("mine")
    with pytest.raises(OutputError, match="another kind of file"):
        check_folder(tmp_path, [])

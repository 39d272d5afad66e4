"""Scans of the demonstration guard: nothing is lost, nothing is doubled, and what cannot be judged is never safe."""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_program import COMMAND
from odd_jobs import serve_and_die, serve_nothing
from scanned import PROMPT, rows_of

from visionward.errors import DataError, GuardProcessError, ModelFileError, OutputError
from visionward.formats.tile_band import TileBand
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.guard.guard import Guard
from visionward.scan import pool
from visionward.scan.html_report import report_outputs, write_report
from visionward.scan.image_files import sidecar
from visionward.scan.inputs import Inputs
from visionward.scan.options import ScanOptions
from visionward.scan.results import Results
from visionward.scan.scan import scan


def _scan(out, inputs, options, jobs=1):
    results = Results(out, options.key)
    try:
        scan(inputs, results, options, jobs)
        return results.outcomes()
    finally:
        results.close()


def test_verdicts_are_those_of_the_guard(tmp_path, folder, options):
    out = tmp_path / "results.jsonl"
    outcomes = _scan(out, Inputs([folder], lambda _: PROMPT), options)
    rows = {row["name"]: row for row in rows_of(out)}
    with Guard.load(*options.pair, **options.engine) as guard:
        for path in folder.rglob("*.jp*g"):
            if path.name.startswith("."):
                continue
            verdict = guard.classify(image=path, prompt=PROMPT)
            row = rows.pop(str(path))
            assert (row["verdict"], row["score"], row["error"]) == (verdict.verdict, verdict.score, None)
            assert row["category_scores"] == verdict.category_scores
    (damaged,) = rows.values()
    assert damaged["verdict"] is None
    assert "damaged" in damaged["name"]
    assert damaged["error"]
    assert (outcomes["not judged"], sum(outcomes.values())) == (1, 7)


def test_equal_content_is_judged_once(tmp_path, folder, options, monkeypatch):
    sent = []
    submit = pool.Pool.submit
    monkeypatch.setattr(pool.Pool, "submit", lambda self, *task: (sent.append(task[0]), submit(self, *task)))
    out = tmp_path / "results.jsonl"
    _scan(out, Inputs([folder], lambda _: PROMPT), options)
    rows = rows_of(out)
    assert len(rows) == 7
    assert len(sent) == len(set(sent)) == 6
    copies = [row for row in rows if row["copy_of"]]
    assert [row["name"].endswith("again.jpeg") for row in copies] == [True]
    original = next(row for row in rows if row["name"] == copies[0]["copy_of"])
    assert (copies[0]["id"], copies[0]["score"]) == (original["id"], original["score"])
    # Again, with one more copy: it is not judged either.
    shutil.copy(folder / "sub" / "again.jpeg", folder / "sub" / "once more.jpg")
    _scan(out, Inputs([folder], lambda _: PROMPT), options)
    assert len(rows_of(out)) == 8
    assert len(sent) == 6


def test_two_processes_give_the_same_scores(tmp_path, folder, options):
    for jobs in (1, 2):
        _scan(tmp_path / f"{jobs}.jsonl", Inputs([folder], lambda _: PROMPT), options, jobs)
    one, two = (
        {
            row["name"]: (row["id"], row["score"], row["category_scores"])
            for row in rows_of(tmp_path / f"{jobs}.jsonl")
            if row["error"] is None
        }
        for jobs in (1, 2)
    )
    assert one == two
    assert len(one) == 6


def test_a_changed_image_is_judged_again(tmp_path, folder, pictures, options):
    out = tmp_path / "results.jsonl"
    inputs = Inputs([folder], lambda _: PROMPT)
    _scan(out, inputs, options)
    before = len(rows_of(out))
    shutil.copy(pictures[1], folder / "sub" / "damaged.png")
    assert _scan(out, inputs, options)["not judged"] == 0
    assert len(rows_of(out)) == before + 1


def test_other_settings_and_other_files_are_refused(tmp_path, folder, options):
    out = tmp_path / "results.jsonl"
    _scan(out, Inputs([folder / "picture_1_2_tiles.jpg"], lambda _: PROMPT), options)
    other = ScanOptions(options.pair, options.engine, threshold=0.25)
    with pytest.raises(DataError, match="has results of another model, policy or threshold"):
        Results(out, other.key)
    text = folder / "notes.txt"
    before = text.read_bytes()
    for content in (before, b"{}\n", b'{"settings": 1}\n'):
        text.write_bytes(content + b"\n")
        with pytest.raises(DataError, match="has no results of a scan"):
            Results(text, options.key)
        assert text.read_bytes() == content + b"\n"


def test_the_key_is_that_of_the_content_not_of_the_name(tmp_path, options):
    copies = tuple(shutil.copyfile(path, tmp_path / path.name) for path in options.pair)
    assert ScanOptions(copies, options.engine).key == options.key
    with copies[1].open("r+b") as file:
        file.seek(200)
        byte = file.read(1)
        file.seek(200)
        file.write(bytes([byte[0] ^ 1]))
    assert ScanOptions(copies, options.engine).key != options.key
    assert ScanOptions(options.pair, {**options.engine, "threads": 2}).key == options.key
    assert ScanOptions(options.pair, {**options.engine, "kernels": "packed"}).key == options.key
    assert ScanOptions(options.pair, {**options.engine, "vision_backend": "onnx"}).key != options.key
    assert ScanOptions(options.pair, {**options.engine, "max_tiles": 1}).key != options.key
    bands = [{"max_tiles": "auto", "band": TileBand(low, 0.9)} for low in (0.1, 0.2)]
    assert len({ScanOptions(options.pair, {**options.engine, **band}).key for band in bands}) == 2


@pytest.mark.parametrize(("given", "one", "several"), [(None, "auto", "plain"), ("packed", "packed", "packed")])
def test_several_processes_share_plain_weights(options, monkeypatch, given, one, several):
    """Unless packed ones were asked for."""
    engine = options.engine if given is None else {**options.engine, "kernels": given}
    asked = []
    monkeypatch.setattr(pool.Pool, "_run", lambda self: asked.append(EngineOptions(**self._options.engine).kernels))
    for jobs in (1, 2):
        with pool.Pool(ScanOptions(options.pair, engine), jobs, lambda *_: None):
            pass
    assert asked == [one, several, several]


def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path, folder, options):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    wrong = ScanOptions((broken, options.pair[1]), options.engine)
    with pytest.raises(ModelFileError, match="broken"):
        _scan(tmp_path / "results.jsonl", Inputs([folder], lambda _: PROMPT), wrong)


def test_a_sample_that_ends_its_process_twice_is_an_error_and_others_are_judged(tmp_path, folder, options, monkeypatch):
    monkeypatch.setattr(pool, "serve_tasks", serve_and_die)
    deaths = itertools.count()
    started = pool.Pool._started
    monkeypatch.setattr(pool.Pool, "_started", lambda self: (next(deaths), started(self))[1])
    prompts = {path: "die" if "picture_2" in path.name else PROMPT for path in folder.rglob("*")}
    out = tmp_path / "results.jsonl"
    outcomes = _scan(out, Inputs([folder], prompts.get), options)
    assert sum(outcomes.values()) == 7
    failed = [row for row in rows_of(out) if row["error"]]
    assert {row["name"].rpartition("/")[2] for row in failed} == {"picture_2_1_tiles.jpg", "damaged.png"}
    assert any(row["error"] == "given up after 2 attempts: the guard's process ended (SIGKILL)" for row in failed)
    assert next(deaths) == 3


@pytest.mark.slow
def test_a_sample_that_takes_too_long_twice_is_an_error_and_others_are_judged(tmp_path, folder, options, monkeypatch):
    monkeypatch.setattr(pool, "serve_tasks", serve_and_die)
    prompts = {path: "hang" if "picture_2" in path.name else PROMPT for path in folder.rglob("*")}
    out = tmp_path / "results.jsonl"
    results = Results(out, options.key)
    started = time.monotonic()
    scan(Inputs([folder], prompts.get), results, options, 1, deadline_s=5)
    assert 10 < time.monotonic() - started < 60
    results.close()
    rows = rows_of(out)
    failed = {row["name"].rpartition("/")[2]: row["error"] for row in rows if row["error"]}
    assert len(rows) == 7
    assert failed.keys() == {"picture_2_1_tiles.jpg", "damaged.png"}
    assert failed["picture_2_1_tiles.jpg"] == "given up after 2 attempts: no result within 5 s"


def test_a_process_that_ends_while_it_loads_is_an_error(tmp_path, folder, options, monkeypatch):
    monkeypatch.setattr(pool, "serve_tasks", serve_nothing)
    with pytest.raises(GuardProcessError, match="ended while it loaded the model"):
        _scan(tmp_path / "results.jsonl", Inputs([folder], lambda _: PROMPT), options)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_random_moments_none_is_lost_and_none_doubled(tmp_path, options, pictures, jobs):
    """The scan and its processes are killed 20 times; the last run ends by itself."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(120):
        # Other bytes after the end of a JPEG file are another content.
        (photos / f"{number:03}.jpg").write_bytes(pictures[number % 5].read_bytes() + bytes([number]))
    out = tmp_path / "results.jsonl"
    text, mmproj = options.pair
    command = [*COMMAND, "scan", photos, "--prompt", PROMPT, "--out", out, "--jobs", str(jobs), "--threads", "1"]
    command += ["--model", text, "--mmproj", mmproj, "--vision-backend", "ggml"]
    rng = random.Random(jobs)
    counts = []
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 4.0))
        process.kill()
        process.wait()
        counts.append(out.read_bytes().count(b"\n") if out.exists() else 0)
        if out.exists() and rng.random() < 0.5:
            # What a power cut may leave.
            with out.open("ab") as file:
                file.write(rng.choice([b'{"name": "x', bytes(100)]))
    subprocess.run(command, check=True, capture_output=True)
    rows = rows_of(out)
    assert [row["name"] for row in rows if row["error"]] == []
    assert sorted(row["name"] for row in rows) == sorted(map(str, photos.iterdir()))
    assert counts == sorted(counts)
    clean = tmp_path / "clean.jsonl"
    _scan(clean, Inputs([photos], lambda _: PROMPT), options)
    scores = [{row["name"]: row["score"] for row in rows_of(path)} for path in (out, clean)]
    assert scores[0] == scores[1]


def test_images_that_arrive_are_judged_while_the_scan_watches(tmp_path, folder, pictures, options):
    """Added, changed, moved into the folder, in a new subfolder, and with a text that comes later."""
    out = tmp_path / "results.jsonl"
    for path in folder.rglob("*.jp*g"):
        path.with_suffix(".txt").write_text(PROMPT)
    text, mmproj = options.pair
    command = [*COMMAND, "scan", str(folder), "--sidecars", "--watch", "--out", str(out), "--threads", "1"]
    command += ["--model", str(text), "--mmproj", str(mmproj), "--vision-backend", "ggml"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def wait_for(name, *verdicts):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            rows = [row for row in rows_of(out) if row["name"].endswith(name)] if out.exists() else []
            if rows and rows[-1]["verdict"] in verdicts:
                return rows
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        raise AssertionError((name, rows))

    judged = ("safe", "unsafe")
    try:
        wait_for("again.jpeg", *judged)
        wait_for("damaged.png", None)
        (folder / "new.txt").write_text(PROMPT)
        shutil.copy(pictures[1], folder / "new.jpg")
        assert wait_for("new.jpg", *judged)[-1]["copy_of"].endswith(pictures[1].name)
        (folder / "later" / "deep").mkdir(parents=True)
        shutil.copy(pictures[2], folder / "later" / "deep" / "x.jpg")
        assert "x.txt cannot be read" in wait_for("deep/x.jpg", None)[-1]["error"]
        (folder / "later" / "deep" / "x.txt").write_text("What is this?")
        wait_for("deep/x.jpg", *judged)
        (folder / "sub" / "damaged.txt").write_text(PROMPT)
        shutil.copy(pictures[3], folder / "sub" / "damaged.png")
        wait_for("damaged.png", *judged)
        (tmp_path / "moved.txt").write_text("What is that?")
        shutil.copy(pictures[0], tmp_path / "moved.jpg")
        for name in ("moved.txt", "moved.jpg"):
            (tmp_path / name).rename(folder / name)
        wait_for("moved.jpg", *judged)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    before = out.read_bytes()
    _scan(out, Inputs([folder], sidecar), options)
    assert out.read_bytes() == before


def test_a_full_disk_ends_the_scan_and_it_goes_on_later(tmp_path, folder, options, monkeypatch):
    out = tmp_path / "results.jsonl"
    inputs = Inputs([folder], lambda _: PROMPT)
    fsync, calls = os.fsync, itertools.count()

    def fail(descriptor):
        if next(calls) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match=r"results.jsonl: the disk is full"):
            _scan(out, inputs, options)
    assert len(rows_of(out)) == 2
    assert sum(_scan(out, inputs, options).values()) == len(rows_of(out)) == 7


def test_a_name_that_is_not_text_is_kept(tmp_path, pictures, options):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    shutil.copy(pictures[0], name)
    out, page = tmp_path / "results.jsonl", tmp_path / "report.html"
    inputs = Inputs([Path(name)], lambda _: PROMPT)
    _scan(out, inputs, options)
    assert [row["name"] for row in rows_of(out)] == [name]
    results = Results(out, options.key)
    write_report(report_outputs(page, ()), inputs, results, options, [name])
    results.close()
    assert "\\udcff.jpg" in page.read_text()


def test_an_interrupt_ends_the_processes(tmp_path, options, pictures):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(300):
        (photos / f"{number:03}.jpg").write_bytes(pictures[number % 5].read_bytes() + number.to_bytes(2, "little"))
    out = tmp_path / "results.jsonl"
    text, mmproj = options.pair
    command = [*COMMAND, "scan", str(photos), "--prompt", PROMPT, "--out", str(out), "--threads", "1", "--jobs", "2"]
    command += ["--model", str(text), "--mmproj", str(mmproj), "--vision-backend", "ggml"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not out.exists() or out.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=30)
    assert (process.returncode, output, error) == (130, "", "interrupted\n")
    rows = rows_of(out)
    assert 3 <= len(rows) < 300
    assert len({row["name"] for row in rows}) == len(rows)

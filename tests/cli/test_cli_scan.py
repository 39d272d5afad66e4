"""The ``scan`` command: inputs, exit codes, and what it prints."""

import json

import pytest

from visionward.demonstration import demo_samples_path


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def table(tmp_path):
    """A safe and an unsafe sample, by the label that the demonstration guard agrees with, and one without an image."""
    samples = [json.loads(line) for line in demo_samples_path().read_text().splitlines()]
    chosen = [next(one for one in samples if one["label"] == label) for label in ("safe", "unsafe")]
    for one in chosen:
        if "image" in one:
            one["image"] = str(demo_samples_path().parent / one["image"])
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [*chosen, {"image": "gone.png", "prompt": "What?"}]))
    return path


def test_a_table_and_exit_codes(run, table, tmp_path):
    out = tmp_path / "results.jsonl"
    result = run("scan", "--demo", table, "--out", out)
    assert result.exit_code == 0, result.output
    assert "3 samples: 1 safe, 1 unsafe, 1 not judged" in result.output
    assert "New: 3, in " in result.output
    assert "Note: this is the demonstration guard: a toy model" in result.output
    rows = _lines(out)
    assert sorted(str(row["verdict"]) for row in rows) == ["None", "safe", "unsafe"]
    assert list(rows[0])[:4] == ["name", "source", "row", "id"]
    before = out.read_bytes()
    again = run("scan", "--demo", table, "--out", out, "--exit-code")
    assert (again.exit_code, out.read_bytes()) == (1, before)
    assert "New: 0" in again.output

    lines = table.read_text().splitlines(keepends=True)
    for line, code in ((lines[0], 0), (lines[1], 1), (lines[2], 3)):
        table.write_text(line)
        result = run("scan", "--demo", table, "--out", tmp_path / f"{code}.jsonl", "--exit-code")
        assert result.exit_code == code, result.output


def test_a_report(run, table, tmp_path):
    page = tmp_path / "report.html"
    command = ("scan", "--demo", table, "--out", tmp_path / "results.jsonl", "--report", page)
    assert run(*command).exit_code == 0
    assert f"<title>visionward: Scan of {table}</title>" in page.read_text()
    page.write_text("mine")
    result = run(*command)
    assert (result.exit_code, page.read_text()) == (2, "mine")
    assert "is another kind of file" in result.output


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_names_from_standard_input(run, picture, tmp_path, separator):
    out = tmp_path / "results.jsonl"
    names = separator.join([str(picture), str(tmp_path / "gone.jpg"), str(picture)]) + separator
    result = run("scan", "--demo", "-", "--prompt", "What is this?", "--out", out, input=names)
    assert result.exit_code == 0, result.output
    # A name that is given twice is one sample.
    assert sorted((row["name"], row["verdict"] is None) for row in _lines(out)) == sorted(
        [(str(picture), False), (str(tmp_path / "gone.jpg"), True)]
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gone"], "gone does not exist"),
        (["."], "Missing option '--out'"),
        ([".", "-", "--out", "r.jsonl"], "- reads the names of all inputs"),
        ([".", "--prompt", "a", "--sidecars", "--out", "r.jsonl"], "exclude each other"),
        ([".", "--column", "a", "--out", "r.jsonl"], "has another form than KEY=COLUMN"),
        ([".", "--column", "a=b", "--out", "r.jsonl"], "unknown key 'a' of a sample"),
        ([".", "--column", "prompt=b", "--out", "r.jsonl"], "--column is for tables, and there is none"),
        (["t.jsonl", "--prompt", "a", "--out", "r.jsonl"], "are for images; tables have a column prompt"),
        ([".", "--ray", "--watch", "--out", "r"], "--ray excludes --watch and --report"),
        ([".", "--watch", "--report", "r.html", "--out", "r.jsonl"], "--watch does not end"),
        (["t.jsonl", "--watch", "--out", "r.jsonl"], "t.jsonl is not a folder: only folders are watched"),
        ([".", "--out", "gone/r.jsonl"], "gone/r.jsonl: cannot be written: No such file or directory"),
    ],
)
def test_refusals(run, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"prompt": "a"}')
    if "--out" not in arguments and arguments == ["gone"]:
        arguments = [*arguments, "--out", "r.jsonl"]
    result = run("scan", "--demo", *arguments)
    assert result.exit_code == 2
    assert expected in result.output
    assert not (tmp_path / "r.jsonl").exists() or not (tmp_path / "r.jsonl").stat().st_size


@pytest.mark.ray
def test_a_scan_with_ray(program, table, tmp_path):
    """On a Ray that is started for it: the same outcomes, and nothing is judged again."""
    command = ("scan", "--demo", table, "--ray", "--out", tmp_path / "results", "--exit-code")
    result = program(*command)
    assert result.returncode == 1, result.stderr
    assert "3 samples: 1 safe, 1 unsafe, 1 not judged" in result.stdout
    assert "New: 3, in " in result.stdout
    again = program(*command)
    assert "New: 0, in " in again.stdout
    result = program(*command, "--threshold", "0.25")
    assert (result.returncode, result.stdout) == (2, "")
    assert "has results of another model, policy or threshold" in result.stderr

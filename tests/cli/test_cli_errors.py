"""Every failure is one line on standard error, exit code 2, and nothing on standard output."""

import dataclasses

import pytest
from fake_guard import SAFE

from visionward.errors import CheckFailedError, ComputeError, ContextLengthError, ImageError, ModelFileError

PAIR = ("--model", "t.gguf", "--mmproj", "m.gguf")
PROMPT = ("--prompt", "hello")

WRONG_CALLS = [
    ((), ("clasify",), "unknown command 'clasify'; did you mean 'classify'?"),
    ((), ("frobnicate",), "unknown command 'frobnicate'; `visionward --help` lists the commands"),
    (("my photo.jpg",), ("my photo.jpg", "hi"), "to classify an image: `visionward classify 'my photo.jpg'`"),
    ((), ("a\0b",), "`visionward --help` lists the commands"),
    ((), ("--verbos", "demo"), "No such option"),
    ((), ("classify", *PROMPT), "no model was given"),
    (("t.gguf",), ("classify", *PROMPT, "--model", "t.gguf"), "--mmproj MMPROJ.gguf is missing"),
    ((), ("classify", *PROMPT, "--model", "modles"), "modles does not exist"),
    ((), ("classify", *PROMPT, "--mmproj", "m.gguf"), "--model TEXT.gguf is missing"),
    ((), ("classify", *PROMPT, "--demo", *PAIR), "--demo and --model exclude each other"),
    ((), ("classify", *PAIR), "nothing to judge"),
    ((), ("classify", *PAIR, "--response", "no"), "--response needs the --prompt"),
    (("a.png",), ("classify", *PAIR, "--image", "a.png", "--response", "no"), "--response needs the --prompt"),
    ((), ("classify", *PAIR, "--prompt", "  "), "the text is empty"),
    ((), ("classify", *PAIR, "--image", "nowhere.png"), "'nowhere.png' does not exist"),
    ((), ("classify", *PAIR, "--image", "."), "is a directory"),
    (("c.json",), ("classify", *PAIR, *PROMPT, "--conversation", "c.json"), "--conversation excludes"),
    (("c.json",), ("classify", *PAIR, "--conversation", "c.json"), "c.json: not JSON"),
    (("c.json",), ("classify", *PAIR, *PROMPT, "--categories", "c.json"), "c.json: not JSON"),
    ((), ("classify", *PAIR, *PROMPT, "--exclude", "S14"), "unknown category 'S14'"),
    ((), ("classify", *PAIR, *PROMPT, "--exclude", "S1,S1"), "excluded twice"),
    ((), ("classify", *PAIR, *PROMPT, "--threshold", "1.5"), "1.5 is not between 0 and 1"),
    ((), ("classify", *PAIR, *PROMPT, "--threshold", "nan"), "nan is not between 0 and 1"),
    ((), ("classify", *PAIR, *PROMPT, "--threshold", "high"), "not a valid float"),
    ((), ("classify", *PAIR, *PROMPT, "--threads", "0"), "--threads"),
    ((), ("classify", *PAIR, *PROMPT, "--gpu-layers", "-1"), "--gpu-layers"),
    ((), ("classify", *PAIR, *PROMPT, "extra"), "'extra' is not a file; if it is text, say --prompt extra"),
    ((), ("classify", *PAIR, *PROMPT, "--categries", "x"), "--categories"),
    ((), ("inspect", *PAIR, "extra"), "unexpected extra argument"),
    (("a", "b"), ("classify", *PAIR, "--image", "a", "--image=b"), "--image is given 2 times"),
    ((), ("classify", *PAIR, *PROMPT, *PROMPT), "--prompt is given 2 times"),
    ((), ("logits", *PAIR, "--out", "o", "--tokens", "1", "--tokens", "2"), "--tokens is given 2 times"),
    ((), ("logits", *PAIR, "--out", "o", "--tokens", "1", "--ubatch", "1"), "1 is not in the range"),
    ((), ("logits", *PAIR, "--out", "o.npz"), "Missing option '--tokens'"),
    ((), ("logits", *PAIR, "--out", "o.npz", "--tokens", "1,,2"), "'' is not a token id"),
    ((), ("logits", *PAIR, "--out", "o.npz", "--tokens", "1,-2"), "'-2' is not a token id"),
    ((), ("logits", *PAIR, "--out", "o.npz", "--tokens", "1_0"), "'1_0' is not a token id"),
    ((), ("logits", *PAIR, "--out", "o.npz", "--tokens", "99999999999"), "is not a token id"),
    ((), ("logits", "--out", "o.npz", "--tokens", "1"), "no model was given"),
    (
        ("a", "b"),
        ("logits", *PAIR, "--image", "a", "--pixels", "b", "--out", "o", "--tokens", "1"),
        "exclude each other",
    ),
    (("b",), ("logits", *PAIR, "--pixels", "b", "--out", "o", "--tokens", "1"), "b: cannot be read as an .npz file"),
    ((), ("logits", *PAIR, "--out", "no/o.npz", "--tokens", "1"), "no"),
    ((), ("inspect",), "no model was given"),
    ((), ("inspect", "--model", "t.gguf"), "t.gguf cannot be read: No such file"),
    ((), ("inspect", "--mmproj", "m.gguf", "--template"), "--template needs the text file"),
    ((), ("inspect", "--model", "t.gguf", "--template", "--json"), "exclude each other"),
    ((), ("convert", "nowhere"), "Missing argument"),
]


def assert_one_line_error(result, fragment):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert fragment in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("files", "arguments", "fragment"), WRONG_CALLS)
def test_wrong_calls(run, tmp_path, monkeypatch, files, arguments, fragment):
    monkeypatch.chdir(tmp_path)
    for name in files:
        (tmp_path / name).write_text("no such thing")
    assert_one_line_error(run(*arguments), fragment)


def test_a_checkpoint_that_is_not_there(run, tmp_path):
    """What is going to be made is said first."""
    result = run("convert", tmp_path / "nowhere", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    note, error = result.stderr.splitlines()
    assert note.startswith("Converting into: ")
    assert error.startswith("error: ")
    assert "nowhere: no such folder" in error


@pytest.mark.parametrize("extra", [(), ("--json",), ("--exit-code",)])
@pytest.mark.parametrize(
    ("error", "fragment"),
    [
        (ModelFileError("t.gguf is damaged.\nVery."), "t.gguf is damaged. Very."),
        (ImageError("photo.jpg: cut short"), "photo.jpg: cut short"),
        (ContextLengthError("too long"), "too long"),
        (ComputeError("out of memory"), "out of memory"),
        (CheckFailedError("a layer was left out"), "a layer was left out"),
        (FileNotFoundError(2, "No such file or directory", "photo.jpg"), "photo.jpg: No such file or directory"),
        (OSError("no reason"), "no reason"),
        (MemoryError(), "not enough memory"),
        (EOFError(), "unexpected end of input"),
        (ValueError("threads is 0, it must be at least 1."), "threads is 0"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug (unexpected; set VISIONWARD_DEBUG=1"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("red\x1b[31m and\ttabs"), "red [31m and tabs"),
    ],
)
def test_failures_of_the_guard(run, guard, error, fragment, extra):
    guard.enqueue(error)
    assert_one_line_error(run("classify", *PAIR, *PROMPT, *extra), fragment)
    assert guard.closed == 1


def test_a_reader_that_has_gone_ends_it_quietly(run, guard):
    guard.enqueue(BrokenPipeError(32, "Broken pipe"))
    result = run("classify", *PAIR, *PROMPT)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "")


def test_a_score_that_is_no_number_is_no_verdict(run, guard):
    guard.enqueue(dataclasses.replace(SAFE, score=float("nan")))
    assert_one_line_error(run("classify", *PAIR, *PROMPT, "--json"), "not JSON compliant")


def test_interrupt(run, guard):
    guard.enqueue(KeyboardInterrupt())
    result = run("classify", *PAIR, *PROMPT)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_traceback_on_request(run, guard, monkeypatch):
    monkeypatch.setenv("VISIONWARD_DEBUG", "1")
    guard.enqueue(ZeroDivisionError("a bug"))
    result = run("classify", *PAIR, *PROMPT)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ZeroDivisionError: a bug")


def test_a_file_name_that_is_no_unicode(run, tmp_path):
    name = (tmp_path / "\udcff.png").as_posix()
    result = run("classify", *PAIR, *PROMPT, "--image", name)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1

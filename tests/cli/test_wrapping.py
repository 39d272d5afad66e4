"""Text on a terminal: wrapped at spaces, with options, paths and commands whole."""

import os
import sys

import click
import pytest
from cli_program import COMMAND, environment
from hypothesis import given
from hypothesis import strategies as st

from visionward.cli.wrapping import wrapped

WORDS = st.lists(st.from_regex(r"[a-z/-]{1,12}", fullmatch=True), min_size=1, max_size=30)


@given(WORDS, st.integers(20, 100), st.sampled_from(["", "  ", "Note: "]))
def test_words_stay_whole(words, columns, start):
    line = start + " ".join(words)
    lines = list(wrapped(line, columns))
    assert [word for part in lines for word in part.split()] == line.split()
    # Only what is one word with its indentation may be too long.
    assert all(len(part) <= columns or len(part.split()) == 1 for part in lines)


@given(st.integers(10, 60))
def test_commands_are_not_broken(columns):
    command = "    visionward export-onnx models/mmproj-guard-Q8_0.gguf --type int8"
    assert list(wrapped(command, columns)) == [command]
    lines = list(wrapped("choose another one with `visionward use DIR` or none with `visionward use --none`", columns))
    assert any("`visionward use --none`" in line for line in lines)


def test_indentation():
    row = "  licence             "
    words = "a long sentence that does not fit into the width of the terminal"
    assert list(wrapped(row + words, 60)) == [
        row + "a long sentence that does not fit into",
        " " * len(row) + "the width of the terminal",
    ]
    # A narrow terminal has no room for it, nor for a long word.
    assert list(wrapped(row + words, 36)) == [
        "  licence",
        "    a long sentence that does not",
        "    fit into the width of the",
        "    terminal",
    ]
    path = "/a/path/that/is/too/long/for/the/second/column"
    assert list(wrapped(f"{row}{path} (tested)", 60)) == ["  licence", f"    {path} (tested)"]
    assert list(wrapped("  note: one two three four", 16)) == ["  note: one two", "  three four"]


def on_a_terminal(columns, *arguments):
    """What a command writes on a terminal of so many columns."""
    import pty  # noqa: PLC0415 - not on Windows

    mine, its = pty.openpty()
    actions = [(os.POSIX_SPAWN_DUP2, its, stream) for stream in (1, 2)]
    command = [*COMMAND, *map(str, arguments)]
    process = os.posix_spawnp(command[0], command, environment(COLUMNS=str(columns)), file_actions=actions)
    os.close(its)
    written = b""
    while True:
        try:
            data = os.read(mine, 10000)
        except OSError:  # how Linux says that the other end is closed
            break
        if not data:
            break
        written += data
    os.close(mine)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), written.decode().replace("\r\n", "\n")


@pytest.mark.skipif(sys.platform == "win32", reason="terminals")
@pytest.mark.parametrize("columns", [40, 80])
def test_an_error_and_help_on_a_terminal(columns):
    code, text = on_a_terminal(columns, "classify", "What is this?")
    assert code == 2
    assert text.startswith("error: no model was given")
    assert all(len(line) <= columns for line in text.splitlines())
    assert " ".join(text.split()).endswith("`visionward use DIR`, or use the demonstration guard: --demo")
    code, text = on_a_terminal(columns, "doctor", "--help")
    assert code == 0
    assert all(len(line) <= columns for line in text.splitlines())


def test_numbers_keep_their_units():
    line = "Time: 351 ms (vision 249 ms, 4 tiles on ggml; prompt 102 ms); model loaded in 57 ms"
    for columns in range(24, 90):
        lines = list(wrapped(line, columns))
        assert " ".join(lines) == line
        assert not any(part[-1].isdigit() for part in lines)


def test_colours_take_no_room():
    word = click.style("UNSAFE", fg="red", bold=True)
    line = f"   verdict:    {word}, S1 Violent Crimes (0.98), S10 Hate (1.00), P(unsafe) 1.000, 186 ms"
    plain = list(wrapped(click.unstyle(line), 40))
    assert list(wrapped(line, 40)) == [plain[0].replace("UNSAFE", word), *plain[1:]]
    assert len(plain) > 1

"""Arguments of classify without an option: the image is told from the text, and a missing photo is never text."""

import click
import pytest
from fake_guard import SAFE
from hypothesis import assume, given
from hypothesis import strategies as st

from visionward.cli import image_and_text
from visionward.cli.image_and_text import sort_arguments

PAIR = ("--model", "t.gguf", "--mmproj", "m.gguf")
TEXT = "What is this?"


@pytest.fixture
def folder(tmp_path, monkeypatch, picture):
    """The working folder, with files of several names."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "photo", "my holiday.png", "-"):
        (tmp_path / name).write_bytes(picture.read_bytes())
    (tmp_path / "pictures").mkdir()
    return tmp_path


def judged(guard):
    (asked,) = guard.history
    return asked["conversation"].images, asked["conversation"].texts


@pytest.mark.parametrize(
    ("arguments", "image", "text"),
    [
        (("photo.jpg", TEXT), "photo.jpg", TEXT),
        ((TEXT, "photo.jpg"), "photo.jpg", TEXT),
        (("photo", TEXT), "photo", TEXT),
        (("photo.jpg", "hello"), "photo.jpg", "hello"),
        (("my holiday.png",), "my holiday.png", None),
        ((TEXT,), None, TEXT),
        (("See example.com for more",), None, "See example.com for more"),
        (("photo.jpg", "--prompt", "hello"), "photo.jpg", "hello"),
        ((TEXT, "--image", "photo.jpg"), "photo.jpg", TEXT),
        (("--", "-x is a name", "photo.jpg"), "photo.jpg", "-x is a name"),
    ],
)
def test_what_reaches_the_guard(run, guard, folder, arguments, image, text):
    guard.enqueue(SAFE)
    result = run("classify", *PAIR, *arguments)
    assert result.exit_code == 0, result.stderr
    images, texts = judged(guard)
    assert [path.absolute() for path in images] == ([] if image is None else [folder / image])
    assert texts == (() if text is None else (text,))


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("hello",), "'hello' is not a file; if it is text, say --prompt hello"),
        (("nowhere.jpg",), "'nowhere.jpg' is not a file; if it is text, say --prompt nowhere.jpg"),
        (("nowhere.jpg", TEXT), "'nowhere.jpg' is not a file"),
        (("my weekend.PNG", TEXT), "'my weekend.PNG' is not a file"),
        (("phota.jpg", TEXT), "'phota.jpg' is not a file; did you mean photo.jpg?"),
        (("my holliday.png",), "did you mean 'my holiday.png'?"),
        (("my weekend", TEXT), "'my weekend' and 'What is this?' are 2 texts"),
        (("IMG_2003",), "'IMG_2003' is not a file"),
        (("no/such/photo",), "'no/such/photo' is not a file"),
        (("https://example.com/a",), "is a URL, and images are not downloaded"),
        (("pictures",), "'pictures' is a folder"),
        (("-",), "say --image - or --prompt -"),
        (("",), "an argument is empty"),
        (("photo.jpg", "phota.jpg"), "'phota.jpg' is not a file; did you mean photo.jpg?"),
        (("photo.jpg", "nowhere.jpg"), "'nowhere.jpg' is not a file"),
        (("photo.jpg", "pictures"), "'pictures' is a folder"),
        (("photo.jpg", "https://example.com/a"), "is a URL, and images are not downloaded"),
        (("photo.jpg", "photo"), "'photo.jpg' and 'photo' are 2 images"),
        ((TEXT, "and more text"), "'What is this?' and 'and more text' are 2 texts"),
        (("photo.jpg", "--image", "photo"), "'photo.jpg' and --image 'photo' exclude each other"),
        ((TEXT, "--prompt", "hello"), "'What is this?' and --prompt 'hello' exclude each other"),
        (("photo.jpg", TEXT, "more words"), "are 2 texts"),
        (("photo.jpg", "--conversation", "photo"), "--conversation excludes"),
        (("x" * 5000,), "say --prompt TEXT"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_is_refused(run, guard, arguments, fragment):
    result = run("classify", *PAIR, *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert fragment in result.stderr
    assert guard.loads == []


@given(st.text(max_size=30))
def test_whatever_is_not_an_existing_file_is_never_an_image(text):
    assume(not image_and_text._is_file(text))
    try:
        image, said = sort_arguments((text,))
    except click.UsageError:
        return
    assert (image, said) == (None, text)
    assert len(text.split()) > 1

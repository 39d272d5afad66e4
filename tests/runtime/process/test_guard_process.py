"""A guard in another process: the same verdicts and errors as in this one, and whatever ends it, never a verdict."""

import asyncio
import ctypes
import dataclasses
import inspect
import io
import logging
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from visionward import Conversation, Guard, GuardProcess
from visionward.errors import (
    ClassificationCancelledError,
    ComputeError,
    ContextLengthError,
    ConversationError,
    GuardProcessError,
    ImageError,
    ModelFileError,
    PolicyError,
    VisionwardError,
)
from visionward.runtime.cancellation import CancelToken
from visionward.runtime.guard.classify_keywords import ClassifyKeywords, JudgeKeywords
from visionward.runtime.process import supervisor

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals")
OPTIONS = {"n_ctx": 1024, "threads": 1, "image_cache_bytes": 0}
# Large enough for shared memory, and small enough to be quick.
PICTURE = np.random.default_rng(5).integers(0, 255, (70, 100, 3), np.uint8)
# Four tiles: it takes long enough to be disturbed.
LARGE = np.random.default_rng(6).integers(0, 255, (300, 300, 3), np.uint8)


@pytest.fixture(scope="module")
def pair(pair_of):
    return pair_of("plain", "f16")


@pytest.fixture(scope="module")
def here(pair):
    with Guard.load(pair.text, pair.mmproj, **OPTIONS) as guard:
        yield guard


@pytest.fixture(scope="module")
def there(pair):
    with GuardProcess.load(pair.text, pair.mmproj, **OPTIONS) as guard:
        yield guard


def untimed(verdict):
    return dataclasses.replace(verdict, timings_ms=None)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pil_images():
    picture = Image.fromarray(PICTURE)
    rgba = picture.convert("RGBA")
    rgba.putalpha(Image.fromarray(PICTURE[:, :, 0]))
    palette = picture.quantize(16)
    palette.info["transparency"] = 3
    wide = Image.fromarray(PICTURE[:, :, 0].astype(np.uint16) * 200)
    named = picture.copy()
    named.info["transparency"] = tuple(int(value) for value in PICTURE[0, 0])
    modes = {mode: picture.convert(mode) for mode in ("1", "L", "LA", "CMYK", "YCbCr", "HSV", "F", "I")}
    opened = Image.open(io.BytesIO(encoded(picture, "JPEG", exif=Image.Exif().tobytes())))
    png = Image.open(io.BytesIO(encoded(wide, "PNG")))
    rgba_palette = Image.open(io.BytesIO(encoded(rgba.quantize(16), "PNG")))
    own_palette = Image.new("P", (60, 40))
    own_palette.putpalette(bytes(range(256)) * 4, "RGBA")
    own_palette.putdata([index % 256 for index in range(60 * 40)])
    return {
        "RGB": picture, "RGBA": rgba, "palette": palette, "I;16": wide, "named colour": named, "JPEG": opened,
        "PNG of 16 bits": png, "PNG with a palette": rgba_palette, "palette with alpha": own_palette, **modes,
    }  # fmt: skip


PIL_IMAGES = pil_images()


@pytest.mark.parametrize("name", PIL_IMAGES)
def test_pil_images_are_the_same_in_both(here, there, name):
    def ask(guard):
        try:
            return untimed(guard.classify(image=PIL_IMAGES[name], prompt="Look"))
        except ImageError as error:
            return str(error)

    assert ask(there) == ask(here)


def calls():
    png = encoded(Image.fromarray(LARGE), "PNG")
    frames = [Image.fromarray(np.roll(PICTURE, shift, 0)) for shift in (0, 20, 40)]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    parts = [{"type": "text", "text": "Look"}, {"type": "image", "image": png}]
    return {
        "text": {"prompt": "Words"},
        "response": {"prompt": "Words", "response": "More words"},
        "array": {"image": LARGE, "prompt": "Look"},
        "a part of an array": {"image": LARGE[::2, ::-3], "prompt": "Look"},
        "grey": {"image": LARGE[:, :, 0], "prompt": "Look"},
        "bytes": {"image": png, "prompt": "Look"},
        "animation": {"image": animation, "prompt": "Look", "frames": 2},
        "messages": {"conversation": [{"role": "user", "content": parts}]},
        "conversation": {"conversation": Conversation.from_prompt("Look", image=LARGE)},
        "policy": {"prompt": "Words", "policy": {"S1": "Spoilers"}, "category_scores": True, "threshold": 0.9},
        "excluded": {"prompt": "Words", "exclude": (code for code in ("S1", "S3")), "imitation": "warn"},
    }


@pytest.mark.parametrize("name", calls())
def test_verdicts_are_the_same(here, there, name):
    assert untimed(there.classify(**calls()[name])) == untimed(here.classify(**calls()[name]))


def bad_calls():
    return {
        "nothing": ({}, ConversationError),
        "blank": ({"prompt": " "}, ConversationError),
        "both": ({"conversation": [], "prompt": "x"}, ConversationError),
        "damaged": ({"image": b"\xff\xd8" + b"x" * 100_000, "prompt": "Look"}, ImageError),
        "missing": ({"image": "missing.png", "prompt": "Look"}, ImageError),
        "array": ({"image": LARGE.astype(np.float32), "prompt": "Look"}, ImageError),
        "type": ({"image": 7, "prompt": "Look"}, ImageError),
        "category": ({"prompt": "x", "exclude": ["S99"]}, PolicyError),
        "threshold": ({"prompt": "x", "threshold": 2}, PolicyError),
        "frames": ({"prompt": "x", "frames": 0}, ValueError),
        "length": ({"prompt": "word " * 5000}, ContextLengthError),
        "keyword": ({"promt": "x"}, TypeError),
        "file": ({"image": "a.png", "prompt": "x", "allow_files": False}, ConversationError),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_errors_are_the_same(here, there, name):
    arguments, kind = bad_calls()[name]
    pid = there.pid
    with pytest.raises(kind) as wanted:
        here.classify(**arguments)
    with pytest.raises(kind) as found:
        there.classify(**arguments)
    assert type(found.value) is type(wanted.value)
    assert str(found.value) == str(wanted.value)
    assert there.pid == pid


def test_a_pil_image_with_several_frames_is_refused_as_in_this_process(here, there):
    animation = Image.open(io.BytesIO(calls()["animation"]["image"]))
    for guard in (here, there):
        with pytest.raises(ImageError, match=r"^the image: a PIL image with several frames"):
            guard.classify(image=animation, prompt="Look")


def test_relative_paths_are_relative_to_this_process(here, there, tmp_path, monkeypatch):
    wanted = here.classify(image=PICTURE, prompt="Look").score
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        Image.fromarray(PICTURE).save(f"{folder}.png")
        assert there.classify(image=f"{folder}.png", prompt="Look").score == wanted


def test_progress_and_logits(here, there):
    def ask(guard):
        reports, logits = [], []
        guard.classify(image=LARGE, prompt="Look", on_progress=reports.append, observe=logits.append)
        return reports, logits

    (reports, logits), (wanted_reports, wanted_logits) = ask(there), ask(here)
    assert reports == wanted_reports
    assert len(reports) > 5
    assert np.array_equal(logits, wanted_logits)


def test_the_progress_of_loading(pair, tmp_path, monkeypatch):
    found = []
    for kind in (Guard, GuardProcess):
        reports = []
        # Where it is noted which files were checked.
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / kind.__name__))
        with kind.load(pair.text, pair.mmproj, on_progress=reports.append, **OPTIONS):
            found.append({(report.stage, report.total) for report in reports})
    assert found[0] == found[1]
    assert dict(found[0])["checking files"] > 1_000_000


def test_log_lines_come_to_this_process(pair, caplog, capfd):
    found = []
    for kind in (Guard, GuardProcess):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "visionward"), kind.load(pair.text, pair.mmproj, **OPTIONS) as guard:
            guard.classify(prompt="Words")
        lines = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
        found.append({line for line in lines if line[0] == "visionward.native" and "general." in line[2]})
    assert found[0] == found[1]
    assert len(found[0]) > 3
    caplog.clear()
    with GuardProcess.load(pair.text, pair.mmproj, **OPTIONS):
        assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_the_interface_is_the_guards():
    own = {"pid"}
    public = {name for name in vars(GuardProcess) if not name.startswith("_")}
    assert public - own == {name for name in vars(Guard) if not name.startswith("_")}
    keywords = {*ClassifyKeywords.__annotations__, "cancel"}
    assert keywords == {*inspect.signature(Guard.classify).parameters} - {"self", "conversation"}
    assert JudgeKeywords.__annotations__.items() <= ClassifyKeywords.__annotations__.items()


class Bomb:
    """Runs a function in the process that unpickles it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@posix
@pytest.mark.parametrize(
    ("bomb", "how"),
    [
        (Bomb(os.abort), "SIGABRT"),
        (Bomb(ctypes.string_at, 0), "SIGSEGV"),
        (Bomb(os._exit, 3), "exit code 3"),
        (Bomb(signal.raise_signal, signal.SIGKILL), "SIGKILL, by which the system ends processes when memory runs out"),
    ],
)
def test_a_crash_ends_one_call(here, there, bomb, how):
    wanted = untimed(here.classify(prompt="Words"))
    assert untimed(there.classify(prompt="Words")) == wanted
    pid = there.pid
    with pytest.raises(GuardProcessError, match=rf"ended while classifying \({how}: no output\)"):
        there.classify(prompt=bomb)
    assert untimed(there.classify(prompt="Words")) == wanted
    assert there.pid != pid


@posix
def test_the_last_lines_are_quoted(there, capfd):
    with pytest.raises(GuardProcessError, match=r"\(SIGABRT: ggml\.c:1: GGML_ASSERT\(x\) failed\)"):
        there.classify(prompt=[Bomb(os.write, 2, b"ggml.c:1: GGML_ASSERT(x) failed\n"), Bomb(os.abort)])
    assert capfd.readouterr() == ("", "")


UNREADABLE_ANSWERS = """
setattr(
    __import__("visionward.runtime.process.child", fromlist=["child"]),
    "Judged",
    lambda _: type("Unreadable", (), {"__reduce__": lambda _: (divmod, (1, 0))})(),
) or "Words"
"""


def test_an_answer_that_cannot_be_read(there):
    there.classify(prompt="Words")
    pid = there.pid
    with pytest.raises(GuardProcessError, match=r"sent what cannot be read while classifying \(integer"):
        there.classify(prompt=Bomb(eval, UNREADABLE_ANSWERS.strip()))
    there.classify(prompt="Words")
    assert there.pid != pid


def killing(guard, sent=signal.SIGKILL):
    """A progress callback that kills the process at the first report, in the middle of the computation."""

    def kill(_progress):
        if kill.armed:
            kill.armed = False
            os.kill(guard.pid, sent)

    kill.armed = True
    return kill


@posix
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_calls_that_wait_behind_a_crash_are_judged(here, there, sent):
    wanted = untimed(here.classify(prompt="Words", image=PICTURE))
    kill, found = killing(there, sent), []
    queued = [threading.Thread(target=lambda: found.append(there.classify(prompt="Words", image=PICTURE)))] * 1
    queued += [threading.Thread(target=lambda: found.append(there.classify(prompt="Words", image=PICTURE)))] * 1

    def start_then_kill(progress):
        if kill.armed:
            for thread in queued:
                thread.start()
        kill(progress)

    with pytest.raises(GuardProcessError, match=signal.Signals(sent).name):
        there.classify(image=LARGE, prompt="Look", on_progress=start_then_kill)
    for thread in queued:
        thread.join(60)
    assert [untimed(verdict) for verdict in found] == [wanted, wanted]


@posix
def test_a_hang_ends_at_the_deadline(pair, here):
    with GuardProcess.load(pair.text, pair.mmproj, deadline_s=2, **OPTIONS) as guard:
        started = time.monotonic()
        with pytest.raises(GuardProcessError, match="did not finish classifying within 2 s"):
            guard.classify(image=LARGE, prompt="Look", on_progress=killing(guard, signal.SIGSTOP))
        assert 1 < time.monotonic() - started < 10
        assert untimed(guard.classify(prompt="Words")) == untimed(here.classify(prompt="Words"))


@posix
def test_a_process_that_ended_between_two_calls_is_replaced(there):
    there.classify(prompt="Words")
    pid = there.pid
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    there.classify(prompt="Words")
    assert there.pid != pid


def test_cancelled_while_it_computes(there):
    there.classify(prompt="Words")
    cancel, pid = CancelToken(), there.pid
    with pytest.raises(ClassificationCancelledError):
        there.classify(image=LARGE, prompt="Look", on_progress=lambda _: cancel.cancel(), cancel=cancel)
    there.classify(prompt="Words")
    assert there.pid == pid


def test_what_a_callback_raises_ends_the_call(there):
    there.classify(prompt="Words")
    pid = there.pid
    with pytest.raises(ZeroDivisionError):
        there.classify(image=LARGE, prompt="Look", on_progress=lambda _: 1 / 0)
    there.classify(prompt="Words")
    assert there.pid == pid


@posix
def test_a_process_that_does_not_stop_when_it_is_cancelled_is_ended(there, monkeypatch):
    monkeypatch.setattr(supervisor, "CANCEL_GRACE_S", 0.5)
    cancel, stop = CancelToken(), killing(there, signal.SIGSTOP)

    def report(progress):
        stop(progress)
        cancel.cancel()

    with pytest.raises(ClassificationCancelledError):
        there.classify(image=LARGE, prompt="Look", on_progress=report, cancel=cancel)
    there.classify(prompt="Words")


def test_from_asyncio(here, there):
    async def run():
        verdicts = await asyncio.gather(*(there.aclassify(prompt=f"Words {index}") for index in range(4)))
        task = asyncio.create_task(there.aclassify(image=LARGE, prompt="Look"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return verdicts

    found = asyncio.run(run())
    assert [untimed(one) for one in found] == [untimed(here.classify(prompt=f"Words {index}")) for index in range(4)]


def test_what_cannot_be_pickled_is_refused_with_a_sentence(there):
    pid = there.pid
    with pytest.raises(GuardProcessError, match=r"^the arguments cannot be sent to the guard's process \(.*\); give"):
        there.classify(prompt=lambda: "x")
    module = type(sys)("nowhere_to_be_found")
    exec("class Text(str): pass", vars(module))  # noqa: S102
    sys.modules["nowhere_to_be_found"] = module
    try:
        with pytest.raises(
            GuardProcessError, match=r"^the arguments cannot be read in the guard's process \(No module"
        ):
            there.classify(prompt=module.Text("x"))
    finally:
        del sys.modules["nowhere_to_be_found"]
    assert there.pid == pid


def test_files_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ModelFileError) as wanted:
        Guard.load(tmp_path / "a.gguf", tmp_path / "b.gguf")
    with pytest.raises(ModelFileError) as found:
        GuardProcess.load(tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert str(found.value) == str(wanted.value)


def test_options_are_checked_before_a_process_is_started(monkeypatch):
    monkeypatch.setattr(supervisor, "ChildProcess", None)
    with pytest.raises(ValueError, match="threads is 0"):
        GuardProcess.load("a.gguf", "b.gguf", threads=0)
    with pytest.raises(ValueError, match="deadline_s is 0"):
        GuardProcess.load("a.gguf", "b.gguf", deadline_s=0)


@posix
def test_failed_starts_are_bounded(pair, tmp_path, monkeypatch):
    for path in (pair.text, pair.mmproj):
        os.link(path, tmp_path / path.name)
    text = tmp_path / pair.text.name
    with GuardProcess.load(text, tmp_path / pair.mmproj.name, **OPTIONS) as guard:
        text.rename(tmp_path / "away")
        os.kill(guard.pid, signal.SIGKILL)
        time.sleep(0.2)
        for _ in range(supervisor.MAX_FAILED_STARTS):
            assert guard.is_available
            with pytest.raises(ModelFileError):
                guard.classify(prompt="Words")
        assert not guard.is_available
        started = time.monotonic()
        with pytest.raises(
            GuardProcessError, match=r"failed to start 3 times in a row \(.*; the next attempt is made 30"
        ):
            guard.classify(prompt="Words")
        assert time.monotonic() - started < 0.1
        (tmp_path / "away").rename(text)
        monkeypatch.setattr(supervisor.time, "monotonic", lambda base=time.monotonic: base() + supervisor.RETRY_AFTER_S)
        assert guard.is_available
        guard.classify(prompt="Words")
    assert not guard.is_available


def test_after_closing(pair):
    guard = GuardProcess.load(pair.text, pair.mmproj, **OPTIONS)
    guard.close()
    guard.close()
    assert guard.pid is None
    with pytest.raises(ComputeError, match="was closed"):
        guard.classify(prompt="Words")


def test_every_error_of_ours_survives_pickling():
    """Those of visionward.errors: others, such as the server's, stay in the process that raises them."""
    kinds = [VisionwardError]
    for kind in kinds:
        kinds += [one for one in kind.__subclasses__() if one.__module__ == VisionwardError.__module__]
        error = pickle.loads(pickle.dumps(kind("a sentence.")))  # noqa: S301
        assert (type(error), str(error)) == (kind, "a sentence.")
    assert len(kinds) > 14

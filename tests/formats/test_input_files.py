"""Whatever path somebody names: only regular files are opened, and texts only up to a bound."""

import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from visionward import Conversation, Engine, Policy
from visionward.cli.main import cli
from visionward.compare.datasets import read_dataset
from visionward.compare.models import file_identity
from visionward.convert import ConvertedPair, convert_checkpoint
from visionward.convert.onnx_file import export_tower
from visionward.diagnose.benchmark_comparison import read_benchmark
from visionward.diagnose.logits_files import read_tiles
from visionward.errors import CheckpointError, ConversationError, DataError, PolicyError, VisionwardError
from visionward.formats import text_lines
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.imatrix_file import read_imatrix
from visionward.formats.onnx_format import data_path, read_identity
from visionward.quant.quantize import quantize_file
from visionward.runtime.guard.samples import read_samples

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="FIFOs, sockets and devices with names")
SPECIAL = ("fifo", "link to a fifo", "socket", "/dev/zero", "/dev/null", "pipe of a shell")

READERS: dict[str, Callable[[Path], object]] = {
    "conversation": Conversation.from_file,
    "policy": Policy.from_file,
    "samples": read_samples,
    "GGUF": GgufHeader,
    "importance matrix": read_imatrix,
    "preprocessed picture": read_tiles,
    "benchmark": read_benchmark,
    "compared file": file_identity,
    "tower": read_identity,
    "mmproj to export": export_tower,
}
CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.json",
)


@pytest.fixture(params=SPECIAL)
def special(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A path that is not a regular file."""
    fifo, link, address = tmp_path / "fifo", tmp_path / "link", tmp_path / "socket"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    monkeypatch.chdir(tmp_path)  # addresses of sockets are short
    reading, writing = os.pipe()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address.name)
        paths = {"fifo": fifo, "link to a fifo": link, "socket": address, "pipe of a shell": f"/dev/fd/{reading}"}
        yield Path(paths.get(request.param, request.param))
    os.close(reading)
    os.close(writing)


def refusal(call: Callable[[], object]) -> str:
    """The sentence of an error of ours; fails where the call hangs."""
    raised: list[BaseException | None] = []

    def work() -> None:
        try:
            call()
        except VisionwardError as error:
            raised.append(error)
        except BaseException as error:
            raised.append(error)
            raise

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert raised, "it hangs, or nothing was wrong"
    assert isinstance(raised[0], VisionwardError), raised[0]
    message = str(raised[0])
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_regular_file(special: Path, kind: str) -> None:
    message = refusal(partial(READERS[kind], special))
    assert str(special) in message
    assert "not a regular file" in message


def test_a_pair(special: Path, tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    for text, mmproj in ((special, tiny_pair.mmproj), (tiny_pair.text, special)):
        assert "not a regular file" in refusal(partial(Engine, text, mmproj, n_ctx=64, threads=1))
    assert "not a regular file" in refusal(partial(quantize_file, special, tmp_path / "out.gguf", "q8_0"))


def test_a_towers_weights(tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    tower = export_tower(tiny_pair.mmproj, tmp_path / "vision-x.onnx")
    data_path(tower).unlink()
    os.mkfifo(data_path(tower))
    assert "is not a regular file" in refusal(partial(read_identity, tower))


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_checkpoint(tiny_checkpoint_dir: Path, tmp_path: Path, name: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint_dir, checkpoint)
    (checkpoint / name).unlink()
    os.mkfifo(checkpoint / name)
    message = refusal(partial(convert_checkpoint, checkpoint, tmp_path / "out"))
    assert f"{name}: cannot be read: not a regular file" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "chat_template.jinja"])
def test_a_checkpoint_in_parts(tiny_checkpoint_dir: Path, tmp_path: Path, name: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint_dir, checkpoint)
    for absent in ("model.safetensors", "chat_template.json"):
        if name.split(".", maxsplit=1)[0] == absent.split(".")[0]:
            (checkpoint / absent).unlink()
    os.mkfifo(checkpoint / name)
    message = refusal(partial(convert_checkpoint, checkpoint, tmp_path / "out"))
    assert f"{name}: cannot be read: not a regular file" in message


@pytest.mark.parametrize("name", ["README.md", "LICENSE"])
def test_what_a_checkpoint_need_not_have(tiny_checkpoint_dir: Path, tmp_path: Path, name: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint_dir, checkpoint)
    os.mkfifo(checkpoint / name)
    done: list[ConvertedPair] = []
    thread = threading.Thread(target=lambda: done.append(convert_checkpoint(checkpoint, tmp_path / "out")), daemon=True)
    thread.start()
    thread.join(20)
    assert done


@pytest.mark.parametrize(
    ("form", "place"),
    [
        ("xstest", "xstest_prompts.csv"),
        ("hateful-memes", "dev.jsonl"),
        ("vlguard", "test.json"),
        ("wildguardmix", "test.parquet"),
    ],
)
def test_a_public_set(tmp_path: Path, form: str, place: str) -> None:
    os.mkfifo(tmp_path / place)
    assert "not a regular file" in refusal(partial(read_dataset, tmp_path, form, tmp_path / "scratch"))


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--image", "pipe it into standard input and use -"),
        ("--conversation", "pipe it into standard input and use -"),
        ("--categories", "save its output in one first"),
    ],
)
def test_on_the_command_line(special: Path, option: str, instead: str) -> None:
    result = CliRunner().invoke(cli, ["classify", "--demo", "--prompt", "Look", option, str(special)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"is a pipe or a device, but only regular files are read: {instead}" in result.stderr


def test_a_redirected_standard_input_is_a_regular_file(tmp_path: Path) -> None:
    """What the system calls /dev/fd/3 may be a file all the same."""
    path = tmp_path / "chat.json"
    path.write_text('[{"role": "user", "content": "Hello"}]')
    with path.open("rb") as file:
        assert Conversation.from_file(f"/dev/fd/{file.fileno()}") == Conversation.from_file(path)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("path", ["/proc/self/maps", "/proc/self/mem", "/proc/kcore", "/proc/kmsg", "/proc/cpuinfo"])
@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "compared file"])
def test_files_of_the_system(kind: str, path: str) -> None:
    """They say that they are regular and have no bytes."""
    refusal(partial(READERS[kind], Path(path)))


# Bounds.


@pytest.mark.parametrize(
    ("read", "most"), [(Conversation.from_file, 256), (Policy.from_file, 1)], ids=["conversation", "policy"]
)
@pytest.mark.parametrize("nbytes", [1, 50 * 2**30])
def test_a_text_that_is_too_large(tmp_path: Path, read: Callable[[Path], object], most: int, nbytes: int) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(most * 2**20 + nbytes)
    with pytest.raises((ConversationError, PolicyError), match=rf"large\.json: larger than the maximum of {most} MiB"):
        read(path)


def test_a_policy_of_the_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    content = json.dumps({"S1": "Spoilers"})
    path.write_text(content + " " * (2**20 - len(content)))
    assert Policy.from_file(path).codes == ("S1",)


def test_a_checkpoints_settings_that_are_too_large(tiny_checkpoint_dir: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint_dir, checkpoint)
    os.truncate(checkpoint / "tokenizer.json", 2**28 + 1)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: cannot be read: larger than the maximum of 256 MiB"):
        convert_checkpoint(checkpoint, tmp_path / "out")


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "samples.jsonl"
    line = json.dumps({"prompt": "Look"})
    path.write_text(f"{line}\n\n{line:<99}\n{line}")
    assert len(read_samples(path)) == 3
    monkeypatch.setattr(text_lines, "MAX_CHARACTERS", 99)
    with pytest.raises(DataError, match=r"samples\.jsonl: line 3 has more than 99 characters"):
        read_samples(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_do_in_texts(tmp_path: Path, end: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (json.dumps({"prompt": "Look"}) + end).encode() * 3)
    assert [sample.id for sample in read_samples(path)] == ["line 1", "line 2", "line 3"]

"""Whatever happens to the child that quantizes, the caller lives, knows why, and no half file has the final name."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from visionward.convert import convert_checkpoint
from visionward.errors import ComputeError, QuantizeError
from visionward.quant.native_job import run_in_child
from visionward.quant.quantize import quantize_file

ROOT = Path(__file__).parents[2]


def send_some(first, second, send):
    os.write(1, b"printed by the child\n")
    send(first)
    send(second)


def fail(send):
    send("before")
    raise ComputeError("it was too hard.")


def abort(_send):
    os.write(2, b"ggml.c:123: GGML_ASSERT(nothing) failed\n")
    os.abort()


def leave(_send):
    os._exit(3)


def raise_unexpectedly(_send):
    raise KeyError("what")


def wait_forever(send):
    send(os.getpid())
    time.sleep(600)


def test_what_is_sent_arrives_in_order(capfd):
    received = []
    run_in_child("counting", send_some, ({"a": 1}, "b"), received.append)
    assert received == [{"a": 1}, "b"]
    assert capfd.readouterr() == ("", "")


def test_errors_of_ours_come_back():
    received = []
    with pytest.raises(QuantizeError, match=r"^it was too hard\.$"):
        run_in_child("computing", fail, (), received.append)
    assert received == ["before"]


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (abort, r"the job failed \(SIGABRT\): ggml\.c:123: GGML_ASSERT\(nothing\) failed\."),
        (leave, r"the job failed \(exit code 3\): no output\."),
        (raise_unexpectedly, r"the job failed \(exit code 1\): .*KeyError: 'what'"),
    ],
)
def test_a_crash_is_reported_with_the_last_lines(job, message):
    with pytest.raises(QuantizeError, match=message):
        run_in_child("the job", job, (), lambda _message: None)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{process}/stat").exists() or " Z " not in Path(f"/proc/{process}/stat").read_text()


def gone(process):
    for _ in range(100):
        if not alive(process):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_receive_raises_ends_the_child(error):
    children = []

    def receive(process):
        children.append(process)
        raise error

    with pytest.raises(error):
        run_in_child("waiting", wait_forever, (), receive)
    assert gone(children[0])


def test_llama_cpps_log_is_routed(f16_pair, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG, "visionward.native")
    quantize_file(f16_pair.text, tmp_path / "t.gguf", "q4_0", threads=1)
    lines = [record.getMessage() for record in caplog.records if record.name == "visionward.native"]
    assert any("quant size" in line for line in lines)
    assert sum("token_embd.weight" in line for line in lines) == 1
    assert capfd.readouterr() == ("", "")


def test_full_disk_is_found_before_writing(f16_pair, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=100_000)
    monkeypatch.setattr("visionward.formats.output_file.shutil.disk_usage", lambda _path: usage)
    for source in (f16_pair.text, f16_pair.mmproj):
        with pytest.raises(OSError, match=r"the files need .* MB and the disk has 100 kB free"):
            quantize_file(source, tmp_path / "q.gguf", "q4_0", threads=1)
    assert not list(tmp_path.iterdir())


QUANTIZE_SLOWLY = """
import sys, time
from pathlib import Path
from visionward.quant.quantize import quantize_file
def slow(progress):
    if progress.stage == "quantizing" and progress.done:
        print("reached", flush=True)
        time.sleep(600)
quantize_file(Path(sys.argv[1]), Path(sys.argv[2]), "q4_0", threads=1, on_progress=slow)
"""


def children_of(process):
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("which", ["text", "mmproj"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_on_the_way(f16_pair, tmp_path, which, how):
    script, target = tmp_path / "slow.py", tmp_path / "out" / "q.gguf"
    script.write_text(QUANTIZE_SLOWLY)
    process = subprocess.Popen(
        [sys.executable, str(script), str(getattr(f16_pair, which)), str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"reached"
    children = children_of(process.pid)
    process.send_signal(how)
    process.wait(30)
    process.stdout.close()
    assert all(gone(child) for child in children)
    left = [path.name for path in target.parent.iterdir()]
    if how == signal.SIGINT:
        assert not left
    else:
        assert len(left) == 1
        assert left[0].startswith(".q.gguf.")
    quantize_file(getattr(f16_pair, which), target, "q4_0", threads=1)
    assert [path.name for path in target.parent.iterdir()] == ["q.gguf"]


def test_a_conversion_that_fails_while_quantizing_leaves_nothing(wide_checkpoint, tmp_path):
    def interrupted(progress):
        if progress.stage == "quantizing" and progress.done > progress.total * 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(wide_checkpoint, tmp_path, text_type="q4_k_m", on_progress=interrupted)
    assert not list(tmp_path.iterdir())

"""The guard's process begins and ends with the program that uses it, whatever that is, and leaves nothing behind."""

import contextlib
import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionward import GuardProcess
from visionward.errors import ComputeError, GuardProcessError

ROOT = Path(__file__).parents[3]
OPTIONS = {"n_ctx": 1024, "threads": 1}
RNG = np.random.default_rng(1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def png():
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (100, 100, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


PNG = png()

# Without `if __name__ == "__main__":`, and with what can go wrong.
PROGRAM = """
import os, sys
import visionward
with open("runs", "a") as file:
    file.write("x")
kind = getattr(visionward, sys.argv[1])
try:
    kind.load("missing.gguf", sys.argv[3])
    os._exit(6)
except visionward.ModelFileError:
    pass
with kind.load(sys.argv[2], sys.argv[3], n_ctx=1024, threads=1) as guard:
    guard.classify(image="picture.png", prompt="Look")
    guard.classify(prompt="Words", category_scores=True)
    for arguments in ({}, {"image": "missing.png"}, {"image": b"damaged"}, {"prompt": "word " * 5000}):
        try:
            guard.classify(**arguments)
            os._exit(7)
        except visionward.VisionwardError:
            pass
    assert [result.error is None for result in guard.classify_batch([{"prompt": "a"}, {"prompt": ""}])] == [True, False]
    if sys.argv[1] == "GuardProcess":
        os.kill(guard.pid, 11)
"""


def run(program, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def pair(pair_of):
    return pair_of("plain", "f16")


@pytest.mark.parametrize("kind", ["Guard", "GuardProcess"])
def test_nothing_is_written_and_the_program_runs_once(pair, tmp_path, kind):
    Image.new("RGB", (90, 70), "teal").save(tmp_path / "picture.png")
    done = run(PROGRAM, kind, pair.text, pair.mmproj, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "runs").read_text() == "x"


BUSY = """
import signal, sys, time
import numpy as np
from visionward import GuardProcess
guard = GuardProcess.load(sys.argv[1], sys.argv[2], n_ctx=1024, threads=1)
picture = np.zeros((300, 300, 3), np.uint8)
def reached(_progress):
    print(guard.pid, flush=True)
    {then}
guard.classify(image=picture, prompt="Look", on_progress=reached)
"""


def has_ended(pid):
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" in status.read_text()
    except OSError:
        return True


@linux
@pytest.mark.parametrize(
    "then", ["time.sleep(600)", "import os; os._exit(0)", "signal.raise_signal(signal.SIGKILL)", "sys.exit()"]
)
def test_the_process_ends_with_the_program(pair, tmp_path, then):
    command = [sys.executable, "-c", BUSY.format(then=then), str(pair.text), str(pair.mmproj)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=environment, text=True) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        if "sleep" in then:
            program.kill()
    deadline = time.monotonic() + 10
    while not has_ended(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def descriptors():
    """What each open descriptor is of; the one that lists them is closed again."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(path.name)] = str(path.readlink())
    return found


@linux
def test_nothing_is_left_after_closing(pair):
    """Neither descriptors nor threads. The shared memory has no name, so it is gone with its descriptors."""
    before, threads = descriptors(), set(threading.enumerate())
    for _ in range(3):
        guard = GuardProcess.load(pair.text, pair.mmproj, **OPTIONS)
        guard.classify(image=PNG, prompt="Look")
        os.kill(guard.pid, signal.SIGKILL)
        guard.close()
    time.sleep(0.2)
    assert set(descriptors().values()) == set(before.values())
    assert set(threading.enumerate()) <= threads


@linux
def test_the_image_does_not_stay_in_shared_memory(pair):
    with GuardProcess.load(pair.text, pair.mmproj, **OPTIONS) as guard:
        guard.classify(image=PNG, prompt="Look")
        (shared,) = [number for number, name in descriptors().items() if "memfd:visionward" in name]
        assert os.fstat(shared).st_size == 0


@linux
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_copy_of_the_program(pair):
    with GuardProcess.load(pair.text, pair.mmproj, **OPTIONS) as guard:
        wanted = guard.classify(prompt="Words").score
        copy = os.fork()
        if copy == 0:
            try:
                guard.classify(prompt="Words")
            except ComputeError as error:
                guard.close()
                os._exit(7 if "another process" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 7
        assert guard.classify(prompt="Words").score == wanted


@linux
@pytest.mark.parametrize("closed", [(0,), (0, 1, 2)])
def test_a_program_without_standard_streams(pair, tmp_path, closed):
    program = f"""
import os, sys
import numpy as np
for descriptor in {closed}:
    os.close(descriptor)
from visionward import GuardProcess
with GuardProcess.load(sys.argv[1], sys.argv[2], n_ctx=1024, threads=1) as guard:
    mass = guard.classify(image=np.zeros((100, 100, 3), np.uint8), prompt="Look").answer_mass
os._exit(7 if mass > 0 else 8)
"""
    assert run(program, pair.text, pair.mmproj, cwd=tmp_path).returncode == 7


def judge_in_a_process_of_multiprocessing(text, mmproj, queue):
    with GuardProcess.load(text, mmproj, **OPTIONS) as guard:
        queue.put(guard.classify(image=PNG, prompt="Look").score)


def test_inside_a_process_of_multiprocessing(pair):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(
        target=judge_in_a_process_of_multiprocessing, args=(pair.text, pair.mmproj, queue), daemon=True
    )
    process.start()
    found = queue.get()
    process.join(60)
    with GuardProcess.load(pair.text, pair.mmproj, **OPTIONS) as guard:
        assert guard.classify(image=PNG, prompt="Look").score == found


def test_a_frozen_program_supports_freezing_or_names_an_interpreter(pair, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(GuardProcessError, match=r"could not be started \(.*freeze_support\(\)"):
        GuardProcess.load(pair.text, pair.mmproj, **OPTIONS)
    interpreter, program = sys.executable, multiprocessing.spawn.get_executable()
    monkeypatch.setattr(sys, "executable", "/usr/bin/the-program")
    multiprocessing.set_executable(interpreter)
    try:
        with GuardProcess.load(pair.text, pair.mmproj, **OPTIONS) as guard:
            assert guard.classify(prompt="Words").answer_mass > 0
    finally:
        multiprocessing.set_executable(program)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_service_manager_that_stops_every_process(pair):
    """The program decides what becomes of the calls that run."""
    with GuardProcess.load(pair.text, pair.mmproj, **OPTIONS) as guard:
        pid = guard.pid
        for sent in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, sent)
        guard.classify(prompt="Words")
        assert guard.pid == pid


def check_random_kills(pair, seed, times):
    rng = random.Random(seed)
    with GuardProcess.load(pair.text, pair.mmproj, image_cache_bytes=0, **OPTIONS) as guard:
        wanted = guard.classify(image=PNG, prompt="Look").score
        left, outcome = iter(range(times)), []

        def classify():
            for _ in left:
                try:
                    outcome.append(guard.classify(image=PNG, prompt="Look").score)
                except GuardProcessError as error:
                    outcome.append(str(error))

        threads = [threading.Thread(target=classify) for _ in range(3)]
        for thread in threads:
            thread.start()
        kills = 0
        while any(thread.is_alive() for thread in threads):
            time.sleep(rng.uniform(0, 1.0))
            if (pid := guard.pid) is not None:
                os.kill(pid, rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
                kills += 1
        texts = [one for one in outcome if isinstance(one, str)]
        assert len(outcome) == times
        assert [one for one in outcome if not isinstance(one, str)] == [wanted] * (times - len(texts))
        assert all("ended while" in text or "times in a row" in text for text in texts)
        assert kills > 0
        # The last kill may come after the last answer, and end the next call.
        with contextlib.suppress(GuardProcessError):
            guard.classify(prompt="Words")
        guard.classify(prompt="Words")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_times_by_several_threads(pair, seed, monkeypatch):
    monkeypatch.setattr("visionward.runtime.process.supervisor.RETRY_AFTER_S", 0.0)
    check_random_kills(pair, seed, 60)

"""A function in another process: whatever the caller is, its own script does not run again."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from visionward.machine.python_process import PythonProcess, exit_text

ROOT = Path(__file__).parents[2]


def report(sender):
    flags = {name: getattr(sys.flags, name) for name in ("isolated", "ignore_environment", "no_site", "optimize")}
    sender.send({"path": sys.path, "main": vars(sys.modules["__main__"]).get("__file__"), "flags": flags})


def print_and_answer(text, sender):
    os.write(1, b"by descriptor\n")
    print("by print", flush=True)  # noqa: T201
    sender.send(text)


def answer_late(sender):
    sender.send("first")
    time.sleep(60)


def answer_from_threads(count, sender):
    threads = [
        threading.Thread(target=lambda n=n: [sender.send((n, "x" * 5000)) for _ in range(20)]) for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def open_a_file(path, sender):
    with open(path, "wb") as file:  # noqa: PTH123
        os.write(2, b"an assertion")
        sender.send(file.fileno())


def stay(sender):
    sender.send(os.getpid())
    while True:
        time.sleep(1)


def echo(connection):
    connection.send("ready")
    while (message := connection.receive()) != "end":
        connection.send(message)


def everything(process):
    messages = []
    try:
        while True:
            messages.append(process.receive())
    except EOFError:
        return messages


@pytest.fixture
def start():
    processes = []

    def make(job, *arguments, errors=subprocess.DEVNULL):
        processes.append(PythonProcess(job, arguments, errors))
        return processes[-1]

    yield make
    for process in processes:
        process.close()


def test_messages_and_exit_code(start, capfd):
    process = start(print_and_answer, {"a": (1, None)})
    assert everything(process) == [{"a": (1, None)}]
    assert process.wait() == 0
    with pytest.raises(EOFError):
        process.receive(0)
    assert capfd.readouterr() == ("", "")


def test_messages_to_the_job(start):
    process = start(echo)
    assert process.receive(60) == "ready"
    for message in (1, "x" * 1_000_000, None):
        process.send(message)
        assert process.receive(60) == message
    process.send("end")
    assert everything(process) == []
    assert process.wait() == 0
    with pytest.raises(BrokenPipeError):
        process.send("too late")


def test_what_it_prints_goes_to_errors(start, tmp_path):
    with (tmp_path / "printed").open("w+b") as file:
        assert everything(start(print_and_answer, "x", errors=file)) == ["x"]
    assert (tmp_path / "printed").read_text() == "by descriptor\nby print\n"


def test_time_runs_out(start):
    process = start(answer_late)
    assert process.receive(60) == "first"
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        process.receive(0.3)
    assert 0.3 <= time.monotonic() - started < 5
    assert process.wait(0) is None


def test_messages_of_several_threads_stay_whole(start):
    messages = everything(start(answer_from_threads, 8))
    assert sorted(number for number, _ in messages) == sorted([*range(8)] * 20)


def test_a_function_that_cannot_be_imported(start, tmp_path):
    module = type(sys)("nowhere_to_be_found")
    exec("def job(sender): pass", vars(module))  # noqa: S102
    sys.modules["nowhere_to_be_found"] = module
    try:
        with (tmp_path / "printed").open("w+b") as file:
            process = start(module.job, errors=file)
            assert everything(process) == []
            assert process.wait() == 1
    finally:
        del sys.modules["nowhere_to_be_found"]
    assert "No module named 'nowhere_to_be_found'" in (tmp_path / "printed").read_text()


def test_what_cannot_be_pickled_starts_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(Exception, match="pickle"):
        PythonProcess(report, (lambda: None,), None)


def test_a_large_argument_for_a_process_that_is_dead(start, monkeypatch):
    monkeypatch.setattr("visionward.machine.python_process._BOOTSTRAP", "import os; os._exit(7)")
    process = start(print_and_answer, "x" * 10_000_000)
    assert everything(process) == []
    assert process.wait() == 7


def test_a_frozen_program_is_not_started_again(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(OSError, match=r"call visionward\.freeze_support\(\) at the start of its main module"):
        PythonProcess(report, (), None)


CALLER = """
import json, subprocess, sys
from pathlib import Path
with Path(sys.argv[1]).open("a") as file:
    file.write("run\\n")
from visionward.machine.python_process import PythonProcess
import jobs_of_the_caller
process = PythonProcess(jobs_of_the_caller.job, (2,), None)
answer = process.receive(60)
process.close()
print(json.dumps(answer))
"""
JOBS = """
import sys
def job(number, sender):
    sender.send([number + 1, "runs" in dir(sys.modules["__main__"]), sys.flags.isolated, sys.flags.no_site,
                 sys.flags.ignore_environment, sys.flags.optimize])
"""
AS_SCRIPT, AS_COMMAND, AS_INPUT, AS_EXEC = "script", "-c", "standard input", "exec"


@pytest.mark.parametrize(
    ("how", "options", "flags"),
    [
        (AS_SCRIPT, (), [0, 0, 0, 0]),
        (AS_SCRIPT, ("-OO", "-E"), [0, 0, 1, 2]),
        (AS_SCRIPT, ("-I", "-S"), [1, 1, 1, 0]),
        (AS_COMMAND, (), [0, 0, 0, 0]),
        (AS_INPUT, (), [0, 0, 0, 0]),
        (AS_EXEC, (), [0, 0, 0, 0]),
    ],
)
def test_a_caller_without_a_main_guard(tmp_path, how, options, flags):
    (tmp_path / "jobs_of_the_caller.py").write_text(JOBS)
    # Isolated interpreters look neither into the script's folder nor into variables.
    source = f"import sys; sys.path[:0] = {[str(tmp_path), *sys.path]!r}\nruns = 1\n" + CALLER
    if how == AS_EXEC:
        source = f"exec(compile({source!r}, '<cell>', 'exec'))"
    (tmp_path / "script.py").write_text(source)
    runs = str(tmp_path / "runs")
    given = {AS_COMMAND: ["-c", source], AS_INPUT: ["-"]}.get(how, [str(tmp_path / "script.py")])
    result = subprocess.run(
        [sys.executable, *options, *given, runs],
        input=source if how == AS_INPUT else None,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == str([3, False, *flags]).replace("False", "false")
    assert Path(runs).read_text() == "run\n"


def test_a_module_of_the_working_directory_does_not_shadow_the_standard_library(tmp_path):
    (tmp_path / "pickle.py").write_text("raise SystemExit(9)\n")
    code = "import sys; sys.path.remove('')\nfrom test_python_process import *\n" + textwrap.dedent("""
        process = PythonProcess(print_and_answer, ("fine",), subprocess.DEVNULL)
        assert process.receive(60) == "fine"
        process.close()
    """)
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_what_an_interpreter_prints_at_its_start_is_no_message(start, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os\nos.write(1, b'welcome to this machine ')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert everything(start(print_and_answer, "fine")) == ["fine"]


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_descriptors_are_given_to_no_file(tmp_path, closed):
    """What the native library prints would be written into the model that is being made."""
    code = textwrap.dedent(f"""
        import sys, os
        sys.path[:] = {sys.path!r}
        for descriptor in {closed}:
            os.close(descriptor)
        from test_python_process import PythonProcess, open_a_file
        process = PythonProcess(open_a_file, ({str(tmp_path / "made")!r},), None)
        answer = process.receive(60)
        process.close()
        os._exit(0 if answer > 2 else 5)
    """)
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
    assert (tmp_path / "made").read_bytes() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_it_ends_with_a_parent_that_is_killed(tmp_path):
    code = textwrap.dedent(f"""
        import sys, time
        sys.path[:] = {sys.path!r}
        from test_python_process import PythonProcess, stay
        print(PythonProcess(stay, (), None).receive(60), flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.kill()
    deadline = time.monotonic() + 10
    while child.exists() and "State:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_it_ends_with_a_parent_whose_forked_copy_lives_on(tmp_path):
    """The copy holds the other end of its standard input."""
    code = textwrap.dedent(f"""
        import os, sys, time
        sys.path[:] = {sys.path!r}
        from test_python_process import PythonProcess, stay
        process = PythonProcess(stay, (), None)
        child = process.receive(60)
        copy = os.fork()
        if copy:
            print(child, copy, flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        child, copy = (Path("/proc") / pid for pid in parent.stdout.readline().split())
        parent.kill()
        parent.wait()
        try:
            deadline = time.monotonic() + 10
            while child.exists() and "State:\tZ" not in (child / "status").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert copy.exists()
        finally:
            os.kill(int(copy.name), signal.SIGKILL)


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit code 0"), (3, "exit code 3"), (-11, "SIGSEGV"), (-99, "signal 99"), (None, "still running")],
)
def test_how_a_process_ended(code, text):
    assert exit_text(code) == text


def test_how_a_process_ended_on_windows():
    assert exit_text(3221225477) == "exit code 0xC0000005"

"""The kernel probe survives whatever its child processes do, and remembers what it found."""

import json
import sys

import kernels_gone_wrong
import pytest

from visionward.runtime.ggml import kernel_probe
from visionward.runtime.ggml.kernel_probe import KernelResult, WeightResult, probe_kernel, probe_kernels
from visionward.runtime.ggml.kernel_product import buffer_types, products

NOTED = (WeightResult("Q4_0", 0.005, 100.0),)


@pytest.mark.parametrize(
    ("child", "status", "detail", "weights"),
    [
        (
            kernels_gone_wrong.compute_wrongly,
            "wrong",
            "Q4_0 has relative error 0.5",
            (WeightResult("Q4_0", 0.5, 100.0),),
        ),
        (kernels_gone_wrong.take_nothing, "unused", "supports none", (WeightResult("Q4_0", None, None),)),
        (kernels_gone_wrong.fail, "untested", "exited with 3", ()),
        (kernels_gone_wrong.hang, "hangs", "timed out", ()),
    ],
)
def test_children_that_go_wrong(monkeypatch, child, status, detail, weights):
    monkeypatch.setattr(kernel_probe, "_compute", child)
    result = probe_kernel("AMX", 1, timeout_s=1 if status == "hangs" else 60)
    assert (result.kernel, result.status, result.weights) == ("AMX", status, weights)
    assert detail in result.detail


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_crash_is_a_result(monkeypatch, capfd):
    monkeypatch.setattr(kernel_probe, "_compute", kernels_gone_wrong.crash)
    assert probe_kernel("AMX", 1) == KernelResult("AMX", "crashes", "SIGSEGV (exit 139)", NOTED)
    assert capfd.readouterr() == ("", "")


def test_a_crash_on_windows():
    assert kernel_probe._end(0xC0000005) == ("crashes", "exit 0xC0000005")


def test_plain_kernels_work_here():
    assert "plain" in buffer_types()
    for product in products("plain", 1):
        assert product.error is not None
        assert 0 < product.error < kernel_probe.MAX_ERROR
        assert product.gflops > 0


def test_an_unknown_kernel_in_a_real_child():
    result = probe_kernel("NO_SUCH_KERNEL", 1)
    assert (result.status, result.weights) == ("untested", ())
    assert "NO_SUCH_KERNEL" in result.detail


@pytest.fixture
def probed(monkeypatch, tmp_path):
    """Kernels that were really probed, in a world of results."""
    asked, results = [], {"plain": KernelResult("plain", "works", "", NOTED)}

    def probe(kernel, _threads):
        asked.append(kernel)
        return results.get(kernel, KernelResult(kernel, "crashes", "SIGILL (exit 132)", ()))

    monkeypatch.setattr(kernel_probe, "probe_kernel", probe)
    monkeypatch.setattr(kernel_probe, "cache_folder", lambda: tmp_path / "cache")
    (tmp_path / "lib.so").write_bytes(b"library")
    return asked, results


def test_remembered_for_library_and_processor(probed, tmp_path):
    asked, _ = probed
    library, kernels = [tmp_path / "lib.so"], ("plain", "AMX")
    first = probe_kernels(kernels, library, "Xeon", threads=1)
    assert probe_kernels(kernels, library, "Xeon", threads=1) == first
    assert asked == ["plain", "AMX"]
    probe_kernels(kernels, library, "Xeon", threads=1, fresh=True)
    probe_kernels(kernels, library, "another", threads=1)
    probe_kernels(("plain",), library, "Xeon", threads=1)
    library[0].write_bytes(b"another library")
    probe_kernels(kernels, library, "Xeon", threads=1)
    assert asked == ["plain", "AMX"] * 3 + ["plain"] + ["plain", "AMX"]


def test_what_may_pass_is_not_remembered(probed, tmp_path):
    asked, results = probed
    results["AMX"] = KernelResult("AMX", "hangs", "did not finish in time", ())
    for _ in range(2):
        probe_kernels(("AMX",), [tmp_path / "lib.so"], "Xeon", threads=1)
    assert asked == ["AMX", "AMX"]


@pytest.mark.parametrize("content", ["", "[]", "[1]", '[{"kernel": "AMX"}]', "\x00", "null", '{"kernel": 1}'])
def test_a_broken_cache_is_ignored(probed, tmp_path, content):
    asked, _ = probed
    first = probe_kernels(("AMX",), [tmp_path / "lib.so"], "Xeon", threads=1)
    (memory,) = (tmp_path / "cache" / "kernels").iterdir()
    memory.write_text(content)
    assert probe_kernels(("AMX",), [tmp_path / "lib.so"], "Xeon", threads=1) == first
    assert len(asked) == 2
    assert json.loads(memory.read_text())[0]["kernel"] == "AMX"


def test_a_cache_that_cannot_be_written(probed, tmp_path):
    asked, _ = probed
    (tmp_path / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        assert probe_kernels(("AMX",), [tmp_path / "lib.so"], "Xeon", threads=1)[0].status == "crashes"
    assert len(asked) == 2


def test_libraries_that_cannot_be_read(probed, tmp_path):
    asked, _ = probed
    for _ in range(2):
        probe_kernels(("plain",), [tmp_path / "nowhere.so"], "Xeon", threads=1)
    assert len(asked) == 2

"""The doctor's report."""

import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path

import kernels_gone_wrong
import pytest

from visionward.diagnose import environment, provider_probe
from visionward.diagnose import system_report as reporting
from visionward.diagnose.provider_probe import ProviderResult, probe_provider
from visionward.machine.processor import read_memory, read_processor
from visionward.machine.shell import pip_command
from visionward.names import CPU_PROVIDER
from visionward.runtime.ggml import abi, packed_kernels
from visionward.runtime.ggml.kernel_probe import KernelResult, WeightResult
from visionward.runtime.ggml.native import library_path

WORKS = KernelResult("plain", "works", "", (WeightResult("Q4_K", 0.007, 12.3), WeightResult("Q8_0", None, None)))
CRASHES = KernelResult("AMX", "crashes", "SIGSEGV (exit 139)", ())


@pytest.fixture
def kernels(monkeypatch):
    """What the probe finds; set its items."""
    found = [WORKS]
    monkeypatch.setattr(packed_kernels, "probe_kernels", lambda *_, **options: (asked.append(options), tuple(found))[1])
    asked = []
    return found, asked


@pytest.mark.usefixtures("kernels")
def test_a_healthy_machine(run):
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (0, "")
    text = result.stdout
    assert "  llama-cpp-python  0.3.36\n" in text
    assert f"CPython {sys.version.split()[0]}" in text
    assert "(the tested version)" in text
    assert "  plain             works (GFLOP/s per thread: Q4_K 12)" in text
    assert "  on OpenVINO       CPU" in text
    assert text.endswith("Advice\n  - Nothing is wrong.\n")


def test_fresh(run, kernels):
    run("doctor")
    run("doctor", "--fresh")
    assert [options["fresh"] for options in kernels[1]] == [False, True]


def test_amx_that_crashes(run, kernels, monkeypatch):
    kernels[0].append(CRASHES)
    monkeypatch.setattr(environment, "_compiler", lambda _path: "gcc (Debian 12.2.0-14) 12.2.0")
    text = run("doctor").stdout
    assert "  AMX               CRASHES: SIGSEGV (exit 139)" in text
    advice = text.splitlines()[-1]
    assert (
        "The AMX kernels of this build crash the process (SIGSEGV (exit 139)). visionward does not use them" in advice
    )
    assert "gcc (Debian 12.2.0-14) 12.2.0: gcc 12 is known for this. In a build with clang they work" in advice


def test_amx_that_is_faster(run, kernels):
    assert "visionward uses plain memory-mapped weights" in run("doctor").stdout
    kernels[0].append(KernelResult("AMX", "works", "", (WeightResult("Q4_K", 0.007, 45.6),)))
    assert "`serve`, `scan` and `bench` use AMX for large text files if memory holds a copy" in run("doctor").stdout


def test_plain_kernels_that_fail(run, kernels):
    kernels[0][:] = [KernelResult("plain", "wrong", "Q4_0 is off by 0.5", ())]
    assert "The plain kernels give wrong results (Q4_0 is off by 0.5): visionward needs them." in run("doctor").stdout


@pytest.mark.usefixtures("kernels")
def test_an_untested_version(run, monkeypatch):
    abi.check.cache_clear()
    monkeypatch.setattr(abi, "version", lambda: "9.9.9")
    text = run("doctor").stdout
    assert "(tested: 0.3.36)" in text
    assert "llama-cpp-python 9.9.9 is not supported" in text
    abi.check.cache_clear()


def test_json(run, kernels):
    kernels[0].append(CRASHES)
    report = json.loads(run("doctor", "--json").stdout)
    assert report["packages"]["llama-cpp-python"] == "0.3.36"
    assert report["packages"]["onnx"]
    assert report["packages"]["onnxruntime"]
    assert report["library"]["problem"] is None
    assert report["kernels"][1] == dataclasses.asdict(CRASHES) | {"weights": []}
    assert report["library"]["devices"][0]["kind"] == "CPU"
    assert report["processor"]["logical_cores"] >= report["physical_cores"] >= 1


@pytest.mark.usefixtures("kernels")
def test_no_home_directory_in_the_report(run, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: library_path().parents[1])
    text = run("doctor").stdout
    assert f"file              {Path('~') / 'lib' / library_path().name}" in text
    assert str(library_path().parents[1]) not in text


def test_compilers(tmp_path):
    library = tmp_path / "library"
    library.write_bytes(b"\x7fELF\x00GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\x00")
    assert environment._compiler(library) == "gcc (Debian 12.2.0-14+deb12u1) 12.2.0"
    library.write_bytes(b"\x00GCC: (GNU) 13.1\x00Debian clang version 14.0.6\x00")
    assert environment._compiler(library) == "Debian clang version 14.0.6"
    library.write_bytes(b"nothing")
    assert environment._compiler(library) is None
    assert environment._compiler(tmp_path / "nowhere") is None


def test_machine():
    processor, memory = read_processor(), read_memory()
    assert processor.model
    assert 1 <= processor.usable_cores <= processor.logical_cores
    if sys.platform == "linux":
        assert memory.total >= memory.available > 0


@pytest.mark.usefixtures("kernels")
def test_extras_that_are_missing(run, monkeypatch):
    find = reporting.find_spec
    monkeypatch.setattr(reporting, "find_spec", lambda name: None if name in ("openvino", "rich") else find(name))
    text = run("doctor").stdout
    lines = text[text.index("Optional") : text.index("Machine")].splitlines()
    line = "  openvino          a faster vision tower on processors with AMX and AMD's from Zen 4 on: not installed"
    assert lines[lines.index(line) + 1] == f"    {pip_command('install', 'visionward[openvino]')}"
    extras = {extra["name"]: extra["missing"] for extra in json.loads(run("doctor", "--json").stdout)["extras"]}
    assert (extras["openvino"], extras["compare"]) == (["openvino"], ["rich"])


@pytest.mark.usefixtures("kernels")
def test_a_requirement_that_is_missing(run, monkeypatch):
    requires = ["numpy>=1.26", "onnxruntime>=1.23", "lost-package<2,>=1", "rich>=13 ; extra == 'compare'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: requires)
    monkeypatch.setattr(reporting, "installed_version", lambda name: "1.26" if name == "numpy" else None)
    advice = json.loads(run("doctor", "--json").stdout)["advice"]
    # ONNX Runtime can be imported, so it is installed under another name.
    command = pip_command("install", "lost-package<2,>=1")
    assert advice == [f"lost-package is not installed, and visionward needs it: `{command}`."]


@pytest.mark.usefixtures("kernels")
def test_kernels_of_gpus(run, monkeypatch):
    devices = (
        environment.BackendDevice("CPU", "x", "x", "CPU", 1, 1),
        environment.BackendDevice("Vulkan0", "y", "y", "integrated GPU", 1, 1),
        environment.BackendDevice("CUDA0", "z", "z", "GPU", 1, 1),
    )
    found = {
        "Vulkan0": KernelResult("Vulkan0", "wrong", "Q4_0 has relative error 0.5", ()),
        "CUDA0": KernelResult("CUDA0", "works", "", (WeightResult("Q4_0", 0.005, None),)),
    }
    monkeypatch.setattr(environment, "_devices", lambda: devices)
    monkeypatch.setattr(reporting, "probe_kernel", lambda name, _threads: found[name])
    text = run("doctor").stdout
    lines = text[text.index("GPU kernels") : text.index("Advice")].splitlines()
    assert lines[1:3] == [
        "  Vulkan0           GIVES WRONG RESULTS: Q4_0 has relative error 0.5",
        "  CUDA0             works",
    ]
    assert "The kernels of Vulkan0 give wrong results (Q4_0 has relative error 0.5): use --device CPU or" in text


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("kind", "advised"), [("CPU", True), ("GPU", False), ("integrated GPU", False)])
def test_a_gpu_that_the_library_cannot_use(run, monkeypatch, kind, advised):
    devices = (
        environment.BackendDevice("x", "x", "x", "CPU", 1, 1),
        environment.BackendDevice("y", "y", "y", kind, 1, 1),
    )
    monkeypatch.setattr(environment, "_devices", lambda: devices)
    monkeypatch.setattr(reporting, "probe_kernel", lambda name, _threads: KernelResult(name, "works", "", ()))
    monkeypatch.setattr(reporting.shutil, "which", lambda name: f"/bin/{name}")
    assert ("built for CPUs alone" in run("doctor").stdout) == advised


@pytest.mark.usefixtures("kernels")
def test_providers_of_onnx_runtime(run, monkeypatch):
    results = {"DmlExecutionProvider": None, "CoreMLExecutionProvider": "12 of 255 nodes (5 %) of the vision tower"}
    found = {name: ProviderResult(name, left=left) for name, left in results.items()}
    found["CUDAExecutionProvider"] = ProviderResult("CUDAExecutionProvider", "libcudnn.so.9 is missing.")
    monkeypatch.setattr(reporting, "gpu_providers", lambda: tuple(found))
    monkeypatch.setattr(reporting, "probe_provider", found.get)
    text = run("doctor").stdout
    assert "  on ONNX Runtime   DmlExecutionProvider\n" in text
    assert (
        "  on ONNX Runtime   CoreMLExecutionProvider, which leaves 12 of 255 nodes (5 %) of the vision tower\n" in text
    )
    assert "  on ONNX Runtime   CUDAExecutionProvider cannot be used\n" in text
    assert "  - CUDAExecutionProvider cannot be used: libcudnn.so.9 is missing.\n" in text


@pytest.mark.slow
def test_the_probe_of_a_provider():
    """Azure's provider is in every build, and computes no node of a tower."""
    assert "(100 %) of the vision tower to the CPU" in probe_provider("AzureExecutionProvider").left
    assert probe_provider(CPU_PROVIDER) == ProviderResult(CPU_PROVIDER)
    assert "but not AbacusExecutionProvider" in probe_provider("AbacusExecutionProvider").problem


@pytest.mark.slow
def test_a_provider_that_crashes_or_hangs(monkeypatch):
    monkeypatch.setattr(provider_probe, "_load", kernels_gone_wrong.crash_with_a_provider)
    assert probe_provider("x").problem == "the process that tried it ended with SIGSEGV"
    monkeypatch.setattr(provider_probe, "_load", kernels_gone_wrong.hang_with_a_provider)
    monkeypatch.setattr(provider_probe, "TIMEOUT_S", 1.0)
    assert probe_provider("x").problem == "it did not load in 1 s"

"""Which device computes what, for devices that are made up."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from visionward.errors import ComputeError, NativeLibraryError, OptionError
from visionward.formats.pair_files import PairFiles
from visionward.runtime import device_plan
from visionward.runtime.device_memory import DeviceMemory
from visionward.runtime.device_plan import DevicePlan, plan_devices
from visionward.runtime.devices import Devices
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.ggml import device_list
from visionward.runtime.ggml.device_list import BackendDevice
from visionward.runtime.ggml.ggml import DeviceType

GB = 10**9
BACKEND = 512 * 2**20
# Four layers of 1 GB and a head of half one; 6.5 GB and the backend's share for everything.
MEMORY = DeviceMemory(layers=(GB, GB, GB, GB, GB // 2), text_work=GB // 2, cross=GB // 2, tower=GB)
ALL = 13 * GB // 2 + BACKEND
CPU = BackendDevice(1, "CPU", "", "CPU", DeviceType.CPU, 16 * GB, 16 * GB)


def gpu(name: str, free: int, type_: DeviceType = DeviceType.GPU, total: int = 100 * GB) -> BackendDevice:
    return BackendDevice(hash(name), name, "", "CUDA", type_, free, total)


@pytest.fixture
def plan(monkeypatch):
    def make(gpus: Sequence[BackendDevice] = (), **options: object) -> DevicePlan:
        monkeypatch.setattr(device_list, "list_devices", lambda: [CPU, *gpus])
        monkeypatch.setattr(device_list, "cpu_device", lambda: CPU)
        monkeypatch.setattr(device_plan, "cpu_device", lambda: CPU)
        return plan_devices(EngineOptions(**options), MEMORY)

    return make


def places(found: DevicePlan) -> tuple[str, int, str, str]:
    return ",".join(device.name for device in found.text), found.gpu_layers, found.cross.name, found.vision.name


@pytest.mark.parametrize(
    ("options", "gpus", "expected"),
    [
        ({}, [], ("", 0, "CPU", "CPU")),
        ({}, [gpu("A", ALL)], ("A", 5, "A", "A")),
        ({}, [gpu("A", 20 * GB), gpu("B", 30 * GB)], ("B", 5, "B", "B")),
        ({}, [gpu("I", 30 * GB, DeviceType.IGPU), gpu("A", 20 * GB)], ("A", 5, "A", "A")),
        ({}, [gpu("I", 30 * GB, DeviceType.IGPU), gpu("A", 2 * GB)], ("I", 5, "I", "I")),
        ({}, [gpu("A", 0, total=0)], ("A", 5, "A", "A")),
        ({"gpu_layers": 0}, [gpu("A", ALL)], ("", 0, "CPU", "CPU")),
        ({"device": "cpu"}, [gpu("A", ALL)], ("", 0, "CPU", "CPU")),
        ({"device": "cpu", "vision_device": "a"}, [gpu("A", ALL)], ("", 0, "CPU", "A")),
        ({"device": "A", "vision_device": "CPU"}, [gpu("A", ALL - GB)], ("A", 5, "A", "CPU")),
        ({"vision_device": "B"}, [gpu("A", ALL), gpu("B", GB + BACKEND)], ("A", 5, "A", "B")),
        ({"device": "A, B"}, [gpu("A", ALL // 2), gpu("B", ALL // 2)], ("A,B", 5, "A", "A")),
        ({"gpu_layers": 2}, [gpu("A", ALL)], ("A", 2, "A", "A")),
        ({"gpu_layers": 99}, [gpu("A", ALL)], ("A", 5, "A", "A")),
    ],
)
def test_places(plan, options, gpus, expected) -> None:
    found = plan(gpus, **options)
    assert places(found) == expected
    assert found.warnings == ()


def test_as_many_layers_as_fit(plan) -> None:
    """2 GB for everything but the layers, half a GB for the head: 1 byte less than two more layers."""
    found = plan([gpu("A", 2 * GB + BACKEND + GB // 2 + 2 * GB - 1)])
    assert places(found) == ("A", 2, "A", "A")
    (warning,) = found.warnings
    assert warning == (
        "A has 5.04 GB of memory free, and 5 of 5 layers with the vision tower and cross-attention need about 7.04 GB: "
        "2 layers are on it, and 3 on the CPU."
    )


def test_only_the_tower_fits(plan) -> None:
    found = plan([gpu("A", GB + BACKEND)])
    assert places(found) == ("", 0, "CPU", "A")
    assert found.warnings[0].endswith(": only the tower is on it.")


def test_nothing_fits(plan) -> None:
    found = plan([gpu("A", GB)])
    assert places(found) == ("", 0, "CPU", "CPU")
    assert found.warnings[0].endswith(": it is not used.")


@pytest.mark.parametrize(
    ("options", "free", "error"),
    [
        ({"gpu_layers": 5}, 5 * GB, "use gpu_layers=2 (--gpu-layers 2)"),
        ({"gpu_layers": 5, "device": "A"}, 5 * GB, "A has 5.00 GB of memory free, and 5 of 5 layers"),
        ({"device": "A"}, GB, "use gpu_layers=0"),
        ({"device": "CPU", "vision_device": "A"}, GB, "the vision tower needs about 1.54 GB"),
    ],
)
def test_what_was_asked_for_and_does_not_fit(plan, options, free, error) -> None:
    with pytest.raises(ComputeError) as refusal:
        plan([gpu("A", free)], **options)
    assert error in str(refusal.value)


@pytest.mark.parametrize("options", [{"device": "CUDA1"}, {"vision_device": "CUDA1"}, {"device": "A,CUDA1"}])
def test_a_device_that_is_not_there(plan, options) -> None:
    with pytest.raises(NativeLibraryError) as refusal:
        plan([gpu("A", ALL)], **options)
    assert "there is no device 'CUDA1': the installed llama-cpp-python can compute on CPU, A." in str(refusal.value)


@pytest.mark.parametrize(
    "options",
    [
        {"gpu_layers": 0, "device": "A"},
        {"vision_device": "A", "vision_backend": "onnx"},
    ],
)
def test_options_that_exclude_each_other(options) -> None:
    with pytest.raises(OptionError, match=r"exclude each other|is for the vision backend ggml"):
        EngineOptions(**options)


def test_the_estimate_counts_every_tensor(tiny_pair) -> None:
    """All but the embedding, which llama.cpp keeps on the CPU, unless it is the head too."""
    files = PairFiles.open(tiny_pair.text, tiny_pair.mmproj)
    found = DeviceMemory.of(files, cells=100, ubatch=8, exact=False)
    config = files.text_config
    cache = 100 * config.identity.layers * 2 * 2 * config.head_count_kv * config.head_width
    tensors = files.text.tensors
    on_host = sum(tensors[name].nbytes for name in ("token_embd.weight", "rope_freqs.weight") if name in tensors)
    assert sum(found.layers) == sum(tensor.nbytes for tensor in tensors.values()) - on_host + cache
    assert found.cross + found.tower > sum(tensor.nbytes for tensor in files.mmproj.tensors.values())
    without = DeviceMemory.of(files, cells=100, ubatch=8, exact=True, tower=False)
    assert (without.tower, sum(without.layers) - sum(found.layers)) == (0, cache)


def test_names_of_devices() -> None:
    found = Devices("CUDA0", "CUDA0", "CUDA0", 33, 33, 10)
    assert found.names == "CUDA0"
    assert replace(found, gpu_layers=20).names == "CUDA0 (20 of 33 layers)"
    assert replace(found, text="CPU", gpu_layers=0, cross="CPU").names == "CPU, vision on CUDA0"
    assert replace(found, text="CUDA0,CUDA1", vision="CUDA1").names == "CUDA0,CUDA1, vision on CUDA1"
    assert [found.on_cpu, replace(found, text="CPU", vision=None, cross=None).on_cpu] == [False, True]

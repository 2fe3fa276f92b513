"""The GPU as NVML describes it; a fake of that library stands in for the driver."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pynvml
import pytest
from fake_nvml import FakeGpu, FakeNvml

from thothy_batch.bench.machine import BusyMeter
from thothy_batch.engine.core.config import resolve_device
from thothy_batch.engine.cost.measurement_cache import device_name
from thothy_batch.engine.hardware import gpu
from thothy_batch.engine.hardware.gpu import busy_percent, find_gpu, why_no_gpu
from thothy_batch.engine.hardware.gpu_processes import check_free_memory, gpu_processes
from thothy_batch.engine.hardware.host_memory import free_bytes
from thothy_batch.errors import EngineError, ModelError


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    """Two GPUs, the second an older one."""
    gpus = [FakeGpu("GPU-12-34"), FakeGpu("GPU-5", "Tesla T4", 15360, 15000, (7, 5))]
    fake = FakeNvml(monkeypatch, gpus)
    yield fake
    assert fake.num_open == 0, "the library is shut down after each query"
    gpu._search.cache_clear()


def test_a_gpu_is_described_by_its_driver(nvml: FakeNvml) -> None:
    found = find_gpu()
    assert found is not None
    assert (found.name, found.driver, found.capability) == ("NVIDIA H200", "570.86.15", "9.0")
    assert (found.uuid, found.is_supported) == ("GPU-12-34", True)
    assert (found.total_bytes, found.free_bytes) == (143771 << 20, 143000 << 20)
    assert (device_name("cuda"), free_bytes("cuda")) == ("NVIDIA H200", 143000 << 20)
    assert find_gpu() == found
    assert nvml.num_described == 1
    assert why_no_gpu() == ""


def test_looking_for_a_gpu_changes_no_environment_and_imports_no_torch() -> None:
    code = (
        "import os, sys; before = dict(os.environ)\n"
        "from thothy_batch.engine.hardware.gpu import find_gpu; find_gpu()\n"
        "print(dict(os.environ) == before, 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("code", "is_warned"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, False),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, False),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, True),
    ],
)
def test_a_driver_that_does_not_answer_is_no_gpu(
    nvml: FakeNvml, caplog: pytest.LogCaptureFixture, code: int, is_warned: bool
) -> None:
    nvml.init_error = code
    assert find_gpu() is None
    assert why_no_gpu()
    assert free_bytes("cuda") == 0
    assert bool(caplog.records) == is_warned
    with pytest.raises(ModelError, match=r"no NVIDIA GPU can be used here: (there is no|NVML)"):
        resolve_device("cuda")


def test_a_missing_binding_is_named(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_gpu() is None
    assert resolve_device("auto") == "cpu"
    assert "the Python package nvidia-ml-py is not installed" in caplog.text
    with pytest.raises(ModelError, match="nvidia-ml-py is not installed"):
        resolve_device("cuda")


def test_a_machine_without_gpus_has_a_reason(nvml: FakeNvml) -> None:
    nvml.gpus.clear()
    assert find_gpu() is None
    assert why_no_gpu() == "there is no GPU"


def test_a_lost_gpu_is_passed_over(nvml: FakeNvml) -> None:
    nvml.gpus[0].is_lost = True
    found = find_gpu()
    assert found is not None
    assert found.uuid == "GPU-5"


@pytest.mark.parametrize(
    ("visible", "uuid"),
    [
        ("1,0", "GPU-5"),
        (" 0 ", "GPU-12-34"),
        ("GPU-5", "GPU-5"),
        ("GPU-12", "GPU-12-34"),  # CUDA takes the beginning of a uuid
        ("", None),
        ("-1", None),
        ("2", None),
        ("2,0", None),  # CUDA ignores all that follows an entry that it does not know
        ("GPU-9", None),
        ("no-gpu", None),
    ],
)
def test_cuda_visible_devices_chooses(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str, uuid: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = find_gpu()
    assert (found.uuid if found else None) == uuid
    assert found or "CUDA_VISIBLE_DEVICES" in why_no_gpu()


@pytest.mark.parametrize(
    ("visible", "uuid"),
    [
        (None, "MIG-a"),
        ("0", "MIG-a"),
        ("GPU-12", "MIG-a"),
        ("MIG-b", "MIG-b"),
        ("MIG-c", None),
        ("1", "GPU-5"),
    ],
)
def test_instances_stand_in_for_a_gpu_in_mig_mode(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str | None, uuid: str | None
) -> None:
    name = "NVIDIA H200 MIG 1g.18gb"
    nvml.gpus[0].instances = [
        FakeGpu(each, name, 16384, 16000, (0, 0)) for each in ("MIG-a", "MIG-b")
    ]
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = find_gpu()
    assert (found.uuid if found else None) == uuid
    if found and found.uuid.startswith("MIG"):
        assert (found.total_bytes, free_bytes("cuda")) == (16384 << 20, 16000 << 20)
        assert found.capability == "9.0", "that of the whole GPU"


def test_a_torch_without_cuda_sees_no_gpu(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.undo()
    assert gpu._torch_has_cuda() == (torch.version.cuda is not None)


def test_an_older_gpu_is_passed_over_unless_it_is_asked_for(nvml: FakeNvml) -> None:
    del nvml.gpus[0]
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ModelError, match=r"Tesla T4 has compute capability 7\.5, and 8\.0"):
        resolve_device("cuda")


def test_processes_that_hold_the_memory_are_named(nvml: FakeNvml) -> None:
    nvml.gpus[0].free_mib = 60000
    nvml.gpus[0].processes = [(77, "", None), (4242, "/opt/vllm/bin/python", 81920)]
    found = find_gpu()
    assert found is not None
    assert [(each.pid, each.num_bytes >> 30) for each in gpu_processes(found)] == [
        (4242, 80),
        (77, 0),
    ]
    note = check_free_memory(found, 1 << 30)
    assert "58.6 of 140.4 GiB of NVIDIA H200 are free" in note
    assert note.endswith("process 4242 (/opt/vllm/bin/python) with 80.0 GiB, process 77")
    with pytest.raises(EngineError, match=r"need 100\.0; held by process 4242 \(/opt/vllm"):
        check_free_memory(found, 100 << 30)


def test_an_empty_gpu_is_no_news(nvml: FakeNvml) -> None:
    found = find_gpu()
    assert found is not None
    assert check_free_memory(found, 1 << 30) == ""
    with pytest.raises(EngineError, match=r"need 200\.0$"):
        check_free_memory(found, 200 << 30)


def test_free_memory_is_that_of_now(nvml: FakeNvml) -> None:
    """A run that waited for another one finds what that left."""
    nvml.gpus[0].free_mib = 1000
    assert free_bytes("cuda") == 1000 << 20
    nvml.gpus[0].free_mib = 143000
    assert free_bytes("cuda") == 143000 << 20


def test_a_driver_that_fails_later_leaves_what_was_known(nvml: FakeNvml) -> None:
    found = find_gpu()
    assert found is not None
    nvml.init_error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert free_bytes("cuda") == 143000 << 20
    assert gpu_processes(found) == []
    assert busy_percent(found) is None


def test_a_gpu_tells_how_busy_it_is(nvml: FakeNvml) -> None:
    found = find_gpu()
    assert found is not None
    assert busy_percent(found) == 50
    nvml.gpus[0].busy = None  # as for a MIG instance
    assert busy_percent(found) is None
    with BusyMeter("cuda", every_s=0.001) as meter:
        pass
    assert meter.fraction is None

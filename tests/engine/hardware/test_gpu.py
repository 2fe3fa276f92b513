"""What the driver says of a GPU, from a `nvidia-smi` that these tests put in its place."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thothy_batch.engine.core.config import resolve_device
from thothy_batch.engine.cost.measurement_cache import device_name
from thothy_batch.engine.hardware import gpu
from thothy_batch.engine.hardware.gpu_processes import check_free_memory, gpu_processes
from thothy_batch.engine.hardware.host_memory import free_bytes
from thothy_batch.errors import EngineError, ModelError

ANSWER = "NVIDIA H200, 143771, 143000, 570.86.15, 9.0, GPU-12-34"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a script that answers as asked, and notes how it was called."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu, "_torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu.find_gpu.cache_clear()

    def answers(text: str, code: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        calls = tmp_path / "calls"
        script.write_text(f"#!/bin/sh\necho \"$@\" >> '{calls}'\necho '{text}'\nexit {code}\n")
        script.chmod(0o755)

    yield answers
    gpu.find_gpu.cache_clear()


def test_a_gpu_is_described_by_its_driver(driver: Callable[..., None], tmp_path: Path) -> None:
    driver(ANSWER + "\nNVIDIA T4, 15360, 15000, 570.86.15, 7.5, GPU-5")
    found = gpu.find_gpu()
    assert found is not None
    assert (found.name, found.driver, found.capability) == ("NVIDIA H200", "570.86.15", "9.0")
    assert (found.uuid, found.is_supported) == ("GPU-12-34", True)
    assert (found.total_bytes, found.free_bytes) == (143771 << 20, 143000 << 20)
    assert (device_name("cuda"), free_bytes("cuda")) == ("NVIDIA H200", 143000 << 20)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len([call for call in calls if "name" in call]) == 1, "it is asked once"


@pytest.mark.parametrize(
    ("text", "code"),
    [("No devices were found", 6), ("", 0), ("GPU is lost", 0), ("a, b, c, d, e, f", 0)],
)
def test_a_driver_that_names_none_is_no_gpu(
    driver: Callable[..., None], text: str, code: int
) -> None:
    driver(text, code)
    assert gpu.find_gpu() is None


def test_no_driver_is_no_gpu(driver: Callable[..., None]) -> None:
    assert gpu.find_gpu() is None
    assert free_bytes("cuda") == 0


def test_what_cuda_may_see_is_asked_about(
    driver: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(ANSWER)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert gpu.find_gpu() is not None
    assert (tmp_path / "calls").read_text().endswith("-i 3\n")
    gpu.find_gpu.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.find_gpu() is None


def test_a_torch_without_cuda_sees_no_gpu(
    driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.undo()
    assert gpu._torch_has_cuda() == (torch.version.cuda is not None)


def test_an_older_gpu_is_passed_over_unless_it_is_asked_for(driver: Callable[..., None]) -> None:
    driver("Tesla T4, 15360, 15000, 570.86.15, 7.5, GPU-5")
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ModelError, match=r"Tesla T4 has compute capability 7\.5, and 8\.0"):
        resolve_device("cuda")


APPS = """case "$1" in
  *compute-apps*) printf '4242, /opt/vllm/bin/python, 81920\\n77, /usr/bin/x, [N/A]\\n' ;;
  --query-gpu=memory.free) echo FREE ;;
  *) echo 'NVIDIA H200, 143771, 143000, 570.86.15, 9.0, GPU-12-34' ;;
esac"""


def crowded(tmp_path: Path, free_mib: int) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\n" + APPS.replace("FREE", str(free_mib)) + "\n")
    script.chmod(0o755)


def test_who_holds_the_memory_is_named(driver: Callable[..., None], tmp_path: Path) -> None:
    crowded(tmp_path, 60000)
    found = gpu.find_gpu()
    assert found is not None
    assert [(each.pid, each.num_bytes >> 30) for each in gpu_processes(found)] == [
        (4242, 80),
        (77, 0),
    ]
    note = check_free_memory(found, 1 << 30)
    assert "58.6 of 140.4 GiB of NVIDIA H200 are free" in note
    assert "process 4242 (/opt/vllm/bin/python) with 80.0 GiB, process 77 (/usr/bin/x)" in note
    with pytest.raises(EngineError, match=r"need 100\.0; held by process 4242 \(/opt/vllm"):
        check_free_memory(found, 100 << 30)


def test_an_empty_gpu_is_no_news(driver: Callable[..., None], tmp_path: Path) -> None:
    crowded(tmp_path, 143000)
    found = gpu.find_gpu()
    assert found is not None
    assert check_free_memory(found, 1 << 30) == ""
    with pytest.raises(EngineError, match=r"need 200\.0$"):
        check_free_memory(found, 200 << 30)


def test_free_memory_is_that_of_now(driver: Callable[..., None], tmp_path: Path) -> None:
    """A run that waited for another one finds what that left."""
    crowded(tmp_path, 1000)
    assert free_bytes("cuda") == 1000 << 20
    crowded(tmp_path, 143000)
    assert free_bytes("cuda") == 143000 << 20

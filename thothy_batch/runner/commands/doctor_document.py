"""The document of `doctor --json`."""

from typing import TypedDict


class GpuDocument(TypedDict):
    """The GPU as its driver describes it."""

    name: str
    driver: str
    capability: str
    memory_gib: float
    memory_free_gib: float


class LinearRate(TypedDict):
    """Tokens a second through the linears of a step of `rows` rows."""

    rows: int
    tokens_per_s: float


class LayerGroup(TypedDict):
    """Layers with the same attention window (null: full attention)."""

    num_layers: int
    window: int | None


class CapacityRow(TypedDict):
    """Sequences that fit the KV pool, relative to full attention in every layer."""

    context: int
    gain: float


class SpeedDocument(TypedDict):
    """The figures that the cost model computes with; seconds. Curves are [rows, seconds] pairs."""

    linears: list[tuple[float, float]]
    head: list[tuple[float, float]]
    kv_byte_s: float
    pair_s: float
    shared_pair_s: float
    step_s: float
    row_s: float
    measured_at: str
    load: float | None


class MeasuredModelDocument(TypedDict):
    """A model as measured on this machine.

    linears: as far as they were measured; kv_gb_s: reading of KV (null: too fast to measure);
    capacity: empty where every layer has full attention.
    """

    name: str
    architecture: str
    num_parameters: int
    max_model_len: int
    dtype: str
    quantization: str
    impl: str
    threads: int
    linears: list[LinearRate]
    kv_gb_s: float | None
    host_step_s: float
    host_row_s: float
    layer_groups: list[LayerGroup]
    capacity: list[CapacityRow]
    speed: SpeedDocument


class DoctorDocument(TypedDict):
    """The machine.

    gflops: 1e9 operations a second of the fastest linear, by number format; bandwidth_gb_s: 1e9
    bytes a second, of reading on a CPU, of a copy (read and write) on a GPU. gpu: null where there
    is none; model: null where none was named. load: the share of the cores that other programs had
    during the measurement (null: not known). limits_of_runs_at: when the limits that runs compute
    with were measured, which were not taken on a busy machine; null: there are none yet.
    """

    device: str
    cuda: bool
    gpu: GpuDocument | None
    impls: list[str]
    auto_impl: str
    cpu_name: str
    cores: int
    threads: int
    memory_gib: float
    memory_free_gib: float
    gflops: dict[str, float]
    bandwidth_gb_s: float
    measured_at: str
    load: float | None
    limits_of_runs_at: str | None
    model: MeasuredModelDocument | None
    versions: dict[str, str]
    notes: list[str]
    warnings: list[str]

"""Cost model of a step: a model's work per token times a device's measured speed, in seconds.

The planner and the simulated device use it, so a call takes microseconds and a batch of several
decode steps is charged in closed form. Knows no tensors and no blocks.
"""

from bisect import bisect_left
from dataclasses import dataclass

from thothy_batch.model import saved_bytes
from thothy_batch.model.config import (
    DTYPE_BYTES,
    ModelConfig,
    group_kv_bytes_per_token,
    layer_groups,
)

# Seconds as a function of rows: (rows, seconds), ascending in rows.
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class GroupWork:
    """The work of layers that keep KV of the same tokens."""

    num_layers: int
    window: int | None  # tokens that a query sees, itself included; None: all
    kv_bytes_per_token: int  # of all layers of the group


@dataclass(frozen=True, slots=True)
class ModelWork:
    """The work of one token, from a model's configuration."""

    body_parameters: int
    head_parameters: int
    dtype_bytes: int
    num_heads: int
    head_dim: int
    groups: tuple[GroupWork, ...]
    quantization: str = "none"
    # Bytes that a decode step does not read of body and head, thanks to quantization.
    saved_body_bytes: int = 0
    saved_head_bytes: int = 0

    @property
    def body_bytes(self) -> int:
        return self.body_parameters * self.dtype_bytes - self.saved_body_bytes

    @property
    def head_bytes(self) -> int:
        return self.head_parameters * self.dtype_bytes - self.saved_head_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model that a decode step reads."""
        return self.body_bytes + self.head_bytes

    def product_format(self, dtype: str) -> str:
        """Number format that the linears multiply in: the name of the rate that bounds them."""
        return dtype if self.quantization == "none" else self.quantization

    @property
    def pair_flops(self) -> int:
        """Operations of one query-key pair in one layer: score and weighted value."""
        return 4 * self.num_heads * self.head_dim


def model_work(config: ModelConfig, dtype: str, quantization: str = "none") -> ModelWork:
    """The work of a model that computes in `dtype` ("float32" | "bfloat16"), its linears perhaps
    quantised ("none" | "int8")."""
    kv_bytes = group_kv_bytes_per_token(config, dtype)
    saved_body_bytes, saved_head_bytes = saved_bytes(config, dtype, quantization)
    return ModelWork(
        body_parameters=config.num_body_parameters,
        head_parameters=config.num_head_parameters,
        dtype_bytes=DTYPE_BYTES[dtype],
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        groups=tuple(
            GroupWork(len(group.layers), group.window, num_bytes)
            for group, num_bytes in zip(layer_groups(config), kv_bytes, strict=True)
        ),
        quantization=quantization,
        saved_body_bytes=saved_body_bytes,
        saved_head_bytes=saved_head_bytes,
    )


@dataclass(frozen=True, slots=True)
class StepWork:
    """One step, or `num_steps` equal decode steps: contexts grow by one from step to step."""

    num_tokens: int  # rows through the linears, per step
    num_sampled: int  # rows through the LM head, per step
    decode_context: int  # context lengths of decode rows at the first step, what they share once
    num_decode: int  # decode rows
    prefill_pairs: int  # query-key pairs of prefill chunks in a layer that sees everything
    num_steps: int = 1
    # Pairs of decode rows with KV that is read for several of them at once, beyond those that
    # `decode_context` counts: they cost arithmetic, no reading.
    shared_pairs: int = 0


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """Speed of one model on a device. Seconds; measured, or derived from a roofline.

    A curve is constant below its first point, linear between points, and proportional beyond the
    last; no rows cost nothing.
    """

    linears: Curve  # by rows of a step; includes the runner's work around the layers
    head: Curve  # by rows that sample; includes sampling
    kv_byte_s: float  # a byte of KV that decode rows read
    pair_s: float  # a query-key pair of prefill, per layer
    shared_pair_s: float  # a query-key pair of decode over KV read for several rows, per layer
    step_s: float = 0.0  # the host's part of a step: scheduling, batch building, bookkeeping
    row_s: float = 0.0  # the host's part of a decode row
    measured_at: str = ""  # ISO 8601; "": derived, not measured
    load: float | None = None  # share of the cores that other programs had meanwhile; None: unknown

    @classmethod
    def from_roofline(
        cls,
        flops: float,
        bandwidth: float,
        work: ModelWork,
        *,
        efficiency: float = 1.0,
        attention_flops: float | None = None,
    ) -> "StepSpeed":
        """Derive a speed from operations and bytes a second; a share `efficiency` is reached.

        A step's linears take max(weight bytes / bandwidth, 2 * parameters * rows / flops).
        `attention_flops`: where attention multiplies in another format than the linears.
        """
        attention_flops = (attention_flops or flops) * efficiency
        flops, bandwidth = flops * efficiency, bandwidth * efficiency

        def curve(num_bytes: int, parameters: int) -> Curve:
            # The rows at which reading the weights takes as long as multiplying by them.
            balance = num_bytes / parameters * flops / (2 * bandwidth)
            return ((balance, num_bytes / bandwidth),)

        return cls(
            linears=curve(work.body_bytes, work.body_parameters),
            head=curve(work.head_bytes, work.head_parameters),
            kv_byte_s=1 / bandwidth,
            pair_s=work.pair_flops / attention_flops,
            shared_pair_s=work.pair_flops / attention_flops,
        )


def rows_at_rate(curve: Curve, share: float = 0.9) -> int:
    """The smallest measured number of rows that is computed at `share` of the best rate."""
    rates = [(rows, rows / seconds) for rows, seconds in curve if seconds > 0]
    best = max((rate for _, rate in rates), default=0.0)
    return int(next((rows for rows, rate in rates if rate >= share * best), 0))


class CostModel:
    """Predicts the seconds of steps.

    In layers with a window, decode rows are assumed to read min(all their tokens, rows * window),
    and prefill pairs likewise. That is exact where all contexts lie on one side of the window; else
    it is too much, by the tokens that some rows have beyond it or by those that the others have
    left to it, whichever is less.
    """

    def __init__(self, work: ModelWork, speed: StepSpeed) -> None:
        self.work = work
        self.speed = speed
        self._linears = _Line(speed.linears)
        self._head = _Line(speed.head)
        # Per group: window, then seconds of a token's KV, of a prefill pair, of a shared pair.
        self._groups = [
            (
                group.window,
                group.kv_bytes_per_token * speed.kv_byte_s,
                group.num_layers * speed.pair_s,
                group.num_layers * speed.shared_pair_s,
            )
            for group in work.groups
        ]

    def step_s(self, step: StepWork) -> float:
        """Seconds of all `num_steps` steps."""
        speed, num_steps, num_decode = self.speed, step.num_steps, step.num_decode
        seconds = speed.step_s + speed.row_s * num_decode
        seconds += self._linears.at(step.num_tokens) + self._head.at(step.num_sampled)
        seconds *= num_steps
        num_prefill = step.num_tokens - num_decode
        for window, token_s, pair_s, shared_pair_s in self._groups:
            pairs, shared_pairs = step.prefill_pairs, step.shared_pairs
            if window is not None:
                pairs = min(pairs, num_prefill * window)
                shared_pairs = min(shared_pairs, num_decode * window)
            seconds += token_s * tokens_read(step.decode_context, num_decode, num_steps, window)
            seconds += num_steps * (pair_s * pairs + shared_pair_s * shared_pairs)
        return seconds


def tokens_read(context: int, num_rows: int, num_steps: int, window: int | None) -> int:
    """Tokens whose KV decode rows read in all steps, in one layer; `context` their sum at first.

    A window limits the sum over rows, not each row: see CostModel.
    """
    growing = num_steps
    at_most = 0
    if window is not None and num_rows:
        at_most = num_rows * window
        # Steps s with context + num_rows * s below the limit.
        growing = max(0, min(num_steps, -((context - at_most) // num_rows)))
    read = growing * context + num_rows * (growing * (growing - 1) // 2)
    return read + (num_steps - growing) * at_most


class _Line:
    """A curve, prepared for evaluation."""

    def __init__(self, curve: Curve) -> None:
        self._rows = [rows for rows, _ in curve]
        self._seconds = [seconds for _, seconds in curve]

    def at(self, rows: int) -> float:
        if not rows:
            return 0.0
        index = bisect_left(self._rows, rows)
        if index == 0:
            return self._seconds[0]
        x0, y0 = self._rows[index - 1], self._seconds[index - 1]
        if index == len(self._rows):
            return y0 * rows / x0
        x1, y1 = self._rows[index], self._seconds[index]
        return y0 + (y1 - y0) * (rows - x0) / (x1 - x0)

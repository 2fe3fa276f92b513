"""GPU model runner: launches steps asynchronously, without a host synchronization per step.

The last token of each sequence and the set of its tokens are kept on the device, in a state table
with a slot per sequence. Decode steps read fixed buffers that the device itself advances; on CUDA
they are replayed from graphs. Steps with prefill chunks are launched kernel by kernel. Drawn tokens
go to a ring buffer on the device, and on a second stream from there to the host.

In Triton's interpreter the same code runs on the CPU, without graphs and streams.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.execution.batch import Batch, Int64Array
from thothy_batch.engine.execution.decode_graphs import DecodeGraphs, bucket_of, row_buckets
from thothy_batch.engine.execution.device_batch import to_device
from thothy_batch.engine.execution.dummy_batches import DummyBatches
from thothy_batch.engine.execution.graph_buffers import GraphBuffers, attention_shape
from thothy_batch.engine.execution.host_to_device import upload
from thothy_batch.engine.execution.kernel_autotune import tune_kernels
from thothy_batch.errors import EngineError
from thothy_batch.model import Decoder, KVPool
from thothy_kernels.sample import penalize_seen, sample
from thothy_kernels.step_state import (
    StateTable,
    advance_inputs,
    clear_seen,
    mark_seen,
    record_tokens,
)

# Launches in flight while the host decides on the next batch, and decode steps of a launch.
# Together they hide the host's time per launch (some milliseconds for 500 sequences); each further
# step may be wasted on a sequence that ended at a stop token.
_LOOKAHEAD, _MAX_STEPS = 1, 4
# All samples of a request run at once, even if the settings allow fewer sequences.
_MIN_ROWS = 64
# Steps whose drawn tokens the device keeps: more than can be in flight.
_RING = 32


@dataclass(frozen=True, slots=True)
class _Read:
    """Tokens on their way to the host, int64 [steps, R]."""

    host: torch.Tensor
    arrived: torch.cuda.Event | None

    def tokens(self) -> Int64Array:
        if self.arrived is not None:
            self.arrived.synchronize()
        found: Int64Array = self.host.numpy()
        return found


class GPURunner:
    """A decoder, its KV pool and the state of its sequences; both a Launcher and a Runner."""

    keeps_state = True

    def __init__(
        self,
        decoder: Decoder,
        kv: KVPool,
        layout: KVLayout,
        *,
        max_seqs: int,
        lookahead: int = _LOOKAHEAD,
        max_steps: int = _MAX_STEPS,
        graphs: DecodeGraphs | None = None,
        buckets: list[int] | None = None,
    ) -> None:
        """`max_seqs`: most sequences that run at once, unless one request has more samples.

        `buckets`: numbers of rows that decode steps are padded to.
        """
        max_seqs = max(max_seqs, _MIN_ROWS)
        assert (lookahead + 1) * max_steps <= _RING
        config = decoder.config
        self.lookahead, self.max_samples = lookahead, max_seqs
        self._decoder, self._kv, self._layout = decoder, kv, layout
        self._device = decoder.device
        self._is_cuda = self._device.type == "cuda"
        # Fixed buffers need kernels that read all of their inputs on the device.
        self._is_fixed = decoder.attention_impl == "triton"
        # Steps built on the host do not mask sequences that have reached their limit.
        self.max_steps = max_steps if self._is_fixed else 1
        self._state = StateTable.allocate(max_seqs, config.vocab_size, self._device)
        self._ring = torch.zeros((_RING, max_seqs), dtype=torch.int64, device=self._device)
        # Shared by all buckets: only one batch decodes at a time.
        columns = self._layout.blocks_for(config.max_model_len)
        self._block_tables = tuple(
            torch.full((max_seqs, columns), -1, dtype=torch.int32, device=self._device)
            for _ in layout.groups
        )
        self._counter = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._num_steps = 0  # the counter's value on the host
        self._buckets = buckets or row_buckets(max_seqs)
        self._buffers: dict[int, GraphBuffers] = {}
        self._graphs = DecodeGraphs() if graphs is None else graphs
        self._reading = torch.cuda.Stream() if self._is_cuda else None  # type: ignore[no-untyped-call]
        self._batch: Batch | None = None
        self._fixed: GraphBuffers | None = None  # of the current batch, if all of it decodes
        self._is_first = True
        self._is_broken = False

    @torch.inference_mode()
    def begin(self, batch: Batch) -> None:
        """Prepare a batch's first step."""
        self._batch, self._fixed, self._is_first = batch, None, True
        for group in {group for group, _, _ in batch.copies}:
            pairs = [(source, target) for g, source, target in batch.copies if g == group]
            self._kv.copy_blocks(group, pairs)
        if batch.seen:
            self._mark_seen(batch)
        if self._is_fixed and batch.num_decoding == len(batch.context_lens):
            self._fixed = self._buffers_for(bucket_of(batch.num_decoding, self._buckets))
            self._fixed.fill(batch)
            slots = self._fixed.inputs.slots
            torch.index_select(self._state.last_tokens, 0, slots, out=self._fixed.inputs.token_ids)

    @torch.inference_mode()
    def launch(self, num_steps: int) -> _Read:
        """Compute the batch's next steps."""
        assert self._batch is not None, "begin comes before launch"
        first = self._num_steps
        for _ in range(num_steps):
            self._next_step(self._batch, is_first=self._num_steps == first)
            self._num_steps += 1
        return self._read(first, num_steps, len(self._batch.logits_rows))

    def _next_step(self, batch: Batch, *, is_first: bool) -> None:
        """Compute one step. `is_first`: of a launch.

        If a later step fails, the device's state is ahead of the engine's counts for good.
        """
        if self._is_broken:
            raise EngineError("a launch failed midway: the engine must be restarted")
        try:
            if self._fixed is not None:
                self._fixed_step(self._fixed, grouped=len(batch.shared) > 0)
            else:
                self._step(batch)
        except BaseException:
            self._is_broken = not is_first
            raise

    def run(self, batch: Batch) -> Int64Array:
        """Compute one step and wait for its tokens, int64 [R]. For warm-up and measurements."""
        self.begin(batch)
        tokens: Int64Array = self.launch(1).tokens()[0]
        if self._is_cuda and not len(batch.logits_rows):
            torch.cuda.synchronize()
        return tokens

    def _fixed_step(self, buffers: GraphBuffers, *, grouped: bool) -> None:
        key = buffers.num_rows, grouped
        if key in self._graphs:
            self._graphs.replay(key)
        else:
            self._compute_fixed(buffers, grouped)

    def _compute_fixed(self, buffers: GraphBuffers, grouped: bool) -> None:
        """Compute one decode step from fixed buffers and advance them: the content of a graph."""
        impl = self._decoder.impl
        logits_RV = self._decoder.forward(buffers.forward_inputs(grouped=grouped), self._kv)
        penalize_seen(logits_RV, self._state.seen, buffers.inputs.slots, buffers.penalty, impl=impl)
        drawn = sample(logits_RV, buffers.sampling, impl=impl)
        advance_inputs(
            buffers.inputs,
            self._state,
            drawn,
            self._ring,
            self._counter,
            block_size=self._layout.block_size,
            impl=impl,
        )

    def _step(self, batch: Batch) -> None:
        """Compute one step of any batch, built on the host."""
        if not self._is_first:
            batch.advance(np.zeros(len(batch.token_ids), np.int64))
        self._is_first = False
        impl, R = self._decoder.impl, len(batch.logits_rows)
        step = to_device(batch, self._layout.groups, self._state.last_tokens)
        logits_RV = self._decoder.forward(step.inputs, self._kv)
        if R:
            penalize_seen(logits_RV, self._state.seen, step.slots, step.penalty, impl=impl)
            drawn = sample(logits_RV, step.sampling, impl=impl)
            record_tokens(self._state, step.slots, drawn, impl=impl)
            self._ring[self._num_steps % _RING, :R].copy_(drawn)
        self._counter.add_(1)

    def _mark_seen(self, batch: Batch) -> None:
        """Record all tokens of sequences with a repetition penalty."""
        lens = [len(tokens) for _, tokens in batch.seen]
        slots = np.array([slot for slot, _ in batch.seen], np.int64)
        arrays = {
            "new": slots,
            "slots": np.repeat(slots, lens),
            "token_ids": np.concatenate([tokens for _, tokens in batch.seen]).astype(np.int64),
        }
        on_device = upload(arrays, self._device)
        clear_seen(self._state, on_device["new"])
        mark_seen(self._state, on_device["slots"], on_device["token_ids"], impl=self._decoder.impl)

    def _read(self, first: int, num_steps: int, num_rows: int) -> _Read:
        """Send the tokens of steps [first, first + num_steps) to the host."""
        host = torch.empty((num_steps, num_rows), dtype=torch.int64, pin_memory=self._is_cuda)
        if self._reading is None:
            self._copy_ring(host, first)
            return _Read(host, None)
        self._reading.wait_stream(torch.cuda.current_stream())
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._reading):
            self._copy_ring(host, first)
            arrived.record()
        return _Read(host, arrived)

    def _copy_ring(self, host: torch.Tensor, first: int) -> None:
        num_steps, num_rows = host.shape
        for step in range(num_steps):
            host[step].copy_(self._ring[(first + step) % _RING, :num_rows], non_blocking=True)

    def _buffers_for(self, num_rows: int) -> GraphBuffers:
        buffers = self._buffers.get(num_rows)
        if buffers is None:
            config = self._decoder.config
            buffers = self._buffers[num_rows] = GraphBuffers(
                num_rows,
                self._block_tables,
                padding_slot=self._state.num_slots,
                groups=self._layout.groups,
                shape=attention_shape(config, self._layout.block_size, self._kv.k.dtype),
                device=self._device,
                has_rope_offsets=config.short_rope_len is not None,
            )
        return buffers

    def warm_up(self, batches: DummyBatches) -> list[str]:
        """Tune and compile all kernels that a run may launch. Overwrites the pool.

        Returns notes for the user.
        """
        # Graphs keep the launch settings they were captured with, so tuning comes first.
        has_graphs = self._is_cuda and self._is_fixed
        notes = tune_kernels(self._decoder.config, self._kv) if has_graphs else []
        self.run(batches.chunk(0, min(2, batches.max_chunk)))
        self.run(batches.decode(1, 1))
        if has_graphs:
            self.capture()
        return notes

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture the graphs of all decode steps, largest first: the others reuse its memory."""
        # If all layers have a window nothing is grouped.
        kinds = (True, False) if self._layout.groups[0].window is None else (False,)
        for num_rows in reversed(self._buckets):
            for grouped in kinds:
                buffers = self._buffers_for(num_rows)
                step = partial(self._compute_fixed, buffers, grouped)
                self._graphs.capture((num_rows, grouped), step)
        self._counter.fill_(self._num_steps)

"""From an EngineSpec to an engine that is ready: loaded, pool allocated, warmed up."""

import os
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from thothy_batch.engine.block_manager import BlockManager
from thothy_batch.engine.config import (
    CPU_MAX_SEQS,
    CPU_MAX_STEP_TOKENS,
    EngineConfig,
    resolve_device,
    resolve_impl,
    resolve_num_blocks,
)
from thothy_batch.engine.fake import (
    FAKE_MAX_MODEL_LEN,
    ByteTokenizer,
    FakeModelRunner,
    is_fake,
    step_seconds,
)
from thothy_batch.engine.llm_engine import Decode, LLMEngine, StepRunner
from thothy_batch.engine.scheduler import Scheduler
from thothy_batch.model.locate import locate_model
from thothy_batch.model.tokenizer import Tokenizer, load_tokenizer
from thothy_batch.records import EngineInfo, EngineSpec, Request, Sampling

_FAKE_POOL_TOKENS = 1 << 20
_PACKAGES = ("thothy-batch", "torch", "numpy", "numba", "tokenizers", "transformers", "duckdb")


@dataclass(frozen=True, slots=True)
class Started:
    """A ready engine and what it resolved."""

    engine: LLMEngine
    info: EngineInfo


@dataclass(frozen=True, slots=True)
class _Parts:
    runner: StepRunner
    config: EngineConfig
    decode: Decode | None
    stop_token_ids: frozenset[int]
    model: dict[str, object]


def start_engine(spec: EngineSpec) -> Started:
    """Raises ModelError for a model or settings that cannot be used."""
    began = time.monotonic()
    parts = _fake_parts(spec) if is_fake(spec.model.id) else _real_parts(spec)
    _warm_up(_engine(parts))
    engine = _engine(parts)
    info = EngineInfo(
        model=parts.model,
        engine=asdict(parts.config),
        versions=_versions(),
        load_s=time.monotonic() - began,
        max_model_len=parts.config.max_model_len,
        pool_tokens=parts.config.num_blocks * parts.config.block_size,
    )
    return Started(engine, info)


def _engine(parts: _Parts) -> LLMEngine:
    config = parts.config
    scheduler = Scheduler(
        BlockManager(config.num_blocks, prefix_sharing=config.prefix_sharing),
        block_size=config.block_size,
        max_seqs=config.max_seqs,
        max_step_tokens=config.max_step_tokens,
        optimistic=config.admission == "optimistic",
    )
    return LLMEngine(
        scheduler,
        parts.runner,
        max_model_len=config.max_model_len,
        stop_token_ids=parts.stop_token_ids,
        decode=parts.decode,
    )


def _warm_up(engine: LLMEngine) -> None:
    """A prompt and a few tokens, greedy and sampled: compiles what is compiled at first use."""
    room = min(
        engine.max_model_len, engine.scheduler.blocks.num_blocks * engine.scheduler.block_size
    )
    length = max(1, min(40, room - 3))
    for number, temperature in enumerate((0.0, 0.8)):
        sampling = Sampling(temperature, 0.9, 8, max_tokens=max(1, min(3, room - length)))
        engine.submit([Request(number, "", [1] * length, sampling)])
    while engine.has_work:
        engine.step()


def _config(spec: EngineSpec, dtype: str, num_blocks: int, max_model_len: int) -> EngineConfig:
    return EngineConfig(
        device=resolve_device(spec),
        impl=resolve_impl(spec),
        dtype=dtype,
        block_size=spec.block_size,
        num_blocks=num_blocks,
        max_seqs=spec.max_seqs or CPU_MAX_SEQS,
        max_step_tokens=spec.max_step_tokens or CPU_MAX_STEP_TOKENS,
        max_model_len=max_model_len,
        prefix_sharing=spec.prefix_sharing,
        admission=spec.admission,
        num_threads=len(os.sched_getaffinity(0)),
    )


def _fake_parts(spec: EngineSpec) -> _Parts:
    num_blocks = spec.num_blocks or _FAKE_POOL_TOKENS // spec.block_size
    tokenizer = ByteTokenizer()
    return _Parts(
        FakeModelRunner(step_seconds(spec.model.id)),
        _config(spec, "none", num_blocks, FAKE_MAX_MODEL_LEN),
        tokenizer.decode,
        tokenizer.stop_token_ids,
        {"id": spec.model.id, "architecture": "fake", "dtype": "none"},
    )


def _real_parts(spec: EngineSpec) -> _Parts:
    # Late: torch takes a second to import and the fake engine does without it.
    import torch

    from thothy_batch.engine.model_runner import ModelRunner
    from thothy_batch.engine.sampler import Sampler
    from thothy_batch.model.config import kv_bytes_per_token, num_parameters
    from thothy_batch.model.kv_pool import KVPool
    from thothy_batch.model.loading import load_decoder

    device, impl = resolve_device(spec), resolve_impl(spec)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    loaded = load_decoder(spec.model, device=device, impl=impl)
    per_block = kv_bytes_per_token(loaded.config, loaded.dtype) * spec.block_size
    num_blocks = resolve_num_blocks(spec, per_block, loaded.config.max_model_len)
    kv = KVPool.allocate(
        loaded.config, num_blocks, spec.block_size, loaded.dtype, device, impl=impl
    )
    return _Parts(
        ModelRunner(loaded.decoder, kv, Sampler(impl)),
        _config(spec, loaded.dtype, num_blocks, loaded.config.max_model_len),
        loaded.tokenizer.decode if loaded.tokenizer else None,
        loaded.stop_token_ids,
        {
            "id": spec.model.id,
            "name": loaded.files.name,
            "commit": loaded.files.commit,
            "embedded": loaded.files.embedded,
            "architecture": loaded.config.architecture,
            "num_parameters": num_parameters(loaded.config),
            "dtype": loaded.dtype,
            "random_weights": spec.model.random_weights,
        },
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def tokenizer_for(spec: EngineSpec) -> Tokenizer | ByteTokenizer | None:
    """The tokenizer of the spec's model without its weights; None where the checkpoint has none."""
    if is_fake(spec.model.id):
        return ByteTokenizer()
    return load_tokenizer(locate_model(spec.model).directory)

"""The values that pass between the packages. Standard library only."""

from thothy_batch.records.engine_state import (
    DeviceLimits,
    EngineEvent,
    EngineInfo,
    EngineTotals,
    EngineUpdate,
    LayerGroup,
    ResolvedEngine,
    ResolvedModel,
    StepSample,
)
from thothy_batch.records.entries import EntryKey, Item, ItemStatus
from thothy_batch.records.requests import (
    Completion,
    FailureCode,
    FinishReason,
    Request,
    RequestFailure,
    RequestResult,
    SharedPrefix,
    TokenIds,
)
from thothy_batch.records.specs import EngineSpec, ModelSpec, Sampling

__all__ = [
    "Completion",
    "DeviceLimits",
    "EngineEvent",
    "EngineInfo",
    "EngineSpec",
    "EngineTotals",
    "EngineUpdate",
    "EntryKey",
    "FailureCode",
    "FinishReason",
    "Item",
    "ItemStatus",
    "LayerGroup",
    "ModelSpec",
    "Request",
    "RequestFailure",
    "RequestResult",
    "ResolvedEngine",
    "ResolvedModel",
    "Sampling",
    "SharedPrefix",
    "StepSample",
    "TokenIds",
]

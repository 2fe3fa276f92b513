"""The whole night before its first token: identities, order, sharing, figures."""

from thothy_batch.plan.chains import Chains, chain_prompts
from thothy_batch.plan.fit import Unfit, blocks_needed, find_unfit
from thothy_batch.plan.keys import artifact_id, request_key, row_seed
from thothy_batch.plan.night import LengthStats, NightStats, night_stats
from thothy_batch.plan.order import POLICIES, order_requests
from thothy_batch.plan.sharing import SharingStats, sharing_stats
from thothy_batch.plan.workers import map_chunks

__all__ = [
    "POLICIES",
    "Chains",
    "LengthStats",
    "NightStats",
    "SharingStats",
    "Unfit",
    "artifact_id",
    "blocks_needed",
    "chain_prompts",
    "find_unfit",
    "map_chunks",
    "night_stats",
    "order_requests",
    "request_key",
    "row_seed",
    "sharing_stats",
]

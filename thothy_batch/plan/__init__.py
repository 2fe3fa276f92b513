"""The whole night before its first token: identities, order, sharing, figures."""

from thothy_batch.plan.block_hashes import Chains, chain_prompts
from thothy_batch.plan.keys import artifact_id, request_key, row_seed
from thothy_batch.plan.order import POLICIES
from thothy_batch.plan.output_estimate import OutputEstimates
from thothy_batch.plan.planner import RequestPlan, plan_requests
from thothy_batch.plan.prefix_tree import PrefixTree, prefix_tree
from thothy_batch.plan.repeated_text import Repeats, repeated_text
from thothy_batch.plan.request_stats import LengthStats, NightStats, night_stats
from thothy_batch.plan.sharing_stats import SharingStats, sharing_stats
from thothy_batch.process.pool import map_chunks

__all__ = [
    "POLICIES",
    "Chains",
    "LengthStats",
    "NightStats",
    "OutputEstimates",
    "PrefixTree",
    "Repeats",
    "RequestPlan",
    "SharingStats",
    "artifact_id",
    "chain_prompts",
    "map_chunks",
    "night_stats",
    "plan_requests",
    "prefix_tree",
    "repeated_text",
    "request_key",
    "row_seed",
    "sharing_stats",
]

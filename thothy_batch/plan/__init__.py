"""Plans a run before its first token: identities, order, shared prefixes, statistics."""

from thothy_batch.plan.block_hashes import BlockHashes, chain_prompts
from thothy_batch.plan.keys import artifact_id, request_key, row_seed
from thothy_batch.plan.order import POLICIES
from thothy_batch.plan.output_estimate import OutputEstimates
from thothy_batch.plan.planner import RequestPlan, plan_requests
from thothy_batch.plan.prefix_tree import prefix_tree
from thothy_batch.plan.repeated_text import RepeatedText, repeated_text
from thothy_batch.plan.request_stats import LengthStats, RequestStats, request_stats
from thothy_batch.plan.sharing_stats import sharing_stats

__all__ = [
    "POLICIES",
    "BlockHashes",
    "LengthStats",
    "OutputEstimates",
    "RepeatedText",
    "RequestPlan",
    "RequestStats",
    "artifact_id",
    "chain_prompts",
    "plan_requests",
    "prefix_tree",
    "repeated_text",
    "request_key",
    "request_stats",
    "row_seed",
    "sharing_stats",
]

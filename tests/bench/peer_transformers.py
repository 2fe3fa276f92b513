"""The peer of bench_runs.py: continuous batching of transformers.

Driven through its manager: its generate_batch is a call of that with one output length for all.
"""

import time
from typing import Any


def run_peer(workload: Any, folder: str, device: str, seed: int) -> dict[str, Any]:
    """Shared beginnings come in the order in which generate_batch has them."""
    import torch
    import transformers as hf
    from transformers.generation.continuous_batching.utils import WorkloadHints

    from thothy_batch.bench.machine import BusyMeter, PeakMemory
    from thothy_batch.engine.cost.measurement_cache import device_name

    memory = PeakMemory(device)
    torch.manual_seed(seed)
    with torch.device(device):
        model = hf.AutoModelForCausalLM.from_config(
            hf.AutoConfig.from_pretrained(folder),
            dtype=torch.bfloat16,
            attn_implementation="sdpa",
        ).eval()
    requests = sorted(workload.requests, key=lambda r: list(r.prompt_token_ids), reverse=True)
    longest = max(request.sampling.max_tokens for request in requests)
    hints = WorkloadHints(
        max_prompt_length=max(len(request.prompt_token_ids) for request in requests),
        max_generated_length=longest,
        num_requests=len(requests),
    )
    config = hf.GenerationConfig(
        do_sample=False, max_new_tokens=longest, eos_token_id=-1, pad_token_id=0
    )
    # On a CPU its pool would take most of the machine's memory; on a GPU it keeps its own defaults.
    limits = {} if device == "cuda" else {"num_blocks": 64, "max_batch_tokens": 512}
    with (
        model.continuous_batching_context_manager(
            generation_config=config,
            continuous_batching_config=hf.ContinuousBatchingConfig(**limits),
            workload_hints=hints,
            timeout=5,
        ) as manager,
        BusyMeter(device) as busy,
    ):
        began = time.monotonic()
        output_tokens = drive(manager, requests)
        engine_s = time.monotonic() - began
    asked = sum(request.sampling.max_tokens for request in requests)
    if output_tokens != asked:
        raise SystemExit(f"transformers gave {output_tokens} tokens, {asked} were asked for")
    prompt_tokens = sum(len(request.prompt_token_ids) for request in requests)
    return {
        "engine_s": engine_s,
        "num_done": len(requests),
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "output_tokens_per_s": output_tokens / engine_s,
        "total_tokens_per_s": (prompt_tokens + output_tokens) / engine_s,
        "artifacts_per_hour": 3600 * len(requests) / engine_s,
        "busy_fraction": busy.fraction,
        "peak_memory_bytes": memory.num_bytes(),
        "device_name": device_name(device),
        "versions": {"transformers": hf.__version__, "torch": torch.__version__},
    }


def drive(manager: Any, requests: list[Any]) -> int:
    """Hands all requests over and waits for them; returns the tokens that came."""
    for request in requests:
        manager.add_request(
            list(request.prompt_token_ids),
            max_new_tokens=request.sampling.max_tokens,
            eos_token_id=-1,
        )
    num_done = num_tokens = 0
    while num_done < len(requests):
        result = manager.get_result(timeout=1)
        if result is None:
            if not manager.is_running():
                raise SystemExit(f"transformers stopped after {num_done} requests")
        elif result.is_finished():
            if result.error is not None:
                raise SystemExit(f"transformers: {result.error}")
            num_done += 1
            num_tokens += len(result.generated_tokens)
    return num_tokens

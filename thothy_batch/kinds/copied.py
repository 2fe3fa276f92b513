"""Whether a completion only says again what stood in the prompt.

A run is a stretch of at least MIN_RUN output tokens that stands in the prompt in the same order.
Found by seeds, as rsync does: the prompt is cut into pieces of SEED tokens, every piece is looked
up under the output's windows of that length, and a hit is grown in both directions. A run of
MIN_RUN tokens holds at least one whole piece, so none is missed, and each output token is grown
over at most MAX_PLACES times: near-linear in prompt and output.
"""

from collections.abc import Sequence

MIN_RUN = 32
SEED = 16
MAX_PLACES = 8  # places in the prompt that are tried for one seed


def copied_runs(prompt_ids: Sequence[int], output_ids: Sequence[int]) -> list[int]:
    """Lengths in tokens of the runs that cover the output, from left to right, none overlapping."""
    if len(output_ids) < MIN_RUN or len(prompt_ids) < MIN_RUN:
        return []
    places = _index(prompt_ids)
    output = tuple(output_ids)
    runs = []
    covered_to = 0
    at = 0
    while at + SEED <= len(output):
        begin, end = at, at
        for place in places.get(output[at : at + SEED], ()):
            left, right = _grow(prompt_ids, output, place, at, covered_to)
            if right - left > end - begin:
                begin, end = left, right
        if end - begin >= MIN_RUN:
            runs.append(end - begin)
            covered_to = at = end
        else:
            at += 1
    return runs


def _index(prompt_ids: Sequence[int]) -> dict[tuple[int, ...], list[int]]:
    places: dict[tuple[int, ...], list[int]] = {}
    for start in range(0, len(prompt_ids) - SEED + 1, SEED):
        found = places.setdefault(tuple(prompt_ids[start : start + SEED]), [])
        if len(found) < MAX_PLACES:
            found.append(start)
    return places


def _grow(
    prompt_ids: Sequence[int], output: tuple[int, ...], place: int, at: int, floor: int
) -> tuple[int, int]:
    """Begin and end, in the output, of the run around a seed; not below `floor`."""
    left, back = at, place
    while left > floor and back > 0 and output[left - 1] == prompt_ids[back - 1]:
        left, back = left - 1, back - 1
    right, front = at + SEED, place + SEED
    last, top = len(output), len(prompt_ids)
    while right < last and front < top and output[right] == prompt_ids[front]:
        right, front = right + 1, front + 1
    return left, right

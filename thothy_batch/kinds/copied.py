"""Finds runs of tokens that a completion copies from its prompt.

A run is a stretch of at least MIN_RUN output tokens that occurs in the prompt in the same order.
The search uses seeds, as rsync does: the prompt is cut into pieces of SEED tokens, each window of
the output is looked up among them, and a hit is extended in both directions. A run of MIN_RUN
tokens contains at least one whole piece, so none is missed. Each output token is visited at most
MAX_PLACES times, so the search is near-linear in prompt and output.
"""

from collections.abc import Sequence

MIN_RUN = 32
SEED = 16
MAX_PLACES = 8  # positions in the prompt tried per seed


def copied_runs(prompt_ids: Sequence[int], output_ids: Sequence[int]) -> list[int]:
    """Return the lengths in tokens of the copied runs, left to right, without overlap."""
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
    """Return begin and end, in the output, of the run around a seed; begin is at least `floor`."""
    left, back = at, place
    while left > floor and back > 0 and output[left - 1] == prompt_ids[back - 1]:
        left, back = left - 1, back - 1
    right, front = at + SEED, place + SEED
    last, top = len(output), len(prompt_ids)
    while right < last and front < top and output[right] == prompt_ids[front]:
        right, front = right + 1, front + 1
    return left, right

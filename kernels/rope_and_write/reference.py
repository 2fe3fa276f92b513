"""rope_and_write_kv by the references of its parts: the definition."""

from functools import partial

from thothy_kernels.rope_and_write.composition import composed

rope_and_write_kv = partial(composed, "reference")

"""Rotation of one head in SIMD vectors, shared by the CPU kernels of rope and rope_and_write."""

from thothy_kernels.numba_simd import vec16
from thothy_kernels.numba_simd.functions import inlined


@inlined
def rotate(x, source, out, target, cos_sin, angles, half):  # type: ignore[no-untyped-def]
    """out[target:] = the head of 2 * half elements at x[source:], rotated; in place if both agree.

    Cosines and sines begin at cos_sin[angles].
    """
    for i in range(0, half, 16):
        n = min(16, half - i)
        if n == 16:
            a, b = vec16.load(x, source + i), vec16.load(x, source + half + i)
            cos, sin = vec16.load(cos_sin, angles + i), vec16.load(cos_sin, angles + half + i)
        else:
            a = vec16.load_first(x, source + i, n)
            b = vec16.load_first(x, source + half + i, n)
            cos = vec16.load_first(cos_sin, angles + i, n)
            sin = vec16.load_first(cos_sin, angles + half + i, n)
        first = vec16.subtract(vec16.multiply(a, cos), vec16.multiply(b, sin))
        second = vec16.add(vec16.multiply(b, cos), vec16.multiply(a, sin))
        if n == 16:
            vec16.store(out, target + i, first)
            vec16.store(out, target + half + i, second)
        else:
            vec16.store_first(out, target + i, first, n)
            vec16.store_first(out, target + half + i, second, n)

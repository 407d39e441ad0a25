"""Standard normal numbers from random bits, the same on every machine: Box-Muller in float64, log and sine its own.

NumPy's log, sin and cos differ in their last bit between CPUs, versions, and the end of an array and its middle. Here
they are polynomials of additions, multiplications, divisions and square roots, each of which IEEE 754 defines to the
bit, and NumPy does each by itself. Error: some 1e-16 of a value, where the bits themselves have 53.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LN_2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_QUARTER_PI = 0.7853981633974483
_ATANH = tuple(1 / (2 * k + 1) for k in range(12))
"""atanh s = s (1 + s^2/3 + s^4/5 …), for s up to 0.172: what follows is below 1e-19."""
_SINE = (
    1.0,
    -1 / 6,
    1 / 120,
    -1 / 5040,
    1 / 362880,
    -1 / 39916800,
    1 / 6227020800,
    -1 / 1307674368000,
    1 / 355687428096000,
)
_COSINE = (1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600, -1 / 87178291200, 1 / 20922789888000)
"""In powers of x^2, for x up to pi/4: what follows is below 1e-17."""


def normals_of(words: NDArray[np.uint64]) -> Floats:
    """As many as there are words, an even number; each pair of words makes a pair of independent normals.

    The largest that can come is sqrt(2 ln 2^53) = 8.57.
    """
    radius = np.sqrt(-2.0 * _log(_above_zero(words[0::2])))
    cosine, sine = _on_circle(words[1::2])
    out = np.empty(len(words))
    np.multiply(radius, cosine, out=out[0::2])
    np.multiply(radius, sine, out=out[1::2])
    return out


def _above_zero(words: NDArray[np.uint64]) -> Floats:
    """Uniform on the multiples of 2^-53 above 0, up to 1."""
    return ((words >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53


def _log(x: Floats) -> Floats:
    """ln x = e ln 2 + 2 atanh((m - 1) / (m + 1)), where x = m 2^e, and m is from sqrt(1/2) to sqrt(2)."""
    mantissa, exponent = np.frexp(x)
    is_small = mantissa < _SQRT_HALF
    mantissa = np.where(is_small, mantissa * 2.0, mantissa)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    return (exponent - is_small) * _LN_2 + 2.0 * ratio * _polynomial(_ATANH, ratio * ratio)


def _on_circle(words: NDArray[np.uint64]) -> tuple[Floats, Floats]:
    """Cosine and sine of a random angle: its eighth of the circle from 3 bits, the place in that from 50."""
    eighth = words >> np.uint64(61)
    angle = ((words >> np.uint64(11)) & np.uint64(2**50 - 1)).astype(np.float64) * (_QUARTER_PI * 2.0**-50)
    square = angle * angle
    sine, cosine = angle * _polynomial(_SINE, square), _polynomial(_COSINE, square)
    is_swapped = eighth & np.uint64(1) != 0
    first, second = np.where(is_swapped, sine, cosine), np.where(is_swapped, cosine, sine)
    return np.where(eighth & np.uint64(2) != 0, -first, first), np.where(eighth & np.uint64(4) != 0, -second, second)


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """Horner's rule."""
    value = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value *= x
        value += coefficient
    return value

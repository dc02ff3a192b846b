"""exp for compiled loops: numba calls the C library's for one number at a time, this is done for many at once."""

from functools import partial

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from clipret.machine.compiling import compiled

# What is below it is about 1e-38; float32 has hardly anything smaller.
_LOWEST = np.float32(-87.0)
_HALF, _ONE = np.float32(0.5), np.float32(1.0)
_LOG2_E = np.float32(1.4426950408889634)
# log 2 in two parts, the first so short that its products with whole numbers are exact.
_LOG_2, _REST = np.float32(0.693359375), np.float32(-2.12194440e-4)
# exp(r) = 1 + r + r^2 p(r) for |r| <= log(2) / 2, highest power first: the coefficients of Moshier's Cephes library.
_P = tuple(
    np.float32(value)
    for value in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_P5, _P4, _P3, _P2, _P1, _P0 = _P


@intrinsic
def _power_of_two(typing, exponent):
    """float32 2^exponent, of an int32 from -126 to 127."""

    def write(context, builder, signature, arguments):
        whole = ir.IntType(32)
        biased = builder.shl(builder.add(arguments[0], whole(127)), whole(23))
        return builder.bitcast(biased, ir.FloatType())

    return types.float32(types.int32), write


# Sums keep their order here: another would undo the two parts of log 2.
@partial(compiled, fastmath={"contract"})
def exp_of_nonpositive(x):
    """exp(x) of float32 x <= 0, to two units in the last place; about 1e-38 where it would be less; NaN of NaN."""
    x = _LOWEST if x < _LOWEST else x
    twos = np.int32(x * _LOG2_E - _HALF)
    whole = np.float32(twos)
    r = (x - whole * _LOG_2) - whole * _REST
    p = ((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r + _P0
    return (p * r * r + r + _ONE) * _power_of_two(twos)

"""Instructions of x86 processors that numba has no function for, for use in compiled loops.

PRODUCTS  whether it has fold_row: carry-less products
HALVES    whether it has single_of_half: conversions of float16
"""

import platform

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def _has(name: str) -> bool:
    """Whether numba compiles for this machine as it is, and it has the feature that LLVM calls so."""
    if platform.machine().lower() not in ("x86_64", "amd64") or numba.config.CPU_NAME or numba.config.CPU_FEATURES:
        return False
    try:
        return bool(llvmlite.binding.get_host_cpu_features().get(name))
    except RuntimeError:
        return False


PRODUCTS, HALVES = _has("pclmul"), _has("f16c")
_PAIR = ir.VectorType(ir.IntType(64), 2)


@intrinsic
def fold_row(typing, words, row, start, first, second):
    """Two uint64 with the remainder that the pairs of words of a row have, as polynomials over bits.

    words          (n, w) uint64, contiguous, w at least 2; a last one without a partner is left out
    start          uint64, added to the first word
    first, second  uint64, what the first and the second word of a pair become one pair further on
    """
    pair = types.UniTuple(types.uint64, 2)
    return pair(words, types.intp, types.uint64, types.uint64, types.uint64), _write_fold


def _write_fold(context, builder, signature, arguments):
    words, row, start, first, second = arguments
    array = context.make_array(signature.args[0])(context, builder, words)
    width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
    begin = builder.gep(array.data, [builder.mul(row, width)])
    byte = ir.IntType(8)
    product = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_PAIR, [_PAIR, _PAIR, byte]), "llvm.x86.pclmulqdq"
    )

    def vector(one, two):
        values = ir.Constant(_PAIR, ir.Undefined)
        for place, value in enumerate((one, two)):
            values = builder.insert_element(values, value, ir.IntType(32)(place))
        return values

    def load(place):
        pointer = builder.bitcast(builder.gep(begin, [place]), _PAIR.as_pointer())
        values = builder.load(pointer)
        values.align = 8
        return values

    factors = vector(first, second)
    total = cgutils.alloca_once_value(builder, builder.xor(load(row.type(0)), vector(start, ir.IntType(64)(0))))
    stop = builder.sub(width, row.type(1))
    with cgutils.for_range_slice(builder, row.type(2), stop, row.type(2), intp=row.type) as (place, _):
        before = builder.load(total)
        # The halves of both operands: 0x00 are the lower, 0x11 the upper ones.
        folded = [builder.call(product, [before, factors, byte(halves)]) for halves in (0x00, 0x11)]
        builder.store(builder.xor(builder.xor(*folded), load(place)), total)
    remainder = builder.load(total)
    halves = [builder.extract_element(remainder, ir.IntType(32)(place)) for place in (0, 1)]
    return context.make_tuple(builder, signature.return_type, halves)


@intrinsic
def single_of_half(typing, pattern):
    """The float32 of a float16 that is given as the uint16 of its bits."""

    def write(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), write

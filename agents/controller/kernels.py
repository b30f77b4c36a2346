"""Vector arithmetic of the decision path: one layer of a network in a few hundred instructions.

Weights lie transposed, a row per input, so that a layer adds multiples of rows. Numba's own
vectoriser keeps the sums in memory; these keep them in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
NARROW, WIDE = 16, 64  # float32 lanes; WIDE hides the latency of a multiply-add


def _fused(function: FunctionT) -> FunctionT:
    """Merge into kernels, which cache it; sums may be fused and reordered, NaN stays NaN."""
    jit: Any = numba.njit  # its stub does not know _nrt
    made = jit(
        fastmath={"contract", "reassoc"}, nogil=True, error_model="numpy", _nrt=False,
        forceinline=True,
    )(function)  # fmt: skip
    return cast(FunctionT, made)


def _affine(lanes: int) -> Any:
    """``affine(nets, weights, inputs, source, start, into, column)`` on ``lanes`` columns.

    ``nets[into] = nets[start] + sum over i < inputs of nets[source, i] * nets[weights + i]``
    """
    floats: Any = ir.FloatType()
    vector: Any = ir.VectorType(floats, lanes)
    index: Any = ir.IntType(32)

    def affine(typing: Any, nets: Any, *numbers: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            weights, inputs, source, start, into, column = args[1:]
            view = context.make_array(signature.args[0])(context, builder, args[0])
            stride = builder.extract_value(view.strides, 0)
            data = builder.ptrtoint(view.data, stride.type)
            size = stride.type(4)  # bytes of a float32

            def at(row: Any, place: Any, kind: Any) -> Any:
                offset = builder.add(builder.mul(row, stride), builder.mul(place, size))
                return builder.inttoptr(builder.add(data, offset), kind.as_pointer())

            fma = cast(Any, cgutils).get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32"
            )
            none = ir.Constant(vector, ir.Undefined)
            first = ir.Constant(ir.VectorType(index, lanes), [0] * lanes)
            total = cast(Any, cgutils).alloca_once(builder, vector)
            builder.store(builder.load(at(start, column, vector), align=4), total)
            with cgutils.for_range(builder, inputs) as loop:
                value = builder.load(at(source, loop.index, floats), align=4)
                spread = builder.shuffle_vector(
                    builder.insert_element(none, value, index(0)), none, first
                )
                row = builder.load(at(builder.add(weights, loop.index), column, vector), align=4)
                builder.store(builder.call(fma, [spread, row, builder.load(total)]), total)
            builder.store(builder.load(total), at(into, column, vector), align=4)
            return context.get_dummy_value()

        return types.void(nets, *[types.int64] * 6), codegen

    def fixed(
        typing: Any, nets: Any, weights: Any, inputs: Any, source: Any, start: Any, into: Any,
        column: Any,
    ) -> Any:  # fmt: skip
        return affine(typing, nets, weights, inputs, source, start, into, column)

    return intrinsic(fixed)


_narrow, _wide = _affine(NARROW), _affine(WIDE)


@_fused
def layer(
    nets: Array, weights: int, inputs: int, source: int, start: int, into: int, width: int
) -> None:
    """Row ``into`` becomes row ``start`` plus ``source`` times the rows from ``weights`` on.

    Args:
        nets: (R, W) float32, W a multiple of ``NARROW``.
        weights: first of ``inputs`` rows.
        inputs: numbers of ``source`` that count.
        source: row.
        start: row, a bias as a rule.
        into: row, another than ``source``.
        width: columns, a multiple of ``NARROW``.
    """
    column = 0
    while column + WIDE <= width:
        _wide(nets, weights, inputs, source, start, into, column)
        column += WIDE
    while column < width:
        _narrow(nets, weights, inputs, source, start, into, column)
        column += NARROW


# A rational function for tanh, of degrees 13 and 6, within 3e-7 of it (the one of Eigen's
# MathFunctionsImpl.h, generic_fast_tanh_float); beyond FLAT tanh is 1 in float32.
FLAT = np.float32(7.90531110763549805)
_A1, _A3 = np.float32(4.89352455891786e-03), np.float32(6.37261928875436e-04)
_A5, _A7 = np.float32(1.48572235717979e-05), np.float32(5.12229709037114e-08)
_A9, _A11 = np.float32(-8.60467152213735e-11), np.float32(2.00018790482477e-13)
_A13, _B0 = np.float32(-2.76076847742355e-16), np.float32(4.89352518554385e-03)
_B2, _B4 = np.float32(2.26843463243900e-03), np.float32(1.18534705686654e-04)
_B6 = np.float32(1.19825839466702e-06)


@_fused
def tanh(nets: Array, row: int, width: int) -> None:
    """Replace the first ``width`` numbers of a row; NaN may become any number from -1 to 1."""
    values = nets[row]
    for place in range(width):
        x = min(max(values[place], -FLAT), FLAT)
        z = x * x
        top = x * (_A1 + z * (_A3 + z * (_A5 + z * (_A7 + z * (_A9 + z * (_A11 + z * _A13))))))
        values[place] = top / (_B0 + z * (_B2 + z * (_B4 + z * _B6)))


@_fused
def dot(nets: Array, one: int, other: int, width: int) -> Any:
    """Product of two rows over their first ``width`` columns."""
    left, right = nets[one], nets[other]
    total = np.float32(0.0)
    for place in range(width):
        total += left[place] * right[place]
    return total

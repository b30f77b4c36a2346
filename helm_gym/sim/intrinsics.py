"""What the processor can do and the language has no word for."""

from __future__ import annotations

from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        stride = builder.extract_value(view.strides, 0)
        data = builder.ptrtoint(view.data, stride.type)
        address = builder.add(data, builder.mul(args[1], stride))
        i32, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        function = cast(Any, cgutils).get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32]),
            "llvm.prefetch.p0",
        )
        where = builder.inttoptr(address, byte)
        builder.call(function, [where, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


prefetch: Any = intrinsic(_prefetch)
"""``prefetch(array, index)`` starts loading ``array[index]`` (first axis); changes nothing."""


def _lowest_bit(typingctx: Any, word: Any) -> Any:

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(0))

    return types.int64(types.uint64), codegen


lowest_bit: Any = intrinsic(_lowest_bit)
"""``lowest_bit(word)`` is the place of the lowest bit that is set in 64; 64 if none is."""

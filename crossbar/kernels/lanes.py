"""Vectors of LANES numbers, for the few loops whose instructions a compiler does not find by itself.

Inside an intrinsic, a `Lanes` stands for a vector register of the code that is being built: operators on it append one
instruction each, so a formula is written once and reads like one on numbers. LLVM splits a vector where the processor
has narrower registers. Additions and multiplications are not contracted, `fma` rounds once (IEEE 754-2008), square root
is rounded correctly: every processor gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 8

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class Lanes:
    """A vector of LANES float32, int32 or int64 in the code that `builder` builds."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @classmethod
    def spread(cls, builder: Any, scalar: Any) -> Lanes:
        """The same scalar in every lane."""
        kind = ir.VectorType(scalar.type, LANES)
        undefined = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(undefined, scalar, I32(0))
        return cls(
            builder, builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))
        )

    @classmethod
    def like(cls, other: Lanes, number: Any) -> Lanes:
        """A constant in every lane, of the type of another vector."""
        return cls(other.builder, other._constant(number))

    @classmethod
    def numbered(cls, builder: Any) -> Lanes:
        """0, 1, 2 ... as int64."""
        return cls(builder, ir.Constant(ir.VectorType(I64, LANES), list(range(LANES))))

    @classmethod
    def load(cls, builder: Any, pointer: Any) -> Lanes:
        """LANES neighbours in memory, from `pointer` to the first on."""
        wide = builder.bitcast(pointer, ir.VectorType(pointer.type.pointee, LANES).as_pointer())
        return cls(builder, builder.load(wide, align=4))

    def store(self, pointer: Any) -> None:
        """Write to LANES neighbours in memory."""
        self.builder.store(self.value, self.builder.bitcast(pointer, self.value.type.as_pointer()), align=4)

    @property
    def is_float(self) -> bool:
        return isinstance(self.value.type.element, ir.FloatType)

    def _constant(self, number: Any) -> Any:
        return ir.Constant(self.value.type, [number] * LANES)

    def _with(self, operation: Callable[[Any, Any], Any], other: Any) -> Lanes:
        return Lanes(
            self.builder, operation(self.value, other.value if isinstance(other, Lanes) else self._constant(other))
        )

    def _call(self, name: str, *others: Any) -> Lanes:
        """An operation that LLVM knows by name."""
        kind = self.value.type
        values = [self.value, *(other.value if isinstance(other, Lanes) else self._constant(other) for other in others)]
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(kind, [kind] * len(values)), f"llvm.{name}.v{LANES}f32"
        )
        return Lanes(self.builder, self.builder.call(function, values))

    def __add__(self, other: Any) -> Lanes:
        return self._with(self.builder.fadd if self.is_float else self.builder.add, other)

    def __sub__(self, other: Any) -> Lanes:
        return self._with(self.builder.fsub if self.is_float else self.builder.sub, other)

    def __mul__(self, other: Any) -> Lanes:
        return self._with(self.builder.fmul if self.is_float else self.builder.mul, other)

    def __xor__(self, other: Any) -> Lanes:
        return self._with(self.builder.xor, other)

    def __and__(self, other: Any) -> Lanes:
        return self._with(self.builder.and_, other)

    def __rshift__(self, bits: int) -> Lanes:
        return self._with(self.builder.lshr, bits)

    def __lshift__(self, bits: int) -> Lanes:
        return self._with(self.builder.shl, bits)

    def fma(self, factor: Any, term: Any) -> Lanes:
        """self factor + term, rounded once."""
        return self._call("fma", factor, term)

    def sqrt(self) -> Lanes:
        return self._call("sqrt")

    def at_least(self, low: float) -> Lanes:
        """The larger of self and low."""
        constant = self._constant(low)
        return Lanes(
            self.builder,
            self.builder.select(self.builder.fcmp_ordered(">", self.value, constant), self.value, constant),
        )

    def _cast(self, operation: Callable[[Any, Any], Any], kind: Any) -> Lanes:
        return Lanes(self.builder, operation(self.value, ir.VectorType(kind, LANES)))

    def to_float(self) -> Lanes:
        """int32 to the nearest float32."""
        return self._cast(self.builder.sitofp, F32)

    def low_word(self) -> Lanes:
        """The low 32 bits of int64."""
        return self._cast(self.builder.trunc, I32)

    def bits(self) -> Lanes:
        """The bits of float32 as int32."""
        return self._cast(self.builder.bitcast, I32)

    def as_float(self) -> Lanes:
        """The float32 that has these 32 bits."""
        return self._cast(self.builder.bitcast, F32)


def horner(t: Lanes, coefficients: tuple[float, ...]) -> Lanes:
    """c0 + c1 t + c2 t^2 ..., each step rounded once."""
    *rest, second, first = coefficients
    value = Lanes.like(t, first).fma(t, second)
    for c in reversed(rest):
        value = value.fma(t, c)
    return value

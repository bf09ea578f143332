"""Vectors of LANES numbers, or a multiple, for the few loops whose instructions a compiler does not find by itself.

Inside an intrinsic, a `Lanes` stands for a vector register of the code that is being built: operators on it append one
instruction each, so a formula is written once and reads like one on numbers. LLVM splits a vector where the processor
has narrower registers. Additions and multiplications are not contracted, `fma` rounds once (IEEE 754-2008), square root
is rounded correctly: every processor gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 8
WORD = 0xFFFFFFFF

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class Lanes:
    """A vector of float32, int32 or int64 in the code that `builder` builds; of LANES, mostly, or a multiple."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @classmethod
    def spread(cls, builder: Any, scalar: Any, lanes: int = LANES) -> Lanes:
        """The same scalar in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
        return cls(builder, builder.insert_element(undefined, scalar, I32(0))).shuffled([0] * lanes)

    @classmethod
    def like(cls, other: Lanes, number: Any) -> Lanes:
        """A constant in every lane, of the type of another vector."""
        return cls(other.builder, other._constant(number))

    @classmethod
    def numbered(cls, builder: Any, lanes: int = LANES) -> Lanes:
        """0, 1, 2 ... as int32."""
        return cls(builder, ir.Constant(ir.VectorType(I32, lanes), list(range(lanes))))

    @classmethod
    def joined(cls, parts: Sequence[Lanes]) -> Lanes:
        """1, 2, 4 ... vectors of the same type as one."""
        if len(parts) == 1:
            return parts[0]
        first, second = (cls.joined(some) for some in (parts[: len(parts) // 2], parts[len(parts) // 2 :]))
        return first.shuffled(range(2 * first.count), second)

    @classmethod
    def load(cls, builder: Any, *pointers: Any) -> Lanes:
        """LANES neighbours in memory from each of 1, 2, 4 ... pointers on."""
        kind = ir.VectorType(pointers[0].type.pointee, LANES).as_pointer()
        return cls.joined([cls(builder, builder.load(builder.bitcast(p, kind), align=4)) for p in pointers])

    def store(self, *pointers: Any) -> None:
        """Write to LANES neighbours in memory from each of the pointers on."""
        for k, pointer in enumerate(pointers):
            part = self.shuffled(range(LANES * k, LANES * (k + 1))).value
            self.builder.store(part, self.builder.bitcast(pointer, part.type.as_pointer()), align=4)

    def shuffled(self, lanes: Iterable[int], other: Lanes | None = None) -> Lanes:
        """The lanes with these numbers, those of `other` counted behind its own."""
        taken = list(lanes)
        mask = ir.Constant(ir.VectorType(I32, len(taken)), taken)
        return Lanes(self.builder, self.builder.shuffle_vector(self.value, (other or self).value, mask))

    @property
    def count(self) -> int:
        return int(self.value.type.count)

    @property
    def is_float(self) -> bool:
        return isinstance(self.value.type.element, ir.FloatType)

    def _constant(self, number: Any) -> Any:
        return ir.Constant(self.value.type, [number] * self.count)

    def _value_of(self, other: Any) -> Any:
        """Of other lanes, or of a number, one of Python or one of the code, in every lane."""
        if isinstance(other, ir.Value):
            return Lanes.spread(self.builder, other, self.count).value
        return other.value if isinstance(other, Lanes) else self._constant(other)

    def _with(self, operation: Callable[[Any, Any], Any], other: Any) -> Lanes:
        return Lanes(self.builder, operation(self.value, self._value_of(other)))

    def _call(self, name: str, *others: Any) -> Lanes:
        """An operation that LLVM knows by name."""
        kind = self.value.type
        values = [self.value, *map(self._value_of, others)]
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(kind, [kind] * len(values)), f"llvm.{name}.v{self.count}f32"
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

    def at_least_zero(self) -> Lanes:
        """The larger of float32 and 0: what is negative has the bits of a negative integer."""
        bits, zero = self.bits().value, Lanes.like(self.bits(), 0).value
        return Lanes(
            self.builder, self.builder.select(self.builder.icmp_signed(">", bits, zero), bits, zero)
        ).as_float()

    def nearest(self) -> Lanes:
        """float32 rounded to whole numbers, to even ones from the middle."""
        return self._call("rint")

    def clipped(self, low: Any, high: Any) -> Lanes:
        """float32 no smaller than one number and no larger than the other."""
        value = self.value
        for limit, order in ((low, "<"), (high, ">")):
            edge = self._value_of(limit)
            value = self.builder.select(self.builder.fcmp_ordered(order, value, edge), edge, value)
        return Lanes(self.builder, value)

    def differs(self, other: Lanes) -> Lanes:
        """int32: -1 where two vectors of float32 differ, else 0."""
        unequal = self.builder.fcmp_unordered("!=", self.value, other.value)
        return Lanes(self.builder, self.builder.sext(unequal, ir.VectorType(I32, self.count)))

    def _cast(self, operation: Callable[[Any, Any], Any], kind: Any, count: int | None = None) -> Lanes:
        return Lanes(self.builder, operation(self.value, ir.VectorType(kind, count or self.count)))

    def to_float(self) -> Lanes:
        """int32 to the nearest float32."""
        return self._cast(self.builder.sitofp, F32)

    def products(self, factor: int) -> tuple[Lanes, Lanes]:
        """High and low words of int32 times a factor, both taken as unsigned.

        Both have the two lanes in the middle of each four exchanged: processors multiply every second lane, and this is
        the order in which one instruction brings the words of two such products together.
        """
        wide = self._cast(self.builder.bitcast, I64, self.count // 2)
        even, odd = (
            part._cast(self.builder.bitcast, I32, self.count)
            for part in ((wide & WORD) * factor, (wide >> 32) * factor)
        )
        first = [four + lane for four in range(0, self.count, 4) for lane in (0, 2, self.count, self.count + 2)]
        return even.shuffled([lane + 1 for lane in first], odd), even.shuffled(first, odd)

    def exchanged(self) -> Lanes:
        """With the two lanes in the middle of each four exchanged."""
        return self.shuffled(four + k for four in range(0, self.count, 4) for k in (0, 2, 1, 3))

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

"""What all reads of a matrix have in common, as one object of the compiled side.

Numba takes an argument apart at each call, array by array: of the three dozen arrays and numbers here that took half of
the time of a small read. An object of its own it takes as it is.
"""

from __future__ import annotations

from numba import types
from numba.experimental import structref

from .compiled import kernel


@structref.register
class HeldType(types.StructRef):  # type: ignore[misc]
    """The type of `Held` in kernels."""


class Held(structref.StructRefProxy):  # type: ignore[misc]
    """`Geometry`, `Planes` and `Circuit` of a read, for kernels only; made by `hold`."""


structref.define_boxing(HeldType, Held)
structref.define_constructor(Held, HeldType, ["geometry", "planes", "circuit", "direct"])


@kernel()
def hold(geometry, planes, circuit, direct):
    """The three as one object, which shares their arrays; `direct` is whether products take inputs where they are."""
    return Held(geometry, planes, circuit, direct)

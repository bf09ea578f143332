"""What a chip shares with its layers, and which of its inferences is under way in which thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from torch.utils.weak import WeakTensorKeyDictionary

from .trace import Call

_UNDER_WAY: ContextVar[tuple[tuple[Session, Any], ...]] = ContextVar("under way", default=())


class Session:
    """What a chip shares with its layers: how many inferences there have been, and what the last new kind of them did.

    Attributes:
        calls: inferences so far, those of single layers included.
        trace: the calls of one inference; empty before the first.
        shapes: of the inputs whose inference is the `trace`.
        one_by_one: whether reads have to be made one after another.
        located: whether it is known where the samples lie in the inputs of the layers.
        judged: how many calls of each layer have been recorded in one pass.
        chosen: layers that were given rows that the model chose by their values.
        replaced: weights of the torch layers that tiles stand for, as long as something else keeps them, with the names
            of these layers.
        factory: how the model was built, where that is known (see `checkpoints.factories`).
        batch: where in inputs of several lengths the samples are (see `mho.mapping.inputs.batches`), if that is known.
        numbers: the kinds of inputs (how many by place, and names) with which the model returns a single number.

    All chips of a model share the last five.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.trace: list[Call] = []
        self.shapes: Any = None
        self.one_by_one = False
        self.located = False
        self.judged: dict[str, int] = {}
        self.chosen: set[str] = set()
        self.factory: Any = None
        self.batch: list[str] = []
        self.numbers: set[tuple[Any, ...]] = set()
        self.replaced: Any = WeakTensorKeyDictionary()
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("lock", "replaced")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({"replaced": WeakTensorKeyDictionary(), **state, "lock": threading.RLock()})

    def anew(self) -> Session:
        """The session of another chip of the same model: its calls are counted from 0."""
        other = Session()
        other.__setstate__({**self.__getstate__(), "calls": 0, "replaced": self.replaced})
        return other

    def next_read(self) -> int:
        """The number of one more inference."""
        with self.lock:
            self.calls += 1
            return self.calls - 1

    @property
    def inference(self) -> Any:
        """The `Inference` of this chip that is under way in this thread; None outside of any."""
        for session, run in reversed(_UNDER_WAY.get()):
            if session is self:
                return run
        return None

    def within(self, run: Any, call: Callable[[], Any]) -> Any:
        """What `call` returns while `run` is under way in this thread."""
        token = _UNDER_WAY.set((*_UNDER_WAY.get(), (self, run)))
        try:
            return call()
        finally:
            _UNDER_WAY.reset(token)

    def positions(self, layer: str) -> int | None:
        """Matrix reads of a layer per sample in the inference of the trace; None before it."""
        return sum(call.positions for call in self.trace if call.layer == layer) if self.trace else None

"""Names of older versions: whoever uses one is told the new one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: an argument by an old name is a TypeError that says the new one; both by name, old=new."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def checked(*args: P.args, **given: P.kwargs) -> R:
            for old, new in names.items():
                if old in given:
                    raise TypeError(f"{function.__qualname__}: {old}= is {new}= since version 0.3")
            return function(*args, **given)

        return checked

    return decorated

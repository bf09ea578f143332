"""How far a long command is: a bar on a terminal, and lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Tell(Protocol):
    """Told how many steps are done, of how many, and what was done last."""

    def __call__(self, done: int, total: int, said: str = "") -> None: ...


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Says what is loaded meanwhile."""
    from rich.console import Console

    from ..mapping.progress import part_of_a_whole

    console = Console()
    text = f"loading {what} ..."
    if console.is_terminal:
        with console.status(text), part_of_a_whole():
            yield
    else:
        print(text, flush=True)
        yield


@contextmanager
def shown(what: str, every: float = 0.0) -> Iterator[Tell]:
    """A bar with the time left, moved by the function that is yielded; where there is no terminal, a line a step.

    Args:
        what: the steps.
        every: seconds from one line to the next, and to the first, at least; for steps that are many and short.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ..mapping.progress import part_of_a_whole

    console = Console()
    if not console.is_terminal:
        yield _lines(what, every)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar, part_of_a_whole():
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int, said: str = "") -> None:
            if said:
                bar.console.print(said, highlight=False, soft_wrap=True)
            bar.update(task, completed=done, total=total)

        yield tell


def _lines(what: str, every: float) -> Tell:
    began = time.monotonic()
    told, before = began, 0

    def tell(done: int, total: int, said: str = "") -> None:
        nonlocal told, before
        now = time.monotonic()
        if done > before and now - told >= every:
            print(f"{what}: {done} of {total}, {now - began:.0f} s{f': {said}' if said else ''}", flush=True)
            told, before = now, done

    return tell

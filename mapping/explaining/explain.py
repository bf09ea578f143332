"""`mho.explain`: why a chip is less accurate than its network, and what wins accuracy back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ..chip import Chip
from ..errors import check_chip
from ..outputs import Where
from ..progress import told
from ..voting.asked import whole_number
from .bench import Bench, Exhausted
from .explanation import Explanation
from .groups import asked_for
from .stages import Stages

__all__ = ["explain"]

Progress = Callable[[int, int, str], None]


def explain(
    chip: Chip,
    images: Any,
    labels: Any = None,
    *,
    layers: Iterable[str] | None = None,
    samples: int = 1000,
    votes: int = 1,
    output: Where = None,
    calibrate: Any = None,
    most: int = 200,
    progress: Progress | None = None,
) -> Explanation:
    """Find out which layers, and which sources of error in them, cost a chip its accuracy, and what restores it.

    Everything is measured on the same samples with the same reads: the chip with one layer digital, and with one layer
    on tiles; without one source of error in all layers, and with that alone; without one in one of the worst layers;
    and the network mapped with other settings. Nothing is estimated. What is frozen is that of this chip and no other
    copy.

    Args:
        chip: the mapped network.
        images: the samples, in the forms that `mho.vote` takes; of an iterable the first are taken and kept.
        labels: (n, ...) classes, of samples, tokens or pixels (-100: does not count); or, where they are not all whole,
            target numbers of the network. None: those that come with the batches of `images`.
        layers: names or patterns, each of which is measured as one; None: each layer, or of more than 24 layers groups
            by name, of which the worst are split until single layers are left.
        samples: how many are classified, the first of `images`. Twice as precise takes four times as many.
        votes: inferences that decide about each sample.
        output: where the scores are in what the network returns: see `mho.vote`.
        calibrate: inputs that set the ranges of what is tried, as `mho.map` takes them; None: the first 256 samples,
            whose labels play no part in it.
        most: accuracies that are measured at most; the rest is left out, and the result says so.
        progress: called with what was measured, how many accuracies were, and about how many there will be. None: a
            line on the terminal, if standard error is a terminal, after two seconds.

    Raises:
        ValueError: labels that are missing or do not fit, or outputs that are no classes or numbers.
        MappingError: a pattern that matches no layer.

    Example:
        >>> found = mho.explain(chip, x, labels, most=20)
        >>> found.samples, found.measured <= 20
        (100, True)
    """
    check_chip(chip)
    most = whole_number("most", most, least=2)
    groups = None if layers is None else asked_for(layers, tuple(chip.layers))
    asked = None if progress is None else _silent
    with told("explaining, accuracies", asked) as line:
        tell = progress or (lambda done, total, said: line(done, total))
        bench = Bench(chip, images, labels, samples=samples, votes=votes, output=output, most=most, tell=tell)
        stages = Stages(bench, groups, calibrate)
        with suppress(Exhausted):
            stages.layers()
            stages.sources()
            if stages.lost:
                stages.places()
                stages.tries()
            stages.finished = True
        return stages.explanation()


def _silent(done: int, total: int) -> None:
    """The caller tells."""

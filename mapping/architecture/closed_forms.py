"""Closed forms of the pipeline's latency: what the event simulation of `schedule` must equal.

The results are sums of the stage times without intermediate rounding, so they are exact to the last bit.
"""

from collections.abc import Sequence
from fractions import Fraction

__all__ = ["interleaved", "overhead", "parallel", "pipelined", "sequential"]


def _line(stages: Sequence[Fraction], jobs: int) -> Fraction:
    """The first job crosses every stage, each later one leaves one slowest stage time after the one before."""
    return sum(stages, Fraction(0)) + (jobs - 1) * max(stages)


def _exact(stages: Sequence[float], voter: float | None) -> tuple[list[Fraction], list[Fraction]]:
    return [Fraction(t) for t in stages], [] if voter is None else [Fraction(voter)]


def pipelined(stages: Sequence[float], votes: int, voter: float | None = None, inputs: int = 1) -> float:
    """Makespan in seconds of `inputs` inputs with `votes` votes each, streamed through a pipeline.

    stages: service times of the layers, s. voter: service time of the voting stage, s; None leaves it out.
    With L equal stages T and one input: (L + K) T with a voter of T (Qin and Vucinic, "Noisy Computations during
    Inference: Harmful or Helpful?", section 3.3), (L + K - 1) T without; in general the sum of all stages and
    K - 1 times the slowest.
    """
    layers, last = _exact(stages, voter)
    return float(_line(layers + last, votes * inputs))


def sequential(stages: Sequence[float], votes: int, voter: float | None = None, inputs: int = 1) -> float:
    """Makespan in seconds when a vote enters the first layer only after the one before has left the last: K L T.

    The network is then one stage of sum(stages). A voter works while the next vote is read, so it adds its time
    once, unless it is slower than the whole network.
    """
    layers, last = _exact(stages, voter)
    return float(_line([sum(layers, Fraction(0)), *last], votes * inputs))


def overhead(stages: Sequence[float], votes: int, voter: float | None = None) -> float:
    """Extra latency of `votes` pipelined votes relative to one inference without a voter, sum(stages).

    K / L for L equal stages T and a voter of T (Qin and Vucinic, section 3.3).
    """
    layers, last = _exact(stages, voter)
    return float(_line(layers + last, votes) / sum(layers) - 1)


def parallel(stages: Sequence[float], votes: int, copies: int, voter: float | None = None, inputs: int = 1) -> float:
    """Makespan in seconds when `copies` pipelines share the votes of each input, one round of votes after the other.

    The voter takes one vote of each copy at a time. With a copy for each vote it is the time of one inference: the
    first of the two ways of Qin and Vucinic, section 3.3, "zero latency overhead".
    """
    layers, last = _exact(stages, voter)
    return float(_line(layers + last, -(-votes // copies) * inputs))


def interleaved(stages: Sequence[float], steps: int, votes: int, inputs: int = 1) -> float:
    """Makespan in seconds of sequences of `steps` steps through a recurrent layer, each step through all its stages.

    A step waits for the one before it, so one sequence takes steps x sum(stages), and votes alone do not make it
    shorter. But while one waits the others are read: K votes take steps x sum(stages) + (K - 1) x slowest until they
    fill the bubbles of the slowest stage, which then never waits: K x steps x slowest, and the others once.
    """
    times = [Fraction(t) for t in stages]
    jobs, slowest, whole = votes * inputs, max(times), sum(times, Fraction(0))
    return float(max(steps * whole + (jobs - 1) * slowest, jobs * steps * slowest + whole - slowest))

"""The check of backends against the numpy twin: ours conform, and what is wrong shows in a line."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.backends.conformance import MATRICES, PARTS, differences
from mho.crossbar.backends.plain import Plain


@pytest.mark.parametrize("part", PARTS)
def test_the_kernels_conform(part: str) -> None:
    assert differences(Compiled(), [part]) == []


def wrong(method: str, change: Any) -> type[Plain]:
    """A backend of which one method gives what `change` makes of its result and arguments."""

    def changed(self: Plain, *arguments: Any) -> Any:
        return change(getattr(Plain, method)(self, *arguments), *arguments)

    return type("Wrong", (Plain,), {method: changed})


def out_by(factor: float, which: int) -> Any:
    """Of a method that writes into one of its arguments."""

    def change(found: Any, *arguments: Any) -> Any:
        arguments[which][:] = np.asarray(arguments[which]) * factor
        return found

    return change


def louder(found: int, job: Any, key: Any, whose: Any, read: int, threads: int, out: Any) -> int:
    """Adds a tenth of the noise once more."""
    noiseless = out.copy()
    Plain().read(job._replace(circuit=job.circuit._replace(noisy=False)), key, whose, read, threads, noiseless)
    out += np.float32(0.1) * (out - noiseless) if job.circuit.noisy else np.float32(0)
    return found


class Own(Plain):
    """Reads with random numbers of its own."""

    def read(self, job: Any, key: Any, whose: Any, read: int, threads: int, out: Any) -> int:
        return super().read(job, key[::-1].copy(), whose, read, threads, out)


class Deaf(Plain):
    """Knows no normals of the read voltage."""

    def read(self, job: Any, key: Any, whose: Any, read: int, threads: int, out: Any) -> int:
        return super().read(job._replace(circuit=job.circuit._replace(supply=0.0)), key, whose, read, threads, out)


def one_more(found: tuple[int, int], *_: Any) -> tuple[int, int]:
    return found[0], found[1] + 1


WRONG: dict[str, tuple[str, type[Plain], str]] = {
    "normals": ("normals", wrong("normals", lambda found, *_: found[:, ::-1]), "18[0-5] of 185 differ"),
    "codes": ("codes", wrong("codes", out_by(0.5, 2)), "8 bits, signed: .* differ"),
    "codes, not finite": ("codes", wrong("codes", one_more), "clipped and 4 not finite, must be"),
    "planes": ("reads", wrong("peak_and_total", lambda found, *_: (2 * found[0], 2 * found[1])), "preset reram: mean"),
    "reads": (
        "reads",
        wrong("read", out_by(1.001, 5)),
        r"readings \(read=3\): .* differ, by up to 0.001 of the largest",
    ),
    "counts": ("reads", wrong("read", lambda found, *_: found + 1), "counts .* must be Counts"),
    "pulses": ("pulses", wrong("read", out_by(1.001, 5)), "dac.bits_per_pulse=1: readings"),
    "read noise": ("read noise", Own, "readings .* differ"),
    "supply noise": ("gain and supply noise", Deaf, "readings .* differ"),
    "slow noise": ("slow noise", wrong("fluctuate", out_by(0.99, 4)), "readings .* differ"),
    "output noise": ("output noise", wrong("add_output_noise", out_by(1.001, 0)), "readings .* differ"),
    "distribution": ("read noise in distribution", wrong("read", louder), "variances are 1.2"),
    "mean": ("read noise in distribution", wrong("read", out_by(1.05, 5)), "the mean of a reading is .* sigma off"),
    "wires": ("wires", wrong("effective", lambda found, *_: 1.001 * found), "differ"),
    "changes": ("wires", wrong("changes", lambda found, *_: (found[0], 1.01 * found[1])), "changes of voltages"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_in_a_line(what: str) -> None:
    part, kind, message = WRONG[what]
    found = differences(kind(), [part])
    assert found
    assert all(line.startswith(f"{part}: ") and "\n" not in line for line in found)
    assert any(re.search(message, line) for line in found), found


def test_every_part_can_fail() -> None:
    assert {part for part, _, _ in WRONG.values()} == set(PARTS)
    assert set(MATRICES) < set(PARTS)


def test_other_random_numbers_conform_in_distribution() -> None:
    assert differences(Own(), ["read noise in distribution", "reads"]) == []


def test_parts_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^parts of a backend are normals, codes, .*wires, got 'speed'$"):
        differences(Plain(), ["speed"])

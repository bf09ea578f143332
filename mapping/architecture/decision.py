"""What one decision of K votes costs: latency, energy, power and area, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import check_chip
from ..reports.page import as_table, as_text, engineering
from ..writing import programming_energy
from .cost import COMPONENTS, SCALES_WITH_V, demands
from .loading import Loading
from .schedule import schedule

if TYPE_CHECKING:
    from ..chip import Chip

__all__ = ["Decision", "decision"]


@dataclass(frozen=True)
class Decision:
    """One decision of `votes` votes on `copies` chips.

    Attributes:
        votes, copies: as given.
        latency_s: from the input to the decision, when the pipeline is empty before.
        interval_s: between two decisions of a full pipeline.
        energy: joules of all the votes by component, without leakage. It does not depend on copies and replicas.
        leakage_w: of all copies and replicas, always.
        area_m2: of all copies and replicas.
        operations: multiplications and additions of all the votes.
        write_j: share of the joules that write tiles again, where the network does not fit: those of a batch on all
            copies, by the decisions of the batch.
        programming_j: share of the joules that programmed all copies and replicas, by the decisions made until they
            are programmed again; 0 where that is not counted.
    """

    votes: int
    copies: int
    latency_s: float
    interval_s: float
    energy: dict[str, float]
    leakage_w: float
    area_m2: float
    operations: int
    write_j: float = 0.0
    programming_j: float = 0.0

    @property
    def work_j(self) -> float:
        """Energy without leakage: K times that of one inference, and shares of rewriting tiles and of programming."""
        return sum(self.energy.values()) + self.write_j + self.programming_j

    @property
    def energy_j(self) -> float:
        """Energy of a decision of a full pipeline, with the leakage of its interval."""
        return self.work_j + self.leakage_w * self.interval_s

    @property
    def scales_with_v_j(self) -> float:
        """The part of the energy that goes with the square of the read voltage."""
        return sum(self.energy[part] for part in SCALES_WITH_V)

    @property
    def power_full_w(self) -> float:
        """Power of a pipeline that never waits."""
        return self.energy_j / self.interval_s

    def _cards(self) -> dict[str, str]:
        return {
            "votes": f"{self.votes:,}",
            "chips": f"{self.copies:,}",
            "latency": engineering(self.latency_s, "s"),
            "interval": engineering(self.interval_s, "s"),
            **{f"energy, {part}": engineering(joules, "J") for part, joules in self.energy.items()},
            **({"energy, programming": engineering(self.programming_j, "J")} if self.programming_j else {}),
            "energy with leakage": engineering(self.energy_j, "J"),
            "power when full": engineering(self.power_full_w, "W"),
            "area": f"{1e6 * self.area_m2:.4g} mm2",
        }

    def _repr_html_(self) -> str:
        return as_table(self._cards())

    def __str__(self) -> str:
        return as_text(self._cards())

    def power_w(self, rate: float) -> float:
        """Power at a fixed rate of decisions a second: K P of one vote's P, and leakage, which does not grow with K.

        Raises:
            ValueError: a rate that is not positive, or more than the pipeline can decide.

        Example:
            >>> from mho.mapping.architecture.decision import decision
            >>> cost = decision(chip, votes=5)
            >>> cost.power_w(1000) < cost.power_full_w  # watts, at 1,000 decisions a second
            True
        """
        if not 0 < rate * self.interval_s <= 1 + 1e-9:
            raise ValueError(f"rate: more than 0 and at most {1 / self.interval_s:g} decisions a second, got {rate!r}")
        return self.work_j * rate + self.leakage_w

    @property
    def operations_per_s(self) -> float:
        """Of a full pipeline."""
        return self.operations / self.interval_s

    @property
    def operations_per_joule(self) -> float:
        """Of a full pipeline: operations a second and watt."""
        return self.operations / self.energy_j


def decision(
    chip: Chip,
    votes: int = 1,
    *,
    copies: int = 1,
    replicas: Mapping[str, int] | None = None,
    line_buffers: bool = False,
    batch: int = 1,
    layers: str | Sequence[str] | None = None,
    programmed_for: int | None = None,
) -> Decision:
    """Cost of a decision of `votes` votes of a mapped network; the voter is a stage of `cost.digital_time`.

    Args and errors are those of `mho.schedule`; energy and area are those of `layer_costs`. With `layers` each copy
    reads all layers once, and its other votes ask for the energy and operations of these layers and of what comes after
    them. The voter's own energy and area are left out. `batch` decisions share the writes of a network that does not
    fit `cost.tiles`, in energy and in the interval; each of them waits for all writes. Tiles that the network does not
    use have no area. `programmed_for` decisions are made before the chips are programmed again, and share the energy of
    that (`programming_energy`); None: it is not counted.

    Raises:
        ValueError: as `mho.schedule`, and a batch or a `programmed_for` of less than one.

    Example:
        >>> from mho.mapping.architecture.decision import decision
        >>> decision(chip, votes=5).energy_j > decision(chip).energy_j
        True
    """
    for name, value in (("batch", batch), ("programmed_for", 1 if programmed_for is None else programmed_for)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: a whole number of at least 1, got {value!r}")
    check_chip(chip)
    run = schedule(
        chip,
        votes=votes,
        voter=chip.hardware.cost.digital_time,
        copies=copies,
        replicas=replicas,
        line_buffers=line_buffers,
        layers=layers,
    )
    asked, count = demands(chip), dict(replicas or {})
    whole = votes if layers is None else min(votes, copies)  # inferences that read all layers
    parts = [(whole, list(asked.values()))]
    if whole < votes:
        parts.append((votes - whole, list(demands(chip, layers).values())))
    energies = [(number, [demand.energy() for demand in made]) for number, made in parts]
    loading = Loading.of(chip, count)
    sets = {name: count.get(name, 1) * loading.share for name in asked}
    return Decision(
        votes=votes,
        copies=copies,
        latency_s=run.makespan_s,
        interval_s=run.decision_interval_s - (1 - 1 / batch) * loading.time_s,
        energy={part: sum(number * sum(e[part] for e in made) for number, made in energies) for part in COMPONENTS},
        leakage_w=copies * sum(demand.leakage(sets[name]) for name, demand in asked.items()),
        area_m2=copies * sum(sum(demand.area(sets[name]).values()) for name, demand in asked.items()),
        operations=sum(number * sum(demand.operations for demand in made) for number, made in parts),
        write_j=copies * loading.energy_j / batch,
        programming_j=0.0 if programmed_for is None else copies * programming_energy(chip, count) / programmed_for,
    )

"""The experiments that a sweep can run, by name: what each does with a chip and settings, and the columns it gives.

A further one is a class that derives from `Experiment`, here or in a package of its own: docs/sweeps.md.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..devices.config import Config
from ..devices.imports import importable
from ..devices.registry import Registry, check_class
from ..devices.units import brief
from ..mapping.architecture.cost import layer_costs
from ..mapping.architecture.decision import decision
from ..mapping.architecture.loading import Loading
from ..mapping.chip import Chip
from ..mapping.reduce import reduce
from ..mapping.voting.adaptive import Tally
from ..mapping.voting.intervals import Accuracy
from ..mapping.voting.votes import order, prepare, reads_of, vote
from .bench import Bench
from .file import Settings

ERROR = 0.01  # accepted by the adaptive votes of `voting` for a picture, unless the settings say
READS = 8  # at least, of a reduction
COSTS = ("decision_energy_j", "total_energy_j", "latency_s", "area_m2")
ENERGY = ("array_energy_j", "inference_energy_j")
TAKEN = ("task_id", "experiment", "extrapolated", "mho_version", *Settings.model_fields)  # columns of every table
Columns = dict[str, float | int | str | bool]


class Experiment(Config):
    """What a sweep does at each of its points. Fields are the options that the sweep file gives, or their defaults.

    Attributes:
        version: part of the ids of its tasks: raise it when the experiment gives other results, and finished tasks are
            done again.
        columns: the names of what `run` returns.
    """

    version: ClassVar[int]
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def run(self, bench: Bench, settings: Settings) -> Columns:
        """The columns, each a number, a text or a truth value: functions of the chip, the pictures and the settings.

        Random numbers are those of `settings.seed`, so that a task gives the same wherever it is done.

        Raises:
            ValueError: settings that it does not know.
        """


def check(name: str, thing: Any) -> None:
    """Raises TypeError for what is no experiment, or lacks some of it."""
    check_class("experiment", name, thing, Experiment)
    version, columns = getattr(thing, "version", None), getattr(thing, "columns", None)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise TypeError(f"experiment {name!r}: version must be a whole number from 1 on, got {brief(version)}")
    if not isinstance(columns, tuple) or not columns or not all(isinstance(c, str) and c for c in columns):
        raise TypeError(f"experiment {name!r}: columns must be a tuple of names, got {brief(columns)}")
    for column in columns:
        if column in TAKEN or "." in column or column.endswith("_meta") or columns.count(column) > 1:
            raise TypeError(
                f"experiment {name!r}: column {column!r} must have a name of its own, without a dot and not ending in "
                "_meta"
            )
    for field, info in thing.model_fields.items():
        if info.is_required():
            raise TypeError(f"experiment {name!r}: option {field!r} must have a default")


EXPERIMENTS: Registry[type[Experiment]] = Registry("experiment", "mho.experiments", check)


def experiment_of(reference: str) -> type[Experiment]:
    """The experiment of a name, or of `package.module:name`, where importing the module adds it.

    The working directory can be imported from.

    Raises:
        ValueError: no such module, or it adds no such experiment.
    """
    module, colon, name = reference.partition(":")
    if not colon:
        return EXPERIMENTS[reference]
    importable(Path.cwd())
    try:
        import_module(module)
    except Exception as error:  # a module may fail in any way
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"experiment {reference!r}: its module does not load ({why})") from error
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment {reference!r}: its module adds no {name!r}; there are {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def columns_of(name: str, experiment: Experiment, bench: Bench, settings: Settings) -> Columns:
    """What an experiment gives, as Python's own types.

    Raises:
        ValueError: other columns than it says, or values that are no columns.
    """
    found = experiment.run(bench, settings)
    if not isinstance(found, dict) or set(found) != set(experiment.columns):
        got = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"experiment {name}: must give the columns {', '.join(experiment.columns)}, got {got}")
    plain: Columns = {key: _plain(value) for key, value in found.items()}
    for key, value in plain.items():
        if not isinstance(value, (int, float, str, bool)):
            raise ValueError(f"experiment {name}: column {key} must be a number, a text or a bool, got {brief(value)}")
    return plain


def _plain(value: Any) -> Any:
    """A number of numpy or torch as one of Python; what holds several as it is."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):
        return value


def _interval(name: str) -> tuple[str, str, str]:
    """Columns of an accuracy and its 95 % Wilson interval."""
    return name, f"{name}_low", f"{name}_high"


@EXPERIMENTS.register("accuracy")
class Voted(Experiment):
    """Accuracy after all votes and after one, clipping, energy and cost.

    Columns: `pictures` used; `accuracy` after all votes with its 95 % Wilson interval `low`, `high` and the interval's
    `width`; `accuracy_1` after one, with `accuracy_1_low`, `accuracy_1_high`; `mean_reads`, inferences of a decision on
    average (the votes, unless adaptive), and its standard error `mean_reads_se`;
    `dac_clipped`, `adc_clipped`, shares of the conversions of the first inference that were clipped (NaN where nothing
    is converted); `array_energy_j` of one inference of one picture, `inference_energy_j`, all of `layer_costs` (NaN
    where a converter has no bits, and so no cost); and the columns of `_costs`.
    """

    version = 3
    columns = (
        "pictures",
        "accuracy",
        "low",
        "high",
        "width",
        *_interval("accuracy_1"),
        "mean_reads",
        "mean_reads_se",
        "dac_clipped",
        "adc_clipped",
        *ENERGY,
        *COSTS,
    )

    def run(self, bench: Bench, settings: Settings) -> Columns:
        spent, conversions = np.zeros(4, np.int64), np.zeros(4, np.int64)
        once = settings.model_copy(update={"votes": 1, "copies": 1, "vote_error": None})
        right_1, found = 0, Accuracy(0, 1)
        for start, stop in _blocks(settings, len(bench.images)):
            conversions += bench.clipped(start, stop, settings)
            right_1 += int(bench.right(start, stop, once)[0])
            spent += bench.decided(start, stop, settings)
            found = Accuracy(int(spent[0]), stop)
            if settings.target_width is not None and found.high - found.low <= settings.target_width:
                break
        mean_reads, mean_rounds = float(spent[1] / found.n), float(spent[3] / found.n)
        one = Accuracy(right_1, found.n)
        energy = _energy(bench.chip)
        return {
            "pictures": found.n,
            "accuracy": float(found),
            "low": found.low,
            "high": found.high,
            "width": found.high - found.low,
            "accuracy_1": float(one),
            "accuracy_1_low": one.low,
            "accuracy_1_high": one.high,
            "mean_reads": mean_reads,
            "mean_reads_se": _error_of_mean(int(spent[1]), int(spent[2]), found.n),
            "dac_clipped": conversions[1] / conversions[0] if conversions[0] else np.nan,
            "adc_clipped": conversions[3] / conversions[2] if conversions[2] else np.nan,
            **energy,
            **_costs(bench.chip, settings, energy["inference_energy_j"], mean_reads, mean_rounds),
        }


@EXPERIMENTS.register("voting")
class Deciding(Experiment):
    """One inference, all votes, and votes that stop once the lead is safe, decided from the same inferences.

    Columns: `pictures` used; `single`, `voted` and `adaptive`, the accuracy after one inference, after all votes, and
    of `mho.mapping.voting.adaptive` with at most as many and the error `vote_error` or 1 %, each with its 95 % Wilson
    interval `..._low`, `..._high`; `mean_reads` of the adaptive votes with its standard error `mean_reads_se`, and
    `capped`, pictures that all votes did not make safe; energies as in `accuracy`, `adaptive_energy_j` of a decision of
    adaptive votes.
    """

    version = 2
    columns = (
        "pictures",
        *_interval("single"),
        *_interval("voted"),
        *_interval("adaptive"),
        "mean_reads",
        "mean_reads_se",
        "capped",
        *ENERGY,
        "decision_energy_j",
        "adaptive_energy_j",
    )

    def run(self, bench: Bench, settings: Settings) -> Columns:
        """As all do.

        Raises:
            ValueError: a target width, which it does not know.
        """
        if settings.target_width is not None:
            raise ValueError(f"target_width must be null for experiment voting, got {settings.target_width}")
        k, rule = settings.votes, settings.rule
        images, labels = bench.images[: settings.images], bench.labels[: settings.images]
        asked = prepare(bench.chip, images, k, settings.batch_size, settings.copies, rule)
        right, reads, squares, capped = np.zeros(3, np.int64), 0, 0, 0
        for start, batch in asked.batches:
            truth = labels[start : start + len(batch)]
            logits = list(reads_of(asked.chips, batch, start, range(k)))
            stopping = Tally(len(truth), k, settings.vote_error or ERROR, rule, settings.copies)
            for read, found in enumerate(logits):
                stopping.add(torch.arange(len(truth)), read, found)
            votes = torch.stack(logits)
            chosen = votes.argmax(dim=2)
            counts = torch.nn.functional.one_hot(chosen, votes.shape[2]).sum(dim=0)
            voted = order(counts, votes.double().softmax(dim=2).mean(dim=0).float(), rule)[:, 0]
            right += [int((classes == truth).sum()) for classes in (chosen[0], voted, stopping.leaders)]
            reads += int(stopping.reads.sum())
            squares += int(stopping.reads.square().sum())
            capped += int((~stopping.safe).sum())
        columns: Columns = {"pictures": len(images)}
        for name, count in zip(("single", "voted", "adaptive"), right, strict=True):
            accuracy = Accuracy(int(count), len(images))
            columns |= {name: float(accuracy), f"{name}_low": accuracy.low, f"{name}_high": accuracy.high}
        energy, mean_reads = _energy(bench.chip), reads / len(images)
        return {
            **columns,
            "mean_reads": mean_reads,
            "mean_reads_se": _error_of_mean(reads, squares, len(images)),
            "capped": capped,
            **energy,
            "decision_energy_j": k * energy["inference_energy_j"],
            "adaptive_energy_j": mean_reads * energy["inference_energy_j"],
        }


@EXPERIMENTS.register("reduction")
class Reduced(Experiment):
    """The chip beside its reduction to the paper's noise model (`mho.reduce`), one inference and all votes of each.

    Columns: `pictures` used; `chip_single`, `chip_voted`, `model_single`, `model_voted`, the accuracies with 95 %
    Wilson intervals `..._low`, `..._high`; `holds`, whether the model claims to predict them; the `misfit` of one read
    in the layer where it is largest with its standard error `misfit_se`, and that `layer`; `frozen`, the largest share
    of what stays the same from read to read in the squared error of a layer, and its standard error `frozen_se`.
    """

    version = 4
    columns = (
        "pictures",
        *_interval("chip_single"),
        *_interval("chip_voted"),
        *_interval("model_single"),
        *_interval("model_voted"),
        "holds",
        "misfit",
        "misfit_se",
        "layer",
        "frozen",
        "frozen_se",
    )

    def run(self, bench: Bench, settings: Settings) -> Columns:
        votes, images, labels = settings.votes, bench.images[: settings.images], bench.labels[: settings.images]
        reduced = reduce(bench.chip, bench.images[: settings.calibrate], reads=max(votes, READS))
        columns: Columns = {"pictures": len(images)}
        for name, chip in (("chip", bench.chip), ("model", reduced.model(settings.seed))):
            curve = vote(chip, images, votes, batch_size=settings.batch_size, rule=settings.rule).accuracy_over_votes(
                labels
            )
            for way, found in (("single", curve[0]), ("voted", curve[-1])):
                columns |= {f"{name}_{way}": float(found)}
                columns |= {f"{name}_{way}_low": found.low, f"{name}_{way}_high": found.high}
        table = reduced.table.set_index(["part", "layer"])
        total = table.loc["total"]
        misfit = total["misfit"].combine(total["misfit_outputs"], max)
        layer = str(misfit.idxmax())
        error_of = np.where(total["misfit"] >= total["misfit_outputs"], total["misfit_se"], total["misfit_outputs_se"])
        power, error = (
            table["rms"] ** 2,
            (table["rms_se"] * (2 * table["rms"] - table["rms_se"])).abs(),
        )  # of the square
        whole = power["total"].where(power["total"] > 0, 1)
        share = (power["frozen"] + power["slow"]) / whole
        return {
            **columns,
            "holds": reduced.holds,
            "misfit": misfit.max(),
            "misfit_se": error_of[misfit.argmax()],
            "layer": layer,
            "frozen": share.max(),
            "frozen_se": (np.hypot(error["frozen"], error["slow"]) / whole)[share.idxmax()],
        }


def _error_of_mean(total: int, squares: int, n: int) -> float:
    """Standard error of the mean of n whole numbers with this sum and sum of squares; NaN for one, which has no spread.

    Whole numbers are exact: those that are all the same have 0.
    """
    return math.sqrt((n * squares - total**2) / (n - 1)) / n if n > 1 else np.nan


def _energy(chip: Chip) -> dict[str, float]:
    """Of one inference of one picture: of the arrays, and all of it."""
    layers = chip.layers.values()
    priced = all(None not in (layer.hardware.dac.bits, layer.hardware.adc.bits) for layer in layers)
    return {
        "array_energy_j": sum((layer.array_energy_j or 0.0) * (layer.positions or 0) for layer in layers),
        "inference_energy_j": float(layer_costs(chip)["energy_j"].sum()) if priced else np.nan,
    }


def _costs(chip: Chip, settings: Settings, energy: float, mean_reads: float, mean_rounds: float) -> Columns:
    """What a decision costs (`mho.mapping.architecture.decision`), NaN where a converter has no bits, and so no cost.

    `decision_energy_j` of all its inferences, and `total_energy_j` with the leakage of its share of the time of a full
    pipeline; `latency_s` from the input to the decision in an empty pipeline; `area_m2` of all copies. Adaptive votes
    start a round when the one before is decided, which takes longer than rounds that follow one another through the
    pipeline; meanwhile other inputs fill it. A network that does not fit its chip is written for each decision, with
    adaptive votes for each round.
    """
    if np.isnan(energy):
        return dict.fromkeys(COSTS, np.nan)
    copies = settings.copies
    a_round = decision(chip, copies, copies=copies)
    latency = mean_rounds * a_round.latency_s
    written = mean_rounds if settings.vote_error is not None else 1.0
    spared = (mean_rounds - written) * a_round.leakage_w * Loading.of(chip).time_s
    if settings.vote_error is None:
        latency = decision(chip, settings.votes, copies=copies).latency_s
    return {
        "decision_energy_j": mean_reads * energy + written * a_round.write_j,
        "total_energy_j": mean_reads * energy
        + written * a_round.write_j
        + mean_rounds * a_round.leakage_w * a_round.interval_s
        - spared,
        "latency_s": latency,
        "area_m2": a_round.area_m2,
    }


def _blocks(settings: Settings, available: int) -> Iterator[tuple[int, int]]:
    """First and last picture of what is read at once; with a target width, each block doubles the pictures so far."""
    start, stop = 0, settings.images
    yield start, stop
    while settings.target_width is not None and stop < available:
        start, stop = stop, min(2 * stop, available)
        yield start, stop

"""The experiments that a sweep can run, by name: what each does with a chip and settings, and the columns it gives.

A further one is a class that derives from `Experiment`, here or in a package of its own: docs/sweeps.md.
"""

from __future__ import annotations

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
from ..mapping.reduce import reduce
from ..mapping.voting.adaptive import Tally
from ..mapping.voting.asked import prepare
from ..mapping.voting.clusters import Estimate, of_counts
from ..mapping.voting.intervals import Accuracy
from ..mapping.voting.votes import order, vote
from .bench import Bench, Counts, Decided
from .costs import COSTS, ENERGY, costs_of, energy_of, error_of_mean
from .file import Settings

ERROR = 0.01  # accepted by the adaptive votes of `voting` for an image, unless the settings say
READS = 8  # at least, of a reduction
TAKEN = ("task_id", "experiment", "extrapolated", "mho_version", *Settings.model_fields)  # columns of every table
Columns = dict[str, float | int | str | bool]


class Experiment(Config):
    """What a sweep does at each of its points. Fields are the options that the sweep file gives, or their defaults.

    Attributes:
        version: part of the ids of its tasks: raise it when the experiment gives other results, and finished tasks are
            done again.
        columns: the names of what `run` returns.
        unused: settings that it makes no use of, which are refused where they are not as by default.
    """

    version: ClassVar[int]
    columns: ClassVar[tuple[str, ...]]
    unused: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, bench: Bench, settings: Settings) -> Columns:
        """The columns, each a number, a text or a truth value: functions of the chip, the images and the settings.

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


def check_used(name: str, experiment: type[Experiment], settings: Settings) -> None:
    """Raises ValueError for settings that say something and that the experiment makes no use of."""
    for field in experiment.unused:
        value = getattr(settings, field)
        if value != Settings.model_fields[field].default:
            raise ValueError(f"{field}: experiment {name} makes no use of it, leave it out, got {brief(value)}")


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
    is converted); `array_energy_j` of one inference of one image, `inference_energy_j`, all of `layer_costs` (NaN
    where a converter has no bits, and so no cost); and the columns of `mho.sweeps.costs.costs_of`.
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
        conversions = np.zeros(4, np.int64)
        once = settings.model_copy(update={"votes": 1, "copies": 1, "vote_error": None})
        firsts: list[Counts] = []
        blocks: list[Decided] = []
        spent, found = Decided(*[np.empty(0, np.int64)] * 4), Accuracy(0, 1)
        for start, stop in _blocks(settings, len(bench.images)):
            conversions += bench.clipped(start, stop, settings)
            firsts.append(bench.answers(start, stop, once)[0][:, 0])
            blocks.append(bench.decided(start, stop, settings))
            spent = Decided(*map(np.concatenate, zip(*blocks, strict=True)))
            found = _accuracy(spent.right, spent.answers)
            if settings.target_width is not None and found.high - found.low <= settings.target_width:
                break
        n, reads = len(spent.reads), int(spent.reads.sum())
        mean_reads, mean_rounds = float(reads / n), float(spent.rounds.sum() / n)
        one = _accuracy(np.concatenate(firsts), spent.answers)
        energy = energy_of(bench.chip)
        return {
            "pictures": n,
            "accuracy": float(found),
            "low": found.low,
            "high": found.high,
            "width": found.high - found.low,
            "accuracy_1": float(one),
            "accuracy_1_low": one.low,
            "accuracy_1_high": one.high,
            "mean_reads": mean_reads,
            "mean_reads_se": error_of_mean(reads, int(np.square(spent.reads).sum()), n),
            "dac_clipped": conversions[1] / conversions[0] if conversions[0] else np.nan,
            "adc_clipped": conversions[3] / conversions[2] if conversions[2] else np.nan,
            **energy,
            **costs_of(bench.chip, settings, energy["inference_energy_j"], mean_reads, mean_rounds),
        }


@EXPERIMENTS.register("voting")
class Deciding(Experiment):
    """One inference, all votes, and votes that stop once the lead is safe, decided from the same inferences.

    Columns: `pictures` used; `single`, `voted` and `adaptive`, the accuracy after one inference, after all votes, and
    of `mho.mapping.voting.adaptive` with at most as many and the error `vote_error` or 1 %, each with its 95 % Wilson
    interval `..._low`, `..._high`; `mean_reads` of the adaptive votes with its standard error `mean_reads_se`, and
    `capped`, images that all votes did not make safe; energies as in `accuracy`, `adaptive_energy_j` of a decision of
    adaptive votes.
    """

    version = 2
    unused = ("target_width", "layers")
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
        k, rule = settings.votes, settings.rule
        images = bench.images[: settings.images]
        how: dict[str, Any] = {"output": bench.output}
        asked = prepare(bench.chip, images, k, settings.batch_size, settings.copies, rule, **how)
        blocks: list[tuple[Counts, Counts]] = []
        reads, squares, capped = 0, 0, 0
        for given in asked.batches:
            logits = torch.stack(list(asked.scores(given, range(k))))
            shape = tuple(logits.shape[1:-1])
            rows = logits.flatten(1, -2)
            stopping = Tally(rows.shape[1], k, settings.vote_error or ERROR, rule, settings.copies)
            mask = given.counted(shape[1:])
            if mask is not None:
                stopping.open &= mask.reshape(-1)
            for read, found in enumerate(rows):
                stopping.add(torch.arange(len(found)), read, found)
            chosen = rows.argmax(dim=2)
            counts = torch.nn.functional.one_hot(chosen, rows.shape[2]).sum(dim=0)
            voted = order(counts, rows.double().softmax(dim=2).mean(dim=0).float(), rule)[:, 0]
            ways = torch.stack([chosen[0], voted, stopping.leaders], dim=-1).reshape(*shape, 3)
            blocks.append(bench.scored(ways, rows.shape[2], mask, given.start, settings))
            taken = stopping.reads.reshape(given.samples, -1).amax(dim=1)
            reads += int(taken.sum())
            squares += int(taken.square().sum())
            unsafe = ~stopping.safe.reshape(shape)
            capped += int((unsafe if mask is None else unsafe & mask).sum())
        right, answers = map(np.concatenate, zip(*blocks, strict=True))
        columns: Columns = {"pictures": len(images)}
        for name, hits in zip(("single", "voted", "adaptive"), right.T, strict=True):
            accuracy = _accuracy(hits, answers)
            columns |= {name: float(accuracy), f"{name}_low": accuracy.low, f"{name}_high": accuracy.high}
        energy, mean_reads = energy_of(bench.chip), reads / len(images)
        return {
            **columns,
            "mean_reads": mean_reads,
            "mean_reads_se": error_of_mean(reads, squares, len(images)),
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
    unused = ("target_width", "layers", "vote_error", "copies")
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
            found = vote(chip, images, votes, batch_size=settings.batch_size, rule=settings.rule, output=bench.output)
            curve = found.accuracy_over_votes(labels, next_token=settings.next_token)
            for way, accuracy in (("single", curve[0]), ("voted", curve[-1])):
                columns |= {f"{name}_{way}": float(accuracy)}
                columns |= {f"{name}_{way}_low": accuracy.low, f"{name}_{way}_high": accuracy.high}
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


@EXPERIMENTS.register("regression")
class Averaged(Experiment):
    """Errors of a network that gives numbers: of one inference, and of the mean of all (`mho.vote(rule="mean")`).

    Columns: `pictures` used; `rmse`, root mean square error of the mean of `votes` inferences, and `rmse_1` of one
    inference, each with its 95 % interval over samples `..._low`, `..._high`; `mae`, mean absolute error; `spread`,
    root mean square over all outputs of the standard deviation of one inference (NaN with one); energies and costs as
    in `accuracy`.
    """

    version = 1
    unused = ("target_width", "vote_error", "next_token", "rule")
    columns = ("pictures", *_interval("rmse"), *_interval("rmse_1"), "mae", "spread", *ENERGY, *COSTS)

    def run(self, bench: Bench, settings: Settings) -> Columns:
        images, labels = bench.images[: settings.images], bench.labels[: settings.images]
        found = vote(
            bench.chip,
            images,
            settings.votes,
            batch_size=settings.batch_size,
            copies=settings.copies,
            rule="mean",
            output=bench.output,
            layers=settings.layers,
        )
        curve = found.rmse_over_votes(labels)
        columns: Columns = {"pictures": len(images)}
        for name, error in (("rmse", curve[-1]), ("rmse_1", curve[0])):
            columns |= {name: float(error), f"{name}_low": error.low, f"{name}_high": error.high}
        spread = Estimate.of(
            found.std.square(), torch.ones_like(found.std, dtype=torch.bool) if found.mask is None else found.mask
        )
        energy = energy_of(bench.chip)
        costs = costs_of(
            bench.chip, settings, energy["inference_energy_j"], settings.votes, -(-settings.votes // settings.copies)
        )
        return {**columns, "mae": float(found.mae(labels)), "spread": float(spread) ** 0.5, **energy, **costs}


def _accuracy(right: Counts, answers: Counts) -> Accuracy:
    """The share of right answers, of samples with so many that count each."""
    some = answers > 0
    if not some.any():
        raise ValueError("no answer counts: all labels are to be ignored")
    return of_counts(torch.from_numpy(right[some]).double(), torch.from_numpy(answers[some]).double())


def _blocks(settings: Settings, available: int) -> Iterator[tuple[int, int]]:
    """First and last image of what is read at once; with a target width, each block doubles the images so far."""
    start, stop = 0, settings.images
    yield start, stop
    while settings.target_width is not None and stop < available:
        start, stop = stop, min(2 * stop, available)
        yield start, stop

"""The reduction of a chip to the paper's noise model: sigma_add and sigma_mult of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..crossbar.cells import Drawn
from ..crossbar.design import Design
from ..crossbar.drive import Drive
from ..crossbar.expected import Errors, expected_errors
from ..crossbar.hardware import Hardware
from ..crossbar.patches import gather
from ..crossbar.programmed import Programmed
from ..crossbar.reader import Seeds
from .chip import Chip
from .errors import MappingError, check_chip
from .estimates import ERRORS, FIGURES, LEAST, fit, gain_with_error, is_shared, mean_with_error, of_pairs
from .inference import Survey
from .inputs.batches import Batch, batches_of
from .inputs.order import Order
from .layers import TileLayer

__all__ = ["PARTS", "Reduction", "reduce"]

Array = np.ndarray[Any, Any]
PARTS = ("frozen", "slow", "fresh")
ROWS = 2048  # of a layer's matrix that are looked at
SIGMAS = ("sigma_add", "sigma_mult")
STEPS = 8  # calls of a layer that is used several times
SAMPLES = 20  # from which on positions of one sample count as dependent
MATTERS = 0.1  # share of a layer's squared error above which a part of it has to hold


@dataclass(frozen=True)
class Reduction:
    """What `reduce` found.

    Attributes:
        table: a row per layer and part of the error. Parts: `frozen` is the same in all reads of the chip (programming,
            drift, converters), `slow` is what the reads of a series share of the noise of the cells, `fresh` differs
            from read to read, and `total` is what one read sees. Columns: `sigma_add` (in the layer's own units) and
            `sigma_mult`, fitted to the measured E[error^2 | y] = sigma_add^2 + sigma_mult^2 y^2 over real inputs;
            `misfit`, the root mean square relative deviation of the mean squared errors from that, over bins of
            equally many outputs by `|y|`; `misfit_outputs`, the same over outputs of the layer, one by one; both less
            what sampling gives; `holds`, whether both are at most 25 %; `rms`, of the error; `gain`, by which outputs
            before the bias are multiplied on average (of `frozen`, else 1); of each of these but `holds`, the standard
            error `..._se`; the same, `predicted_...`, for the errors expected from the physics, for which nothing is
            drawn; `y_rms`, of the exact outputs. A frozen or slow part that chance may have made is 0 and holds, and so
            is a misfit; a gain is then 1: see docs/reduction.md.
        sources: mean squared error expected from each source, in units of the layer's outputs squared: columns layer,
            part, source, variance, and variance_se, of which inputs they happen to be.
    """

    table: pd.DataFrame
    sources: pd.DataFrame
    chip: Chip

    @property
    def holds(self) -> bool:
        """Whether the model claims to predict the accuracy of its chip.

        For this, `total` has to hold in each layer, and so has each part of more than a tenth of a layer's squared
        error: votes average the fresh part only, and what is frozen is the same for all inputs of the chip.
        """
        table = self.table
        total = table["layer"].map(table[table["part"] == "total"].set_index("layer")["rms"])
        return bool(table.loc[table["rms"] ** 2 > MATTERS * total**2, "holds"].all())

    def model(self, seed: int = 0) -> Chip:
        """The network under the paper's noise model with the measured sigmas: a chip of ideal cells.

        The noise of each layer is added once per output (`Hardware.output_noise`): the fresh part anew in each read,
        the frozen and slow parts the same in all reads of a sample. Frozen errors of a real chip are the same for all
        samples and positions too, and depend on the inputs; these are independent. Where a layer's gain is not 1, the
        model has it. It can be called, voted and saved like any chip.

        Example:
            >>> model = mho.reduce(chip, x).model()
            >>> model.hardware.name
            'reram, reduced'
        """
        rows = {(str(row["layer"]), row["part"]): row for row in self.table.to_dict("records")}

        def noise(name: str) -> dict[str, float]:
            frozen, slow, fresh = (rows[name, part] for part in PARTS)
            return {
                "output_noise.frozen_add": float(np.hypot(frozen["sigma_add"], slow["sigma_add"])),
                "output_noise.frozen_mult": float(np.hypot(frozen["sigma_mult"], slow["sigma_mult"])),
                "output_noise.sigma_add": float(fresh["sigma_add"]),
                "output_noise.sigma_mult": float(fresh["sigma_mult"]),
            }

        def programmed(layer: TileLayer) -> Programmed:
            weights = layer.matrix.weights * np.float32(rows[layer.name, "frozen"]["gain"])
            own = hardware.for_layer(layer.name)
            design = Design.of(
                replace(layer.matrix, weights=weights, hardware=own), Drive.of(own.dac, None, signed=True)
            )
            return Programmed.of(design, Drawn(own, seed), Seeds(seed), layer.backend)

        layers = {name: noise(name) for name in self.chip.layers}
        hardware = Hardware.paper().replace({"name": f"{self.chip.hardware.name}, reduced", "layers": layers})
        model = self.chip.remade(hardware, programmed)
        model.seed, model.copy_index = seed, 0
        return model

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False, float_format="{:.3g}".format))

    def __str__(self) -> str:
        shown = self.table[["layer", "part"]].copy()
        for name in (n for n in self.table.columns[2:] if not n.endswith("_se")):
            values, errors = self.table[name], self.table.get(f"{name}_se")
            if errors is not None and name != "gain":
                sure = (values > ERRORS * errors) | (errors == 0)
                if name in SIGMAS:  # the surer one of the two stays
                    other = SIGMAS[1 - SIGMAS.index(name)]
                    sure |= values * self.table[f"{other}_se"] >= self.table[other] * errors
                values = values.where(sure, 0.0)
            shown[name] = values if name == "holds" else values.map("{:.3g}".format)
            if errors is not None:
                shown[name] += errors.map(" ± {:.1g}".format)
        return shown.to_string(index=False)


def reduce(chip: Chip, images: Any, *, reads: int = 8) -> Reduction:
    """Reduce a chip to an additive and a multiplicative sigma per layer, as the paper's noise model has them.

    The inputs of each layer are those that the images give in the network without errors. Its errors are measured on
    them, and predicted from devices and sensing alone (`mho.crossbar.expected`).

    Args:
        chip: the mapped network.
        images: real inputs of the network, n samples; some dozens do. They come in the forms that `mho.map(calibrate=)`
            takes; of an iterable 1,024 samples are taken. Up to 2,048 rows of each layer's matrix are read. Standard
            errors are over samples, from 20 on: tokens of a text are not independent of each other.
        reads: noisy reads of each input in a series, 2 or more. Where noise lasts for some reads, this is the series
            for which slow and fresh parts are told apart: take the number of votes.

    Raises:
        ValueError: fewer than 2 images, or fewer than 2 reads.
        MappingError: a layer that the images never reach.

    Example:
        >>> found = mho.reduce(chip, x)
        >>> sorted(found.table["part"].unique())
        ['fresh', 'frozen', 'slow', 'total']
    """
    check_chip(chip)
    batches = batches_of(images, chip.model, "images")
    count = sum(batch.samples for batch in batches)
    if count < 2:
        raise ValueError(f"images must hold at least 2 samples, to tell errors from chance, got {count}")
    if reads < 2:
        raise ValueError(f"reads must be at least 2, to tell frozen from fresh errors, got {reads}")
    survey, firsts = _survey(chip, batches)
    rows: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    for name, layer in chip.layers.items():
        if not survey.inputs[name]:
            raise MappingError(f"reduce: the images never reach layer {name!r}")
        matrix = layer.tiles.plain()
        x, samples, scales = _few_rows(layer, survey.inputs[name], survey.orders[name], firsts[name])
        expected = expected_errors(matrix, x, reads, scales)
        measured, noise, gain = _measure(matrix, x, samples, expected, reads, scales)
        predicted = {part: expected.total(part) for part in PARTS}
        noises = dict.fromkeys(("frozen", "slow"), (noise, predicted["fresh"] / reads))
        predicted["total"] = sum(predicted.values()) + np.square((expected.gain - 1) * expected.product)
        for part in (*PARTS, "total"):
            met, foreseen_noise = noises.get(part, (np.zeros_like(noise),) * 2)
            found = fit(expected.y, measured[part].squared, met, samples, found=measured[part].found)
            foreseen = fit(expected.y, predicted[part], foreseen_noise)
            found["gain"], found["gain_se"] = gain if part == "frozen" else (1.0, 0.0)
            foreseen["gain"] = expected.gain if part == "frozen" else 1.0
            rows.append(
                {"layer": name, "part": part, **found}
                | {f"predicted_{key}": foreseen[key] for key in (*FIGURES, "gain")}
                | {"y_rms": float(np.sqrt(np.square(expected.y).mean()))}
            )
        sources += [
            {"layer": name, "part": part, "source": source}
            | dict(zip(("variance", "variance_se"), mean_with_error(variance, samples), strict=True))
            for part in PARTS
            for source, variance in getattr(expected, part).items()
        ]
    return Reduction(pd.DataFrame(rows), pd.DataFrame(sources), chip)


def _survey(chip: Chip, batches: Sequence[Batch]) -> tuple[Survey, dict[str, list[int]]]:
    """What goes into each layer, and of each call of it the number of its batch's first sample."""
    survey = Survey({name: [] for name in chip.layers})
    firsts: dict[str, list[int]] = {name: [] for name in chip.layers}
    first = 0
    for batch in batches:
        survey.calls.clear()
        own = batch.apart()
        chip.run(own.args, survey, own.kwargs)
        for name, starts in firsts.items():
            starts += [first] * (len(survey.inputs[name]) - len(starts))
        first += batch.samples
    return survey, firsts


def _samples(order: Order, rows: int, *, arranged: bool) -> Array:
    """(rows,) which sample each row of a layer's inputs is of, in the order of the model or `arranged`.

    Each counts as one where they are of none.
    """
    if not order.samples:
        return np.arange(rows)
    of = np.arange(rows) // (rows // order.samples)
    if arranged:
        return of
    found: Array = np.empty(rows, np.int64)
    found[order.arranged(torch.arange(rows)).numpy()] = of
    return found


def _few_rows(
    layer: TileLayer, calls: list[Array], orders: list[Order], firsts: list[int]
) -> tuple[Array, Array, Array | None]:
    """Some of the rows that a layer reads, the sample of each, and what they were divided by if reads are scaled.

    They come from calls of the layer that are spread over the inference, and from as many samples as there are, with as
    many positions of each as make about `ROWS` rows.
    """
    programmed, matrix = layer.tiles, layer.tiles.design.matrix
    rng, patches, samples, scales = np.random.default_rng(0), [], [], []
    chosen = np.unique(np.linspace(0, len(calls) - 1, min(len(calls), STEPS)).astype(int))
    for call in chosen:
        divided = layer.scaled(torch.from_numpy(calls[call]), orders[call])
        x = divided.values.numpy()
        numbers = firsts[call] + _samples(orders[call], len(x), arranged=divided.scales is not None)
        few = np.unique(np.linspace(0, len(x) - 1, min(len(x), ROWS // len(chosen))).astype(int))
        positions = prod(matrix.patches.positions(x.shape[1:4]))
        many = min(positions, max(1, ROWS // (len(chosen) * len(few))))
        geometries = [programmed.reader.geometry(x.shape, g) for g in range(matrix.placement.groups)]
        for sample in few:
            taken = np.sort(rng.choice(positions, many, replace=False))
            one = x[sample : sample + 1]
            patches.append(np.concatenate([gather(one, geometry)[taken] for geometry in geometries], axis=1))
            samples += [numbers[sample]] * many
            if divided.scales is not None:
                scales.append(divided.scales.numpy()[sample * positions + taken])
    clusters = np.unique(samples, return_inverse=True)[1]
    if clusters.max() + 1 < SAMPLES:
        clusters = np.arange(len(samples))
    return np.concatenate(patches)[:, None, None, None], clusters, np.concatenate(scales) if scales else None


@dataclass(frozen=True)
class _Part:
    """Squared errors (rows, outputs), unbiased, so that some are below 0; whether there are any."""

    squared: Array
    found: bool = True


def _measure(
    programmed: Programmed, x: Array, samples: Array, expected: Errors, reads: int, scales: Array | None
) -> tuple[dict[str, _Part], Array, tuple[float, float]]:
    """The parts of the errors of reads of x, the squared read noise of their mean, and the gain with its error."""

    def read(programmed: Programmed) -> Array:
        """Errors (reads, rows, outputs)."""
        readings, _ = programmed.reader.read(x, reads=reads, shared=True, scales=scales)
        found = programmed.backend.to_numpy(readings)
        return found.reshape(reads, *expected.y.shape) - expected.y

    errors = alone = read(programmed)
    lasting = any(len(packed.slow_std) for packed in programmed.packed)
    if lasting:
        alone = read(programmed.forgetful())
    noise = alone.var(axis=0, ddof=1)
    least = np.sqrt(max(LEAST * float(noise.mean()), np.finfo(float).tiny))
    add, mult = (fit(expected.y, noise, np.zeros_like(noise))[name] for name in ("sigma_add", "sigma_mult"))
    scale = np.maximum(np.sqrt(add**2 + (mult * expected.y) ** 2), least)

    def part(errors: Array) -> _Part:
        return _Part(of_pairs(errors), not noise.any() or is_shared(errors, scale))

    gain, error = gain_with_error(expected.product, expected.product + alone.mean(axis=0), samples)
    found = {
        "frozen": part(alone - (gain - 1) * expected.product),
        "slow": part(errors - alone) if lasting else _Part(np.zeros_like(noise), found=False),
        "fresh": _Part(errors.var(axis=0, ddof=1)),
        "total": _Part(np.square(errors).mean(axis=0)),
    }
    return found, noise / reads, (gain, error)

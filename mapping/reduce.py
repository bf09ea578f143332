"""The reduction of a chip to the paper's noise model: sigma_add and sigma_mult of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls

from ..crossbar.expected import Errors, expected_errors, gain_of
from ..crossbar.hardware import Hardware
from ..crossbar.matrix import TiledMatrix
from .chip import Chip
from .errors import MappingError
from .inference import Inference
from .layers import TileLayer

__all__ = ["PARTS", "Reduction", "reduce"]

Array = np.ndarray[Any, Any]
PARTS = ("frozen", "slow", "fresh")
ROWS = 2048  # of a layer's matrix that are looked at
STEPS = 8  # calls of a layer that is used several times
NOTHING = 1e-6  # errors below this part of the outputs are rounding
BINS = 30  # of outputs by size, of equal numbers
HOLDS = 0.25  # largest `misfit` of a model that is taken to hold
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
            equally many outputs by |y|; `misfit_outputs`, the same over the outputs of the layer, one by one; `holds`,
            whether both are at most 25 %; `rms`, of the error; `gain`, by which outputs before the bias are multiplied
            on average (of `frozen`, else 1); the same, `predicted_...`, for the errors expected from the physics;
            `y_rms`, of the exact outputs.
        sources: mean squared error expected from each source, in units of the layer's outputs squared: columns layer,
            part, source, variance.
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

        def matrix(layer: TileLayer) -> TiledMatrix:
            found, name = layer.matrix, layer.name
            weights = found.weights * np.float32(rows[name, "frozen"]["gain"])
            shape = found.kernel, found.stride, found.dilation
            made = TiledMatrix(weights, found.bias, hardware.for_layer(name), name, seed, 0, *shape)
            made.set_drive(None, signed=True)
            return made

        layers = {name: noise(name) for name in self.chip.layers}
        hardware = Hardware.paper().replace({"name": f"{self.chip.hardware.name}, reduced", "layers": layers})
        model = self.chip.remade(hardware, matrix)
        model.seed, model.copy_index = seed, 0
        return model

    def __str__(self) -> str:
        shown = self.table.copy()
        for column in shown.columns[2:]:
            if column != "holds":
                shown[column] = shown[column].map("{:.3g}".format)
        return shown.to_string(index=False)


def reduce(chip: Chip, images: torch.Tensor, *, reads: int = 8) -> Reduction:
    """Reduce a chip to an additive and a multiplicative sigma per layer, as the paper's noise model has them.

    The inputs of each layer are those that the images give in the network without errors. Its errors are measured on
    them, and predicted from devices and sensing alone (`mho.crossbar.expected`).

    Args:
        chip: the mapped network.
        images: (n, ...) real inputs of the network; some dozens do. Up to 2,048 rows of each layer's matrix are read.
        reads: noisy reads of each input in a series, 2 or more. Where noise lasts for some reads, this is the series
            for which slow and fresh parts are told apart: take the number of votes.

    Raises:
        ValueError: no images, or fewer than 2 reads.
        MappingError: a layer that the images never reach.
    """
    if not len(images):
        raise ValueError("images must hold at least one sample, got none")
    if reads < 2:
        raise ValueError(f"reads must be at least 2, to tell frozen from fresh errors, got {reads}")
    survey = Inference(surveying=True, inputs={name: [] for name in chip.layers})
    chip.run((images,), survey)
    rows: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    for name, layer in chip.layers.items():
        if not survey.inputs[name]:
            raise MappingError(f"reduce: the images never reach layer {name!r}")
        x = _few_rows(layer.matrix, survey.inputs[name])
        expected = expected_errors(layer.matrix, x, reads)
        measured, gain = _measure(layer.matrix, x, expected, reads)
        predicted = {part: expected.total(part) for part in PARTS}
        predicted["total"] = sum(predicted.values()) + np.square((expected.gain - 1) * expected.product)
        for part in (*PARTS, "total"):
            gains = (gain, expected.gain) if part == "frozen" else (1.0, 1.0)
            found, foreseen = (_fit(expected.y, squared[part]) for squared in (measured, predicted))
            rows.append(
                {"layer": name, "part": part, **found, "gain": gains[0]}
                | {f"predicted_{key}": value for key, value in {**foreseen, "gain": gains[1]}.items() if key != "holds"}
                | {"y_rms": float(np.sqrt(np.square(expected.y).mean()))}
            )
        sources += [
            {"layer": name, "part": part, "source": source, "variance": float(variance.mean())}
            for part in PARTS
            for source, variance in getattr(expected, part).items()
        ]
    return Reduction(pd.DataFrame(rows), pd.DataFrame(sources), chip)


def _few_rows(matrix: TiledMatrix, calls: list[Array]) -> Array:
    """Some of the inputs, from calls of the layer that are spread over the inference: about `ROWS` rows together."""
    x = [calls[int(call)] for call in np.unique(np.linspace(0, len(calls) - 1, min(len(calls), STEPS)).astype(int))]
    x = [call for call in x if call.shape[1:] == x[0].shape[1:]]
    positions = prod(matrix.positions(x[0].shape[1:4]))
    return np.concatenate([call[: max(1, ROWS // (positions * len(x)))] for call in x])


def _measure(matrix: TiledMatrix, x: Array, expected: Errors, reads: int) -> tuple[dict[str, Array], float]:
    """Squared errors (rows, outputs) by part of reads of x, unbiased (so that some are below 0), and the gain."""

    def read(matrix: TiledMatrix) -> tuple[Array, Array]:
        """Mean over the reads before the bias, and variance from read to read."""
        got = matrix.read(x, reads=reads, shared=True).reshape(reads, *expected.y.shape).astype(np.float64)
        return got.mean(axis=0) - (expected.y - expected.product), got.var(axis=0, ddof=1)

    level, fresh = read(matrix)
    alone, noise = level, fresh
    if any(len(programmed.slow_std) for programmed in matrix.programmed):
        alone, noise = read(matrix.forgetful())
    gain = gain_of(expected.product, alone)
    total = np.square(level - expected.product) + (1 - 1 / reads) * fresh
    frozen = np.square(alone - gain * expected.product) - noise / reads
    slow = np.square(level - gain * expected.product) - fresh / reads - frozen
    return {"frozen": frozen, "slow": slow, "fresh": fresh, "total": total}, gain


def _fit(y: Array, squared: Array) -> dict[str, Any]:
    """sigma_add and sigma_mult of E[squared | y] = sigma_add^2 + sigma_mult^2 y^2, by weighted least squares.

    The bins hold equally many values of |y|; the error of a bin's mean is taken as in proportion to the mean.
    """
    order = np.argsort(np.abs(y), axis=None)
    power, mean = (
        np.array([part.mean() for part in np.array_split(values.reshape(-1)[order], BINS)])
        for values in (y**2, squared)
    )
    rms = float(np.sqrt(max(squared.mean(), 0)))
    names = ("sigma_add", "sigma_mult", "misfit", "misfit_outputs", "holds", "rms")
    if rms <= NOTHING * float(np.sqrt(power.mean())):
        return dict(zip(names, (0.0, 0.0, 0.0, 0.0, True, rms), strict=True))
    least = 0.05 * mean.mean()
    level, solution = np.maximum(mean, least), np.zeros(2)
    for _ in range(5):
        solution, _ = nnls(np.stack([np.ones_like(power), power], axis=1) / level[:, None], mean / level)
        level = np.maximum(solution[0] + solution[1] * power, least)
    of_outputs = np.maximum(solution[0] + solution[1] * np.square(y).mean(axis=0), least)
    misfits = [
        float(np.sqrt(np.square(found / fitted - 1).mean()))
        for found, fitted in ((mean, level), (squared.mean(axis=0), of_outputs))
    ]
    add, mult = np.sqrt(solution)
    return dict(zip(names, (float(add), float(mult), *misfits, max(misfits) <= HOLDS, rms), strict=True))

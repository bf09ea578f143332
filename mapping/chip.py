"""A mapped network: a torch module whose matrix layers are read from tiles."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from ..crossbar.backend import Backend
from ..crossbar.extrapolation import extrapolations
from ..crossbar.hardware import Hardware
from ..crossbar.programmed import Programmed
from ..devices.renamed import renamed
from ..devices.units import brief
from .conductances import Conductances, given_by_layer
from .counting import Counter
from .cover import Cover
from .errors import MappingError
from .exports.export import export
from .generate import generate
from .graph import asks_for_no_view
from .inference import Inference, Read
from .inputs.batches import batches_of
from .layers import TileLayer
from .lent import known_in_trials
from .mapped import Digital
from .measured import measured
from .progress import told
from .reading import run_pass
from .recalibration import recalibrate
from .report import Report
from .saved.store import save
from .session import Session
from .steps import stepped
from .trace import Call

RENAMED = {"replica": "copy", "with_cells": "with_conductances"}


def refuse_extrapolations(layers: Mapping[str, Hardware]) -> None:
    """Raises MappingError where the hardware of a layer has settings outside the data behind its models."""
    for name, hardware in layers.items():
        for said in extrapolations(hardware):
            raise MappingError(f"layer {name!r}: {said} (strict=True)")


class Chip(nn.Module):
    """A model on the tiles of one programmed chip; made by `mho.map` or `mho.load`.

    Calling it is one noisy inference. The chip counts its calls: two calls draw different noise, and a fresh chip
    (mapped or loaded again with the same seed) repeats them. Samples are identified by their place along the first
    dimension.

    Attributes:
        hardware: as configured, overrides per layer included.
        layers: the layers on tiles, by name.
        digital: what is not on tiles, and why.
        seed: of programming errors and of read noise, unless `hardware.seeds` sets them.
        copy_index: 0, or which copy of the chip this is (`Chip.copy`).
        strict: whether a setting outside the data behind its model is an error, as `mho.map` was told; also of its
            copies and at other times.

    Example:
        >>> chip(x).shape  # one noisy inference
        torch.Size([100, 3])
        >>> torch.equal(chip(x), chip(x))  # the next reads
        False
    """

    def __init__(
        self,
        model: nn.Module,
        hardware: Hardware,
        layers: dict[str, TileLayer],
        digital: tuple[Digital, ...],
        seed: int,
        copy_index: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.hardware = hardware
        self.layers = layers
        self.digital = digital
        self.seed = seed
        self.copy_index = copy_index
        self.strict = False
        self.cover: Cover | None = None  # what map knows of it, for the report
        self.session = Session()
        for layer in layers.values():
            layer.session = self.session
        for name in stepped(model):
            layers[name].rows_are_samples = True
        self.channels_last = any(layer.spec.dims for layer in layers.values()) and asks_for_no_view(model)
        self.eval()

    def __getattr__(self, name: str) -> Any:
        if name in RENAMED:
            raise AttributeError(f"Chip.{name} is Chip.{RENAMED[name]} since version 0.3")
        return super().__getattr__(name)

    @property
    def calls(self) -> int:
        """Inferences so far, and reads of single layers.

        Example:
            >>> again = mho.map(net, hardware, calibrate=x)
            >>> y = again(x), again(x)
            >>> again.calls
            2
        """
        return self.session.calls

    @property
    def backend(self) -> Backend:
        """What computes its tiles: see `mho.map`."""
        return next(iter(self.layers.values())).backend

    @property
    def trace(self) -> list[Call]:
        """The calls of one inference of the last inputs, and which results each needs; empty before the first."""
        return self.session.trace

    @trace.setter
    def trace(self, calls: list[Call]) -> None:
        self.session.trace = calls

    @property
    def largest_output(self) -> int:
        """Bytes of the largest output of a layer on tiles for one sample, once one has been read."""
        return max(4 * layer.spec.out_features * (layer.positions or 1) for layer in self.layers.values())

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """One noisy inference: what the model returns for these inputs."""
        return self.read(*inputs, read=self.session.next_read(), named=named)

    def read(
        self,
        *inputs: Any,
        read: int,
        reads: int = 1,
        first_sample: int = 0,
        noisy: bool = True,
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        """The inference of a given number, or several of them at once.

        Args:
            inputs: the model's inputs, samples along the first dimension.
            read: its number: the same number gives the same noise, another number other noise.
            reads: how many inferences of the same inputs, numbered from `read`. Their outputs follow one another along
                the first dimension and are those of the inferences made one by one.
            first_sample: place of the first sample in the whole data set, so that batches do not change the noise.
            noisy: False leaves out the noise of the read; converters and frozen errors stay.
            named: inputs that the model takes by name.

        Example:
            >>> torch.equal(chip.read(x, read=0), chip.read(x, read=0))
            True
            >>> chip.read(x, read=0, reads=2).shape
            torch.Size([200, 3])
        """
        if not (isinstance(reads, int) and reads >= 1):
            raise ValueError(f"reads must be a whole number of at least 1, got {reads!r}")
        self._check_number("first_sample", first_sample)
        run = Read(read, reads, first_sample=first_sample, noisy=noisy)
        return self.run(inputs, run, dict(named or {}))

    def generate(self, *inputs: Any, read: int | None = None, first_sample: int = 0, **named: Any) -> Any:
        """What the model's own `generate` returns, as Hugging Face's causal language models have one.

        Each call of the model in it, for a token or the tokens of a prompt, is an inference of its own with fresh
        noise. What the model draws (sampling) comes from torch's random numbers: see `torch.manual_seed`.

        Args:
            inputs, named: of the model's `generate`.
            read: number of the first inference, the next have the numbers that follow: the same number gives the same
                noise. None: the chip counts them with its calls.
            first_sample: place of the first sample in the whole data set. Each row of a batch (each beam) is a sample.

        Raises:
            MappingError: the model has no method `generate`.
            ValueError: a number that is no whole number from 0 on.
        """
        if read is not None:
            self._check_number("read", read)
        self._check_number("first_sample", first_sample)
        numbers = itertools.count(read or 0)
        following = self.session.next_read if read is None else lambda: next(numbers)
        return generate(self, inputs, named, following, first_sample)

    @staticmethod
    def _check_number(name: str, value: Any) -> None:
        """Raises ValueError for what numbers no read or sample."""
        if isinstance(value, bool) or not (isinstance(value, int) and 0 <= value < 2**63):
            raise ValueError(f"{name} must be a whole number from 0 to 2^63 - 1, got {value!r}")

    def train(self, mode: bool = True) -> Chip:
        """Only warns: a chip is an inference device, whose dropout is off and whose batch norm is fixed."""
        if mode:
            warnings.warn("a chip is an inference device: train() changes nothing, it stays as in eval()", stacklevel=2)
            return self
        return super().train(False)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the digital part of this same chip. Its cells are not in it: `save` a chip, and `mho.load` it.

        Raises:
            MappingError: a state of another chip or of a model that is not on tiles, or one that does not fit.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise MappingError(" ".join(str(error).split())) from error

    def copy(self, index: int) -> Chip:
        """Another chip with the same design and calibration, programmed anew: its frozen errors and its noise differ.

        `index` 0 is the chip as first mapped.

        Raises:
            ValueError: a layer whose cells were given (`with_conductances`) has no other copy.

        Example:
            >>> torch.equal(chip.copy(1).read(x, read=0), chip.read(x, read=0))
            False
        """
        other = self.remade(self.hardware, lambda layer: layer.tiles.copied(index))
        other.copy_index = index
        return other

    @renamed(compensate="drift_compensation")
    def at(self, time_s: float, *, reads: int | None = None, drift_compensation: bool = False) -> Chip:
        """This chip `time_s` seconds after it was programmed: its cells have drifted and relaxed, its ranges have not.

        The cells are the same at all times, and so are the random numbers of the reads.

        Args:
            time_s: seconds since programming ended.
            reads: pulses that each cell was read with since then; None: as many as `hardware.reads` says.
            drift_compensation: multiply the outputs of each tile by what its total conductance has lost, as a read of
                all its word lines at once tells: the global drift compensation of Joshi et al. 2020 (Nat. Commun.
                11:2473), tile by tile.

        Raises:
            ValueError: a time that is negative, or beyond the data of the cell; or another time than that at which
                cells were given (`with_conductances`).
            MappingError: a time outside the data behind a model, of a chip that was mapped with `strict`.

        Example:
            >>> chip.at(3600.0).hardware.time_s  # the same chip an hour later
            3600.0
        """
        changed = {"time_s": time_s} | ({} if reads is None else {"reads": reads})
        hardware = self.hardware.replace(changed)
        if self.strict:
            refuse_extrapolations({name: layer.hardware.replace(changed) for name, layer in self.layers.items()})
        return self.remade(
            hardware, lambda layer: layer.tiles.at(time_s, reads=reads, drift_compensation=drift_compensation)
        )

    def recalibrate(self, inputs: Any) -> Chip:
        """This chip with what depends on its cells measured again, on the cells as they are now: see `recalibration`.

        These are the ranges of the ADCs that were set by calibration, and the statistics of batch norms: those that
        stayed digital, and those that were folded into layers, whose outputs get a gain and an offset for each channel.
        Cells, the ranges of inputs and the seeds stay.

        Args:
            inputs: as `mho.map(calibrate=)` takes them; a few hundred samples make good statistics.

        Raises:
            MappingError: inputs that do not fit the model.

        Example:
            >>> chip.at(3600.0).recalibrate(x).hardware.time_s
            3600.0
        """
        other = self.remade(self.hardware, lambda layer: layer.tiles)
        recalibrate(other, batches_of(inputs, self.model, "inputs"))
        return other

    def conductances(self, *layers: str) -> Conductances:
        """The conductances of all cells, one by one, of these layers (by default of all): arrays, a table, and files.

        Raises:
            MappingError: no such layer.

        Example:
            >>> (cells,) = chip.conductances("2")["2"]
            >>> float(cells.max()) < 60e-6  # siemens
            True
        """
        return Conductances({name: self._layer(name) for name in layers or self.layers})

    def with_conductances(self, conductances: Any) -> Chip:
        """This chip with cells as they were measured: they are neither programmed nor do they drift.

        Calibration, digital gains and seeds are those of this chip. So are the cells of layers that are not named. Read
        noise is that of the hardware. The cells belong to one chip at one time: the new chip has no other `copy`,
        and cannot be `at` another time.

        Args:
            conductances: a table with the columns of `Conductances.table` (pandas or pyarrow), or the path of one that
                `Conductances.save` has written; or by layer its part of the table, or the arrays of its groups. They
                are copied. A layer is given whole.

        Raises:
            MappingError: no such layer, arrays of another shape, cells that are missing, unknown or there twice, or
                numbers that cannot be conductances in siemens.
            ValueError: a file that cannot be read.

        Example:
            >>> same = chip.with_conductances(chip.conductances())
            >>> torch.equal(same.read(x, read=0), chip.read(x, read=0))
            True
        """
        found = given_by_layer(conductances)
        given = {self._layer(name).name for name in found}
        return self.remade(
            self.hardware,
            lambda layer: measured(layer, found[layer.name]) if layer.name in given else layer.tiles,
        )

    def _layer(self, name: Any) -> TileLayer:
        if not (isinstance(name, str) and name in self.layers):
            known = ", ".join(self.layers)
            raise MappingError(f"layer {brief(name)}: is not on tiles; layers on tiles are {known}")
        return self.layers[name]

    def remade(self, hardware: Hardware, programmed: Callable[[TileLayer], Programmed]) -> Chip:
        """A chip of the same model and layers with other hardware and tiles; all its counts are at 0."""
        known: dict[int, Any] = {id(self.hardware): hardware, id(self.session): self.session.anew()}
        known |= {id(value): value for value in self.session.replaced}  # by which they are known
        made = {}
        with told("programming, layers") as tell:
            for name, layer in self.layers.items():
                made[name] = programmed(layer)
                tell(len(made), len(self.layers))
        for name, layer in self.layers.items():
            known |= {
                id(layer.spec): layer.spec,
                id(layer.matrix): made[name].design.matrix,
                id(layer.programmed): made[name],
                id(layer.counter): Counter(),
            }
        other = copy.deepcopy(self, known)  # all but these
        for name, layer in other.layers.items():
            layer.seeds = made[name].seeds
        return other

    def trial(self) -> Chip:
        """A copy with the same tiles, programmed or not, and the same count of conversions; what it does to its model
        leaves no trace in this one."""
        known: dict[int, Any] = {id(self.hardware): self.hardware, id(self.session): self.session.anew()}
        known |= {id(value): value for value in self.session.replaced}
        for layer in self.layers.values():
            known |= {id(part): part for part in (layer.spec, layer.matrix, layer.programmed, layer.counter)}
        known |= known_in_trials(self.model)
        return copy.deepcopy(self, known)

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def report(self) -> Report:
        """What the mapping took, layer by layer: see `mho.mapping.report.Report`.

        Example:
            >>> chip.report().table.shape[0]  # a row per layer
            2
        """
        return Report.of(self)

    def export(self, path: str | PathLike[str], what: str = "layers") -> None:
        """Write a table (`layers`, `tiles`, `costs`: .csv or .json) or AccelForge's YAML (`accelforge`).

        See `mho.mapping.exports.export.export`.
        """
        export(self, path, what)

    def save(self, path: str | Path, *, compact: bool = False) -> None:
        """Write the chip to the folder `path`, `compact` without its cells: see `mho.mapping.saved.store.save`.

        Example:
            >>> chip.save("chip")
            >>> torch.equal(mho.load("chip").read(x, read=0), chip.read(x, read=0))
            True
        """
        save(self, path, compact=compact)

    def run(self, inputs: tuple[Any, ...], run: Inference, named: dict[str, Any] | None = None) -> Any:
        """What the model returns for these inputs in a pass: see `mho.mapping.reading`."""
        return run_pass(self, inputs, run, named or {})

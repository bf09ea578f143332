"""A mapped network: a torch module whose matrix layers are read from tiles."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..crossbar.hardware import Hardware
from ..crossbar.matrix import TiledMatrix
from .batches import Batch
from .errors import MappingError
from .graph import asks_for_no_view
from .layers import Inference, Session, TileLayer
from .recurrent import balance, stepped
from .trace import Call, Recorder

if TYPE_CHECKING:
    from .cover import Cover
    from .report import Report


class Digital(NamedTuple):
    """A part of the model that is not on tiles."""

    name: str
    type: str
    reason: str


class Chip(nn.Module):
    """A model on the tiles of one programmed chip; made by `mho.map` or `mho.load`.

    Calling it is one noisy inference. The chip counts its calls: two calls draw different noise, and a fresh chip
    (mapped or loaded again with the same seed) repeats them. Samples are told apart by their place along the first
    dimension.

    Attributes:
        hardware: as configured, overrides per layer included.
        layers: the layers on tiles, by name.
        digital: what is not on tiles, and why.
        seed: of programming errors and of read noise, unless `hardware.seeds` sets them.
        copy_index: 0, or which copy of the chip this is (`replica`).
        trace: the calls of one inference and which results each needs, as recorded in the first; empty before.
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
        self.trace: list[Call] = []
        self.cover: Cover | None = None  # what map knows of it, for the report
        self.session = Session()
        for layer in layers.values():
            layer.session = self.session
        self.channels_last = asks_for_no_view(model)
        self.eval()

    @property
    def calls(self) -> int:
        """Inferences so far."""
        return self.session.calls

    @property
    def largest_output(self) -> int:
        """Bytes of the largest output of a layer on tiles for one sample, once one has been read."""
        return max(4 * layer.spec.out_features * (layer.positions or 1) for layer in self.layers.values())

    def forward(self, *inputs: torch.Tensor) -> Any:
        """One noisy inference: what the model returns for these inputs."""
        self.session.calls += 1
        return self.read(*inputs, read=self.session.calls - 1)

    def read(self, *inputs: torch.Tensor, read: int, reads: int = 1, first_sample: int = 0, noisy: bool = True) -> Any:
        """The inference of a given number, or several of them at once.

        Args:
            inputs: the model's inputs, samples along the first dimension.
            read: its number: the same number gives the same noise, another number other noise.
            reads: how many inferences of the same inputs, numbered from `read`. Their outputs follow one another along
                the first dimension and are those of the inferences made one by one.
            first_sample: place of the first sample in the whole data set, so that batches do not change the noise.
            noisy: False leaves out the noise of the read; converters and frozen errors stay.
        """
        return self.run(inputs, Inference(read=read, reads=reads, first_sample=first_sample, noisy=noisy))

    def prepare(self, batches: Sequence[Batch]) -> dict[str, str]:
        """Set the ranges that hardware leaves to calibration from batches of inputs, and program all layers.

        Returns:
            The layers that no range could be set for, and so are not programmed, with the reason.

        Raises:
            MappingError: inputs are needed and missing, or do not fit the model.
        """
        if batches:
            try:
                return self._calibrate(batches)
            except MappingError:
                raise
            except Exception as error:  # a model may fail in any way on inputs that are not its own
                reason = " ".join(str(error).split())[:300]
                raise MappingError(
                    f"calibrate: inputs of shape {batches[0].shape} do not go through the model "
                    f"({type(error).__name__}: {reason})"
                ) from error
        for name, layer in self.layers.items():
            dac, adc = layer.hardware.dac, layer.hardware.adc
            if "calibrated" in (dac.range, adc.full_scale):
                field = "dac.range" if dac.range == "calibrated" else "adc.full_scale"
                raise MappingError(
                    f"layer {name!r}: {field} is 'calibrated': pass calibrate=, a batch of real inputs, "
                    f"or set {field} to a number"
                )
            layer.matrix.set_drive(None if dac.range is None else float(dac.range), signed=True)
        return {}

    def _calibrate(self, batches: Sequence[Batch]) -> dict[str, str]:
        """Layer after layer; a layer that is called several times needs the inputs of all its calls beforehand.

        So does each layer where there are several batches.
        """
        several = stepped(self.model) if len(batches) == 1 else set(self.layers)
        while True:
            survey: dict[str, list[Any]] = {name: [] for name in several}
            for batch in batches if several else ():
                self.run(batch.args, Inference(surveying=True, inputs=survey), batch.kwargs)
            inputs = {name: arrays for name, arrays in survey.items() if any(x.any() for x in arrays)}
            balance(self.model, inputs)
            run = Inference(calibrating=True, inputs=inputs)
            self.run(batches[0].args, run, batches[0].kwargs)
            for name in inputs.keys() - run.calls.keys():  # only later batches reach it
                self.layers[name].matrix.calibrate(*inputs[name])
            idle = {name for name, layer in self.layers.items() if not layer.matrix.programmed}
            reached = run.calls.keys() | {name for name, arrays in survey.items() if arrays}
            more = ((idle & reached) | {name for name, calls in run.calls.items() if calls > 1}) - several
            if not more:
                zero, never = "its calibration inputs are all zero", "the calibration inputs never reach it"
                return {name: zero if name in reached else never for name in self.layers if name in idle}
            several |= more

    def replica(self, index: int) -> Chip:
        """Another chip with the same design and calibration, programmed anew: its frozen errors and its noise differ.

        `index` 0 is the chip as first mapped.
        """
        other = self.remade(self.hardware, lambda layer: layer.matrix.replica(index))
        other.copy_index = index
        return other

    def at(self, time_s: float, *, compensate: bool = False) -> Chip:
        """This chip `time_s` seconds after it was programmed: its cells have drifted and relaxed, its ranges have not.

        The cells are the same at all times, and so are the random numbers of the reads.

        Args:
            time_s: seconds since programming ended.
            compensate: multiply the outputs of each tile by what its total conductance has lost, as a read of all its
                word lines at once tells: the global drift compensation of Joshi et al. 2020 (Nat. Commun. 11:2473),
                tile by tile.

        Raises:
            ValueError: a time that is negative, or beyond the data of the cell.
        """
        hardware = self.hardware.replace({"time_s": time_s})
        return self.remade(hardware, lambda layer: layer.matrix.later(time_s, compensate=compensate))

    def remade(self, hardware: Hardware, matrix: Callable[[TileLayer], TiledMatrix]) -> Chip:
        """A chip of the same model and layers, with other hardware and matrices; its calls are counted anew."""
        known: dict[int, Any] = {id(self.hardware): hardware, id(self.session): Session()}
        for layer in self.layers.values():
            known |= {id(layer.matrix): matrix(layer), id(layer.spec): layer.spec}
        return copy.deepcopy(self, known)  # all but these

    def report(self) -> Report:
        """What the mapping took, layer by layer: see `mho.mapping.report.Report`."""
        from .report import Report

        return Report.of(self)

    def save(self, path: str | Path) -> None:
        """Write the chip to the folder `path`: see `mho.mapping.store.save`."""
        from .store import save

        save(self, path)

    def run(self, inputs: tuple[Any, ...], run: Inference, kwargs: dict[str, Any] | None = None) -> Any:
        named = kwargs or {}
        tensors = [x for x in tree_leaves((inputs, named)) if isinstance(x, torch.Tensor)]
        first = tensors[0] if not inputs and tensors else inputs[0]
        if not isinstance(first, torch.Tensor):
            raise TypeError(f"a chip takes torch tensors, got {type(first).__name__}")
        run.samples = max(1, first.shape[0] if first.ndim else 1)
        if run.reads > 1:
            with torch.inference_mode(False):  # so that writing to them is noticed
                inputs = tuple(x.repeat(run.reads, *(1,) * (x.ndim - 1)) for x in inputs)
            run.repeated = inputs[0]
        run.channels_last = self.channels_last
        self.session.inference = run
        with torch.no_grad():
            if self.trace:
                return self.model(*inputs, **named)
            with Recorder(self.layers, tuple(tensors), run.samples * run.reads) as recorder:
                result = self.model(*inputs, **named)
            self.trace = recorder.calls
            return result

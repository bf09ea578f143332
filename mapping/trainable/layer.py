"""A layer that is trained on tiles: its torch parameters, and a forward that is a fresh chip."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from ...crossbar.design import Design
from ...crossbar.drive import Drive
from ...crossbar.hardware import Hardware
from ...crossbar.kernels.read import Circuit
from ...crossbar.matrix import Matrix
from ...crossbar.patches import PLAIN
from ..equalise import channel_maxima, factors_of
from ..inputs.order import FIRST, order_of
from ..kinds.leaf import Leaf
from ..scaling import Scaled, scaled
from ..takes import check_shape, check_size, check_values
from ..torch_backend.cells import Cells, Converters
from ..torch_backend.drive import conversions, plainly
from ..torch_backend.exact import exact
from ..torch_backend.reading import currents, readings
from .cells import as_expression, check, placed, programmed
from .converters import alike, circuit_of, fresh_adcs, range_of
from .driving import Driven, codes_of, rows_of
from .faults import map_on_tiles
from .fused import Look, Read, products_of, read
from .kept import Kept
from .learned import LEARNED, grown, on_array, tied
from .numbers import Adc, Counted
from .output_noise import with_output_noise
from .programming import UNSEEN, Curves, curves_of, programmed_in_parts
from .session import Fresh, Steps, begun, check_finite, largest
from .wired import Seen

Tensor = torch.Tensor
SEEN = 1024  # rows that a full scale is found from


class TrainedLayer(Kept):
    """A layer on the tiles of a fresh chip: cells are programmed anew in each step, and all noise is drawn anew.

    Attributes:
        spec: its geometry.
        weight, bias: the parameters of the torch layer in its place.
        limit, full_scale: ranges of DAC and ADCs, tensors; None before they are calibrated.
        log_limit, log_full_scale: parameters (), what they are multiplied by where they are trained: its logarithm.
    """

    fresh_each_step = True
    limit: Tensor | None
    full_scale: Tensor | None
    equaliser: Tensor | None
    log_limit: nn.Parameter | None
    log_full_scale: nn.Parameter | None

    def __init__(self, name: str, spec: Leaf, module: nn.Module, hardware: Hardware, steps: Steps) -> None:
        super().__init__()
        if hardware.seeds.program is not None:  # each step is another chip
            hardware = hardware.replace({"seeds.program": None})
        self.name, self.spec, self.hardware, self.steps = name, spec, hardware, steps
        self.weight: Any = module._parameters["weight"]
        self.register_parameter("bias", module._parameters.get("bias"))
        self.register_buffer("limit", None, persistent=False)
        self.register_buffer("full_scale", None, persistent=False)
        self.register_buffer("equaliser", None, persistent=False)  # (channels,) that inputs are divided by
        self.widest: Tensor | None = None  # input of each channel in a survey
        for learned in LEARNED:
            self.register_parameter(learned, None)
        if hardware.dac.scaling == "token" and spec.patches != PLAIN:
            raise ValueError(
                f"layer {name!r}: dac.scaling must be 'layer' or 'sample' for a kernel of several places, got 'token'"
            )
        self.rows_are_samples = False  # as in steps of recurrent layers
        shape, bias = spec.matrix_shape, self.bias
        self.matrix = Matrix(
            name,
            np.zeros(shape, np.float32),
            None if bias is None else np.zeros((shape[0], shape[2]), np.float32),
            hardware,
            spec.patches,
        )
        self.design: Design | None = None
        self.calls = 0  # while ranges are found
        self.curves: Curves | None = None
        self.voltages = Seen()  # that wires are solved for
        self.known: Tensor | None = None  # cells that a map has as stuck
        self.train(module.training)

    def __getattr__(self, name: str) -> Any:
        spec = vars(self).get("spec")
        if spec is not None and name in spec.attributes:
            return spec.attributes[name]
        return super().__getattr__(name)

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:  # as torch names it
        found: Tensor = self.spec.called(self._output, input, *more, **named)
        return found

    def forget(self, *, inputs: bool) -> None:
        """Ranges are found again: those of currents, and those of inputs if they are others now."""
        self.full_scale, self.calls, self.voltages = None, 0, Seen()
        if inputs:
            self.limit = None

    def equalise(self) -> None:
        """Set the factors of its channels from the inputs that were surveyed: see `mapping/equalise.py`."""
        if self.hardware.dac.equalise is not None and self.widest is not None:
            weights, kernel = self.spec.matrices(self.weight.detach().float()), prod(self.spec.patches.kernel)
            most = channel_maxima(weights.cpu().numpy(), kernel)
            factors = factors_of(self.widest.cpu().numpy(), most, self.hardware.dac.equalise)
            self.equaliser = torch.from_numpy(factors).to(weights.device)
        self.widest = None

    def _output(self, x: Tensor) -> Tensor:
        self.calls += self.steps.calibrating
        check_values(self.name, x)
        check_shape(self.name, self.spec, tuple(x.shape))
        leading, space = x.shape[: x.ndim - 1 - self.spec.dims], x.shape[x.ndim - 1 - self.spec.dims :]
        x = x.reshape(-1, *space)
        if self.steps.surveying and len(x):
            most = self.spec.arrange(x.float()).abs().amax((0, 1, 2, 3))
            self.widest = most if self.widest is None else torch.maximum(self.widest, most)
        if not len(x) or self.steps.surveying:  # nothing is read, but the graph goes on
            bias = None if self.bias is None else self.spec.columns(self.bias).flatten()
            y = self.spec.digital(x, self.spec.matrices(self.weight), bias)
            return y.reshape(*leading, *y.shape[1:])
        check_finite(self.name, "inputs", x)
        ready = not self.steps.calibrating and not self.steps.through_variance and x.device.type == "cpu"
        compiled = ready and self.design is not None and alike(self.design)
        dac, apart = self.hardware.dac, self.divides
        partly = compiled and dac.percentile == 100 and not apart  # padding has no larger values
        values, scales = self.spec.arrange(x[:1].float() if partly else x.float()), None
        check_size(self.name, self.spec, tuple(values.shape))
        size = self.matrix.patches.positions(tuple(values.shape[1:4]))
        if apart:
            values = values if self.equaliser is None else values / self.equaliser
            values, scales = self._scaled(values, tuple(leading), size)
        with exact(x.device):
            design, limit = self._driven(x if partly else values)
            if self.limit is not None and self.log_limit is not None:
                limit = grown(self.limit, self.log_limit, x[0].numel(), design.drive.full_code)
            given = values if apart else x
            y = self._read_compiled(given, size, design, limit) if compiled else self._read(values, design, limit)
            if scales is not None:
                y = y * scales[:, None]
                y = y if self.bias is None else y + self.spec.columns(self.bias.float()).flatten()
            y = with_output_noise(y, self.hardware.output_noise, self.steps, self.name)
        y = self.spec.assemble(y.reshape(-1, *size[3 - self.spec.dims :], y.shape[1]))
        return y.reshape(*leading, *y.shape[1:]).to(x.dtype)

    @property
    def divides(self) -> bool:
        """Whether inputs are divided before they are coded."""
        return self.hardware.dac.scaling != "layer" or self.equaliser is not None

    def _scaled(self, values: Tensor, leading: tuple[int, ...], size: tuple[int, int, int]) -> Scaled:
        """Arranged inputs divided by the scales of their samples or tokens, and the scale of each row.

        Raises:
            ValueError: a calibration shows that its samples do not lie along the first dimension.
        """
        dac, wanted = self.hardware.dac, self.steps.samples
        order = order_of((len(values),), FIRST, len(values))
        if dac.scaling == "sample" and not self.rows_are_samples:
            if wanted is not None and leading[:1] != (wanted,):
                raise ValueError(
                    f"layer {self.name!r}: dac.scaling must be 'layer' or 'token', or samples lie along the first "
                    f"dimension of its inputs, got 'sample' and shape {leading} for {wanted} samples, for mho.trainable"
                )
            order = order_of(leading, FIRST, leading[0] if leading else 0)
        return scaled(values, dac, order, size)

    def _parameters_of(self, design: Design, limit: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights (word lines, outputs) and digital bias (outputs,) of each group."""
        check_finite(self.name, "weights", self.weight, self.bias)
        weights, bias = self.spec.matrices(self.weight.float()), None
        if self.equaliser is not None:
            (groups, rows, _), each = weights.shape, self.equaliser.reshape(len(weights), 1, -1)
            with UNSEEN():
                weights = weights * each.repeat(1, rows // each.shape[2], 1).reshape(groups, rows, 1)
        if self.bias is not None:
            bias = self.spec.columns(self.bias.float()).reshape(design.placement.groups, -1)
        weights, found = placed(weights, self.matrix), []
        for g in range(len(weights)):
            whole, added = weights[g], weights.new_zeros(weights.shape[2]) if bias is None else bias[g]
            if design.scaled:
                added = torch.zeros_like(added)  # it comes after the scales
            if self.matrix.bias_on_array:
                whole, added = torch.cat([whole, on_array(added, limit)[None]]), torch.zeros_like(added)
            found.append((whole, added))
        return found

    def _read_compiled(self, x: Tensor, size: tuple[int, ...], design: Design, limit: Tensor) -> Tensor:
        """(rows, groups x outputs) of inputs (samples, ...), on a CPU: see `fused.py`."""
        make = partial(self._compiled, design, limit, prod(size))
        what, chips, step = make() if as_expression(design) else self.steps.kept(self.name, make)
        if limit.requires_grad:
            x = x.float() / limit
        rows, watched = len(x) * prod(size), what.step is not None and self._watches_currents()
        learned = step is not None and step.requires_grad
        look = Look(
            prod(size),
            self.steps.key("read", self.name, fresh=True),
            max(1, rows // SEEN) if watched else 0,
            [],
            [x.new_zeros(rows, design.placement.outputs) for _ in chips] if learned else [],
            torch.is_grad_enabled(),
        )
        y = read(x, what, chips, look)
        if learned and step is not None:
            y = y + (step - step.detach()) * torch.cat(look.rises, dim=1)
        if watched and look.seen:
            with torch.no_grad():
                sizes, of_currents = torch.cat(look.seen, dim=1), partial(range_of, design)
                if what.whole:
                    self.steps.see(self, "full_scale", sizes.amax(1, keepdim=True), of_currents)
                else:
                    self.steps.see(self, "full_scale", of_currents(sizes))
        return y

    def _compiled(self, design: Design, limit: Tensor, positions: int) -> tuple[Read, list[Cells], Tensor | None]:
        """What all reads of a forward have in common, and the ADC step, one for all where it is learned."""
        chips = self._programmed(design, limit)
        with UNSEEN():
            if limit.requires_grad:
                chips = [cells._replace(scale=tied(cells.scale, limit)) for cells in chips]
                limit = torch.ones((), dtype=torch.float32)
            circuit = circuit_of(design, self.steps.strength)
            converters, circuit = self._converters(design, circuit, limit.device, positions)
            one = None if converters.step is None else converters.step.flatten()[0]
        constant = float(design.drive.full_code) if self.matrix.bias_on_array else 0.0
        _, plain = plainly(limit.new_empty(0), circuit._replace(constant=constant))

        def pulses(codes: Tensor) -> Any:
            return list(conversions(plainly(codes, circuit)[0], plain, converters))

        full, step = self.hardware.adc.bits is not None, None
        if full:
            assert converters.step is not None
            step = converters.step.detach()[:, 0, :, 0].expand(design.placement.row_tiles, design.readings).contiguous()
        once = (plain.pulses, plain.phases, plain.levels.size, design.curved) == (1, 1, 0, False)
        arrange = (lambda given: given) if self.divides else self.spec.arrange
        codes = lambda given: pulses(codes_of(given, design, limit, lsq=self.log_limit is not None))  # noqa: E731
        what = Read(
            Driven.of(design.drive, limit, once and self.log_limit is None, arrange, codes),
            pulses(torch.full((1, 1), constant, dtype=torch.float32)) if self.matrix.bias_on_array else [],
            plain,
            Adc.of(circuit.low, circuit.high, circuit.centre, full),
            step,
            self.hardware.adc.percentile == 100,
            [],
        )
        products = products_of(self.matrix.patches, self.spec.in_features, len(chips), design.placement.edges)
        return what.of(chips, products), chips, one

    def _programmed(self, design: Design, limit: Tensor) -> list[Cells]:
        if self.curves is None:
            self.curves = curves_of(design)
        found, strength = [], self.steps.strength
        for g, (weights, bias) in enumerate(self._parameters_of(design, limit)):
            key = self.steps.key("program", self.name, g)
            known = None if self.known is None else self.known[g]
            if as_expression(design):
                options: dict[str, Any] = {"strength": strength, "known": known, **self._wires(g)}
                made = programmed(design, weights, bias, limit, Counted(key), through_variance=False, **options)
            else:
                made = programmed_in_parts(design, self.curves, weights, bias, limit, key, strength, known)
            found.append(made)
        return found

    def _read(self, values: Tensor, design: Design, limit: Tensor) -> Tensor:
        """(rows, groups x outputs) of arranged inputs, in operations of torch: on any device, with all gradients."""
        codes = codes_of(values, design, limit, lsq=self.log_limit is not None)
        generator = self.steps.generator(self.name, values.device)

        def draw(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float32)

        options, constant = self.steps.through_variance, float(design.drive.full_code) * self.matrix.bias_on_array
        codes, circuit = plainly(codes, circuit_of(design, self.steps.strength)._replace(constant=constant))
        rows = list(rows_of(codes, design, circuit.constant))
        if self.steps.calibrating and not self.hardware.wires.ideal:
            self.design = design = replace(design, moments=self.voltages.add(rows, circuit))
        chips = []
        for g, (whole, added) in enumerate(self._parameters_of(design, limit)):
            known = None if self.known is None else self.known[g].to(values.device)
            more: dict[str, Any] = {"strength": self.steps.strength, "known": known, **self._wires(g)}
            chips.append(programmed(design, whole, added, limit, draw, through_variance=options, **more))
        positions = prod(self.matrix.patches.positions(tuple(values.shape[1:4])))
        converters, circuit = self._converters(design, circuit, values.device, positions, chips, rows)
        draws = Fresh(values.device)
        found = []
        for g, (x, c) in enumerate(zip(rows, chips, strict=True)):
            own = self._own(converters, design, g, positions)
            found.append(readings(x, c, own, circuit, draws, through_variance=options)[0][0])
        return torch.cat(found, dim=1)

    def _wires(self, group: int) -> dict[str, Any]:
        """Calls of a step have the same cells, so that wires are solved once."""
        if self.hardware.wires.ideal:
            return {}
        return {"group": group, "solve": partial(self.steps.kept, f"{self.name} wires {group}")}

    def _driven(self, values: Tensor) -> tuple[Design, Tensor]:
        """The design, and the largest input."""
        dac = self.hardware.dac
        with torch.no_grad():
            if dac.range == "calibrated" and dac.scaling == "layer" and self.steps.watches(self):
                self.steps.see(self, "limit", largest(values, dac.percentile))
            if self.design and self.steps.calibrating and not self.design.drive.signed and bool((values < 0).any()):
                self.design = None  # a later batch is of both signs
        if self.design is None:
            limit = 1.0 if dac.range is not None else None
            signed = bool((values < 0).any()) if dac.range is not None else True
            self.design = Design(self.matrix, Drive.of(dac, limit, signed))
            check(self.design)
            self.known = map_on_tiles(self.design)
        if dac.range == "calibrated" and dac.scaling == "layer":
            if self.limit is None:
                raise ValueError(f"layer {self.name!r}: no calibration inputs reached it, and no range is known")
            return self.design, begun(self.limit)
        return self.design, values.new_tensor(float(dac.range) if isinstance(dac.range, float) else 1.0)

    def _watches_currents(self) -> bool:
        return self.hardware.adc.full_scale == "calibrated" and self.steps.watches(self)

    def _converters(
        self,
        design: Design,
        circuit: Circuit,
        device: torch.device,
        positions: int,
        chips: list[Cells] | None = None,
        rows: list[Tensor] | None = None,
    ) -> tuple[Converters, Circuit]:
        """Of one read: full scales are those known, or those that the currents of this chip ask for."""
        adc, levels = self.hardware.adc, None
        if design.levels.size:
            slope = np.gradient(design.levels).astype(np.float32)
            levels = torch.tensor(design.levels, device=device), torch.tensor(slope, device=device)
        converters = Converters(None, None, levels)
        if adc.bits is None:
            return converters, circuit
        if chips is not None and rows is not None and self._watches_currents():
            with torch.no_grad():
                found = []
                for x, cells in zip(rows, chips, strict=True):
                    some = x[:: max(1, len(x) // SEEN)]
                    found += [currents(pulses, cells, circuit) for _, pulses in conversions(some, circuit, converters)]
                self.steps.see(self, "full_scale", range_of(design, torch.cat(found, dim=1)))
        codes, full = adc.codes(design.signed_codes), self._full_scales(design, positions, device)
        circuit = circuit._replace(low=float(codes.low), high=float(codes.high), centre=codes.centre)
        return converters._replace(step=full * codes.relative_step), circuit

    def _full_scales(self, design: Design, positions: int, device: torch.device) -> Tensor:
        """Of the ADCs, as `range_of` has them, for so many positions of a sample."""
        adc, full = self.hardware.adc, self.full_scale
        if adc.full_scale != "calibrated":
            unit = self.hardware.sensing.v_read * self.hardware.cell.g_max
            return torch.full(
                (1, 1, design.readings, 1), float(adc.full_scale or 0) / unit, dtype=torch.float32, device=device
            )
        assert full is not None
        if self.log_full_scale is None:
            return full
        placement, (groups, _, outputs) = design.placement, self.matrix.weights.shape
        values = positions * design.drive.conversions * design.readings * placement.row_tiles * groups * outputs
        grew = grown(full, self.log_full_scale, values, adc.codes(design.signed_codes).high)
        return grew.expand(1, 1, design.readings, 1)

    def _own(self, converters: Converters, design: Design, group: int, positions: int) -> Converters:
        """Those of a group, where ADCs are not all alike."""
        if alike(design):
            return converters
        assert converters.step is not None
        full = self._full_scales(design, positions, converters.step.device)
        make = partial(fresh_adcs, design, full, group, self.steps.seed)
        adcs = self.steps.kept(f"{self.name} ADCs {group}", make)
        if full.requires_grad:
            adcs = adcs._replace(grown=(full / full.detach()).flatten()[0])
        return converters._replace(step=None, adcs=adcs)

    def extra_repr(self) -> str:
        return f"{self.spec.in_features}, {self.spec.out_features}, on a fresh chip each step"

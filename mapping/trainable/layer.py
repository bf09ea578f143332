"""A layer that is trained on tiles: its torch parameters, and a forward that is a fresh chip."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ...crossbar.design import Design
from ...crossbar.drive import Drive
from ...crossbar.hardware import Hardware
from ...crossbar.kernels.read import Circuit
from ...crossbar.matrix import Matrix
from ...crossbar.packed import pedestal_of
from ...devices.arrays import sqrt
from ..kinds.leaf import Leaf
from ..torch_backend.cells import Cells, Converters
from ..torch_backend.drive import conversions, plainly
from ..torch_backend.exact import exact
from ..torch_backend.reading import currents, readings
from ..torch_backend.rows import gather, with_constant
from ..torch_backend.straight import through
from .cells import check, programmed
from .session import Fresh, Steps, largest

Tensor = torch.Tensor
SEEN = 1024  # rows that a full scale is found from


class TrainedLayer(nn.Module):
    """A layer on the tiles of a fresh chip: cells are programmed anew in each step, and all noise is drawn anew.

    Attributes:
        spec: its geometry.
        weight, bias: the parameters of the torch layer in its place.
        limit, full_scale: ranges of DAC and ADCs, tensors; None before they are calibrated.
    """

    limit: Tensor | None
    full_scale: Tensor | None

    def __init__(self, name: str, spec: Leaf, module: nn.Module, hardware: Hardware, steps: Steps) -> None:
        super().__init__()
        self.name, self.spec, self.hardware, self.steps = name, spec, hardware, steps
        self.weight: Any = module._parameters["weight"]
        self.register_parameter("bias", module._parameters.get("bias"))
        self.register_buffer("limit", None, persistent=False)
        self.register_buffer("full_scale", None, persistent=False)
        shape, bias = spec.matrix_shape, self.bias
        self.matrix = Matrix(
            name,
            np.zeros(shape, np.float32),
            None if bias is None else np.zeros((shape[0], shape[2]), np.float32),
            hardware,
            spec.patches,
        )
        self.design: Design | None = None
        self.train(module.training)

    def __getattr__(self, name: str) -> Any:
        spec = vars(self).get("spec")
        if spec is not None and name in spec.attributes:
            return spec.attributes[name]
        return super().__getattr__(name)

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:  # as torch names it
        found: Tensor = self.spec.called(self._output, input, *more, **named)
        return found

    def _output(self, x: Tensor) -> Tensor:
        values = self.spec.arrange(x.float())
        with exact(x.device):
            y = self._read(values)
        size = self.matrix.patches.positions(tuple(values.shape[1:4]))[3 - self.spec.dims :]
        y = self.spec.assemble(y.reshape(-1, *size, y.shape[1]))
        return y.reshape(*x.shape[: x.ndim - 1 - self.spec.dims], *y.shape[1:]).to(x.dtype)

    def _read(self, values: Tensor) -> Tensor:
        """(rows, groups x outputs) of arranged inputs, from a fresh chip."""
        design, limit = self._driven(values)
        codes = self._codes(values, design, limit)
        weights, generator = self.spec.matrices(self.weight.float()), self.steps.generator(self.name, values.device)
        groups, _, outputs = self.spec.matrix_shape
        bias = values.new_zeros(groups, outputs) if self.bias is None else self.spec.columns(self.bias.float())

        def draw(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, device=like.device)

        rows, chips = [], []
        full = float(design.drive.full_code)
        circuit = self._circuit(design)
        codes, circuit = plainly(codes, circuit._replace(constant=full if self.matrix.bias_on_array else 0.0))
        for g in range(groups):
            whole, added = weights[g], bias[g]
            if self.matrix.bias_on_array:
                whole, added = torch.cat([whole, added[None] / limit]), torch.zeros_like(added)
            options = self.steps.through_variance
            chips.append(programmed(design, whole, added, limit, draw, through_variance=options))
            geometry = self.matrix.patches.geometry(tuple(values.shape), g, groups)
            given = gather(codes, geometry, 0, len(values) * int(np.prod(geometry.out)))
            rows.append(with_constant(given, design.placement.rows, circuit.constant))
        converters, circuit = self._converters(design, circuit, chips, rows)
        draws = Fresh(values.device)
        y = torch.cat(
            [
                readings(x, c, converters, circuit, draws, through_variance=self.steps.through_variance)[0][0]
                for x, c in zip(rows, chips, strict=True)
            ],
            dim=1,
        )
        return self._with_output_noise(y)

    def _driven(self, values: Tensor) -> tuple[Design, Tensor]:
        """The design, and the largest input."""
        dac = self.hardware.dac
        with torch.no_grad():
            if dac.range == "calibrated" and self.steps.watches(self):
                self.steps.see(self, "limit", largest(values, dac.percentile))
            if self.design and self.steps.calibrating and not self.design.drive.signed and bool((values < 0).any()):
                self.design = None  # a later batch is of both signs
        if self.design is None:
            limit = 1.0 if dac.range is not None else None
            signed = bool((values < 0).any()) if dac.range == "calibrated" else True
            self.design = Design(self.matrix, Drive.of(dac, limit, signed))
            check(self.design)
        if dac.range == "calibrated":
            if self.limit is None:
                raise ValueError(f"layer {self.name!r}: no calibration inputs reached it, and no range is known")
            return self.design, self.limit
        return self.design, values.new_tensor(1.0 if dac.range is None else float(dac.range))

    def _codes(self, values: Tensor, design: Design, limit: Tensor) -> Tensor:
        drive = design.drive
        scaled = values * (drive.full_code / limit)
        with torch.no_grad():
            code = scaled.round() if drive.rounds else scaled
            inside = code.clamp(-drive.full_code if drive.signed else 0, drive.full_code) if drive.clips else code
        codes = through(scaled, inside, code == inside)
        return design.bent(codes, torch) if design.curved and not drive.rounds else codes  # type: ignore[return-value, arg-type]

    def _circuit(self, design: Design) -> Circuit:
        """Without what is known of the ADCs' range."""
        sensing, drive, none = self.hardware.sensing, design.drive, np.empty(0, np.float32)
        return Circuit(
            integers=False,
            halve=False,
            pulses=drive.pulses,
            digit_bits=drive.digit_bits,
            full_code=float(drive.full_code),
            constant=0.0,
            gain_variance=sensing.gain_variance,
            supply=sensing.supply_variance**0.5,
            noisy=True,
            step=none,
            low=0.0,
            high=0.0,
            centre=0.0,
            pedestal=pedestal_of(design),
            phases=drive.phases,
            levels=design.levels,
            joined=("digital", "scaled", "repeated").index(drive.accumulate),
        )

    def _converters(
        self, design: Design, circuit: Circuit, chips: list[Cells], rows: list[Tensor]
    ) -> tuple[Converters, Circuit]:
        """Of one read: full scales are those known, or those that the currents of this chip ask for."""
        adc, sensing = self.hardware.adc, self.hardware.sensing
        levels = None
        device = rows[0].device
        if design.levels.size:
            slope = np.gradient(design.levels).astype(np.float32)
            levels = torch.tensor(design.levels, device=device), torch.tensor(slope, device=device)
        converters = Converters(None, None, levels)
        if adc.bits is None:
            return converters, circuit
        if adc.full_scale == "calibrated" and self.steps.watches(self):
            with torch.no_grad():
                self.steps.see(self, "full_scale", self._full_scale(design, chips, rows, circuit, converters))
        codes = adc.codes(design.signed_codes)
        full = self.full_scale
        if adc.full_scale != "calibrated":
            full = torch.full(
                (), float(adc.full_scale or 0) / (sensing.v_read * self.hardware.cell.g_max), device=device
            )
        assert full is not None
        step = full * codes.relative_step
        circuit = circuit._replace(low=float(codes.low), high=float(codes.high), centre=codes.centre)
        return converters._replace(step=step), circuit

    def _full_scale(
        self, design: Design, chips: list[Cells], rows: list[Tensor], circuit: Circuit, converters: Converters
    ) -> Tensor:
        """(tiles or 1, 1, readings or 1, 1) of the currents of some rows, as `adc.per` asks."""
        adc, found = self.hardware.adc, []
        for x, cells in zip(rows, chips, strict=True):
            some = x[:: max(1, len(x) // SEEN)]
            found += [currents(pulses, cells, circuit) for _, pulses in conversions(some, circuit, converters)]
        sizes = torch.cat(found, dim=1)  # (tiles, rows, readings, columns)
        each = 2 if design.apart else 1
        sizes = sizes.unflatten(2, (-1, each))  # both bit lines of a pair share a range
        tiles, _, slices = sizes.shape[:3]
        if adc.per == "layer":
            scale = largest(sizes, adc.percentile).reshape(1, 1, 1, 1).expand(1, 1, slices, 1)
        else:
            parts = [sizes[:, :, s] for s in range(slices)]
            by_tile = [[part[t] for t in range(tiles)] if adc.per == "tile" else [part] for part in parts]
            scale = torch.stack([torch.stack([largest(y, adc.percentile) for y in own]) for own in by_tile], dim=1)
            scale = scale[:, None, :, None]
        factor = (adc.calibrated_at or self.hardware.sensing.v_read) / self.hardware.sensing.v_read
        return (torch.where(scale > 0, scale, 1.0) * factor).repeat_interleave(each, dim=2)

    def _with_output_noise(self, y: Tensor) -> Tensor:
        noise = self.hardware.output_noise
        for add, mult in ((noise.frozen_add, noise.frozen_mult), (noise.sigma_add, noise.sigma_mult)):
            if add or mult:
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.steps.through_variance):
                    size: Any = sqrt(add**2 + (mult * y).square(), torch)  # type: ignore[arg-type]
                y = y + size * torch.randn_like(y)
        return y

    def extra_repr(self) -> str:
        return f"{self.spec.in_features}, {self.spec.out_features}, on a fresh chip each step"

"""A dense block in training as one function: a buffer for all channels, and the statistics of a channel taken once.

Every layer of a dense block normalises the same channels by the same batch statistics; only gain and shift are its own.
So mean and variance of a channel are computed when it is made, and on the way back the slopes of all its readers are
added up before they pass through the statistics, once. Batch norm and ReLU are one pass over the data each way, and
noise is drawn by counters. The gradients are those of the layers one by one, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .kernels import dense
from .noise import Noise

NO_FACTORS = np.empty((0, 1), np.float32)

Array = np.ndarray[Any, Any]


class Layer(Protocol):
    """Batch norm, ReLU, 3 x 3 convolution without bias, dropout, noise."""

    norm: nn.BatchNorm2d
    conv: nn.Conv2d
    noise: Any  # `Noise`, or what stands in its place
    dropout: float


def fits(x: torch.Tensor, layers: Sequence[Layer]) -> bool:
    """Whether `dense_block` can stand for the layers: in training, on a CPU, with noise that multiplies or none, and
    without hooks of the convolutions, which it would pass by."""
    if any(layer.conv._forward_hooks or layer.conv._forward_pre_hooks for layer in layers):
        return False
    noises = [layer.noise for layer in layers]
    plain = all(isinstance(noise, Noise) and (noise.kind == "mult" or noise.sigma_train == 0) for noise in noises)
    return plain and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def dense_block(x: torch.Tensor, layers: Sequence[Layer]) -> torch.Tensor:
    """The output (n, c + layers * growth, h, w) of the layers of a dense block in training, for x (n, c, h, w).

    Under autocast signals are stored in its type, else in that of x. The running statistics of the norms move on as in
    torch. Noise comes from a key that torch's generator gives: the same seed, the same noise.
    """
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    sigma = [cast(Noise, layer.noise).sigma_train for layer in layers]
    dropout = [layer.dropout for layer in layers]
    key = int(torch.randint(2**63 - 1, ())) if any(sigma) or any(dropout) else 0
    epsilon = layers[0].norm.eps
    parameters = [p for layer in layers for p in (layer.conv.weight, layer.norm.weight, layer.norm.bias)]
    out, mean, variance = _DenseBlock.apply(x, (sigma, dropout), key, epsilon, *parameters)
    count = out.numel() // out.shape[1]
    with torch.no_grad():
        for layer in layers:
            norm, channels = layer.norm, layer.norm.num_features
            norm.running_mean.lerp_(mean[:channels], norm.momentum)  # type: ignore[union-attr, arg-type]
            norm.running_var.lerp_(variance[:channels] * (count / (count - 1)), norm.momentum)  # type: ignore[union-attr, arg-type]
            norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    return cast(torch.Tensor, out)


class _DenseBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, noise: tuple[list[float], ...], key: int, epsilon: float, *parameters: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n, first, height, width = x.shape
        growth, count = len(parameters[0]), n * height * width
        (sigma, dropout), total = noise, first + growth * len(noise[0])
        pixels = torch.empty(n, height, width, total, dtype=x.dtype)
        buffer = _array(pixels).reshape(count, total)
        statistics = _Statistics(total, count, epsilon)
        statistics.append(x, NO_FACTORS, buffer, 0)
        inputs, factors = [], []
        for i, (weight, gain, shift) in enumerate(_threes(parameters)):
            channels = first + i * growth
            scale, offset = statistics.affine(gain, shift)
            normal = torch.empty(n, height, width, channels, dtype=x.dtype)
            dense.scale_and_clip(buffer, scale, offset, _array(normal).reshape(count, channels))
            inputs.append(normal.permute(0, 3, 1, 2))
            new = functional.conv2d(inputs[-1], _like(weight, x.dtype), padding=1)
            factors.append(dense.noise_factors(sigma[i], i, key, (count, growth), dropout[i]))
            statistics.append(new, factors[-1], buffer, channels)
        out = pixels.permute(0, 3, 1, 2)
        mean, variance = (torch.from_numpy(part) for part in (statistics.mean, statistics.variance))
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(out, *inputs, *parameters)
        ctx.statistics, ctx.factors = statistics, factors
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        out, *saved = ctx.saved_tensors
        inputs, parameters = saved[: len(ctx.factors)], saved[len(ctx.factors) :]
        n, total, height, width = out.shape
        growth, count = len(parameters[0]), n * height * width
        buffer, statistics = _rows(out), ctx.statistics
        from_output = _rows(slope.to(out.dtype))
        gathered = np.zeros((count, total), np.float32)
        grads: list[torch.Tensor] = []

        def back(first: int, width_: int, factors: Array) -> torch.Tensor:
            pixels = torch.empty(n, height, width, width_, dtype=out.dtype)
            rates = statistics.rates(first, width_)
            to = _array(pixels).reshape(count, width_)
            dense.back_through_statistics(from_output, gathered, buffer, first, factors, rates, to)
            return pixels.permute(0, 3, 1, 2)

        for i, (weight, gain, shift) in reversed(list(enumerate(_threes(parameters)))):
            channels = inputs[i].shape[1]
            new = back(channels, growth, ctx.factors[i])
            slopes, of_weight = _back_through_convolution(new, inputs[i], _like(weight, out.dtype))
            scale, offset = statistics.affine(gain, shift)
            sums = np.empty((2, dense.PIECES, channels))
            dense.back_through_clip(
                _rows(slopes), buffer, scale, offset, gain.detach().numpy(), gathered, sums[0], sums[1]
            )
            of_shift, of_gain = statistics.gather(gain, sums.sum(1))
            grads = [of_weight.float(), torch.from_numpy(of_gain), torch.from_numpy(of_shift), *grads]
        start = back(0, total - growth * len(inputs), NO_FACTORS) if ctx.needs_input_grad[0] else None
        return (start, None, None, None, *grads)


class _Statistics:
    """Mean and variance of each channel over the batch, and what its readers ask of them on the way back."""

    def __init__(self, channels: int, count: int, epsilon: float) -> None:
        self.count, self.epsilon = count, epsilon
        self.mean, self.variance, self.rate = (np.empty(channels, np.float32) for _ in range(3))
        self.shift_sums, self.gain_sums = np.zeros(channels), np.zeros(channels)

    def append(self, new: torch.Tensor, factors: Array, buffer: Array, first: int) -> None:
        """New channels into the buffer from column `first` on."""
        sums = np.empty((2, dense.PIECES, new.shape[1]))
        dense.append(_rows(new), factors, buffer, first, sums[0], sums[1])
        mean, square = sums.sum(1) / self.count
        variance = np.maximum(square - mean * mean, 0)
        here = slice(first, first + new.shape[1])
        self.mean[here], self.variance[here], self.rate[here] = mean, variance, 1 / np.sqrt(variance + self.epsilon)

    def affine(self, gain: torch.Tensor, shift: torch.Tensor) -> tuple[Array, Array]:
        """Scale and shift of a batch norm of the first channels, as one."""
        scale = gain.detach().numpy() * self.rate[: len(gain)]
        return scale, shift.detach().numpy() - self.mean[: len(gain)] * scale

    def gather(self, gain: torch.Tensor, sums: Array) -> tuple[Array, Array]:
        """Slopes of shift and gain of one reader from its sums of d and d x; they are kept for `rates`."""
        channels = len(gain)
        of_shift, products = sums
        of_gain = self.rate[:channels] * (products - self.mean[:channels] * of_shift)
        self.shift_sums[:channels] += gain.detach().numpy() * of_shift
        self.gain_sums[:channels] += gain.detach().numpy() * of_gain
        return of_shift.astype(np.float32), of_gain.astype(np.float32)

    def rates(self, first: int, width: int) -> Array:
        """What `back_through_statistics` wants for the channels from `first` on, once all readers are gathered."""
        here = slice(first, first + width)
        rate = self.rate[here].astype(float)
        b = rate * self.gain_sums[here] / self.count
        a = self.shift_sums[here] / self.count - b * self.mean[here]
        return np.stack([rate, rate * a, rate * b]).astype(np.float32)


def _back_through_convolution(
    slope: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slopes of the input and of the weight of a 3 x 3 convolution."""
    one, zero = [1, 1], [0, 0]
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        slope, x, weight, None, one, one, one, False, zero, 1, [True, True, False]
    )
    return of_x, of_weight


def _threes(parameters: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return list(zip(parameters[::3], parameters[1::3], parameters[2::3], strict=True))


def _like(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def _array(values: torch.Tensor) -> Array:
    return values.view(torch.uint16).numpy() if values.dtype is torch.bfloat16 else values.numpy()


def _rows(values: torch.Tensor) -> Array:
    """(n, c, h, w) as an array (n h w, c)."""
    last = values.detach().permute(0, 2, 3, 1).contiguous()
    return _array(last).reshape(-1, values.shape[1])

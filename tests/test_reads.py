"""What keys the noise of a read, and reads of a chip that go past its front door, in threads, or with odd inputs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import mho
from mho.crossbar.positions import position_numbers
from mho.mapping.errors import MappingError
from mho.mapping.inputs.order import Order, SampleAxis

RERAM = mho.Hardware.preset("reram")
IDEAL = mho.Hardware.preset("ideal")


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5))


def on_reram(net: nn.Module, x: torch.Tensor, seed: int = 0) -> mho.Chip:
    return mho.map(net, RERAM, calibrate=x, seed=seed)


# -- what keys the noise


@pytest.mark.parametrize("shape", [(7,), (3, 5), (40, 2), (2, 3, 4), (1, 6), (2, 2, 3, 2)])
def test_positions_have_numbers_of_their_own_that_padding_leaves(shape):
    numbers = position_numbers(shape).reshape(shape)
    assert len(np.unique(numbers)) == numbers.size
    larger = tuple(size + k + 1 for k, size in enumerate(shape))
    padded = position_numbers(larger).reshape(larger)
    assert np.array_equal(padded[tuple(slice(size) for size in shape)], numbers)


def test_long_axes_are_numbered_in_order_and_too_many_positions_are_refused():
    assert np.array_equal(position_numbers((2, 1, 600)), np.arange(1200))
    with pytest.raises(ValueError, match="at most 2\\^28"):
        position_numbers((2**15, 2**14))


NOISE_OF_READS = [
    mho.Hardware.paper(sigma_mult=0.2),
    RERAM.replace({"adc.bits": None, "adc.full_scale": None, "dac.bits": None, "dac.range": None}),
    RERAM.replace({"adc.bits": None, "adc.full_scale": None, "dac.range": 1.0, "dac.bits_per_pulse": 2}),
    IDEAL.replace({"sensing.supply_noise": 0.1}),
    IDEAL.replace({"output_noise.frozen_add": 0.1}),
]


@pytest.mark.parametrize("hardware", NOISE_OF_READS)
def test_noise_is_keyed_by_sample_and_position(hardware):
    """Every sample and position has the same input, so outputs differ by their noise alone."""
    torch.manual_seed(0)
    same = torch.rand(32)
    chip = mho.map(nn.Linear(32, 8), hardware)
    long = chip.read(same.expand(16, 10, 32).contiguous(), read=0)
    short = chip.read(same.expand(16, 5, 32).contiguous(), read=0)
    later = chip.read(same.expand(16, 5, 32).contiguous(), read=0, first_sample=16)
    assert torch.equal(short, long[:, :5])  # the same samples and positions
    rows = torch.cat([long.reshape(-1, 8), later.reshape(-1, 8)])
    assert len(rows.unique(dim=0)) == len(rows)
    assert torch.equal(later[3], chip.read(same.expand(1, 5, 32).contiguous(), read=0, first_sample=19)[0])


def test_noise_of_a_picture_does_not_change_with_its_padding():
    chip = on_reram(nn.Conv2d(1, 4, 1), torch.rand(4, 1, 9, 9))
    same = torch.full((3, 1, 6, 7), 0.5)
    small = chip.read(same, read=0)
    large = chip.read(functional.pad(same, (0, 4, 0, 3), value=0.5), read=0)
    assert torch.equal(large[:, :, :6, :7], small)
    assert not torch.equal(large[:, :, 1:7, :7], small)  # negative control


@pytest.mark.parametrize(("leading", "place"), [((4, 3), (0, False)), ((5, 4), (1, False)), ((12, 2), (0, True))])
def test_rows_are_put_in_the_order_of_samples_and_back(leading, place):
    order = Order(leading, SampleAxis(*place), 4)
    x = torch.arange(int(np.prod(leading)) * 6).reshape(-1, 2, 3)
    by_sample = order.arranged(x)
    assert torch.equal(order.restored(by_sample), x)
    axis, inner = place
    along = np.moveaxis(np.arange(np.prod(leading)).reshape(leading), axis, 0)
    number = np.arange(leading[axis])
    mine = along[number % 4 == 1 if inner else number // (leading[axis] // 4) == 1]
    first = len(by_sample) // 4
    assert set((by_sample[first : 2 * first, 0, 0] // 6).tolist()) == set(mine.reshape(-1))


class SequenceFirst(nn.Module):
    """Batch first outside, sequence first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x.transpose(0, 1)).mean(0))


class WindowMajor(nn.Module):
    """Windows of a picture before samples, as index = window * samples + sample."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = len(x)
        windows = x.reshape(n, 3, 5, 4).permute(1, 0, 2, 3).reshape(3 * n, 5, 4)
        y = self.inner(windows).relu().reshape(3, n, 5, 6)
        return self.head(y.mean((0, 2)))


class SharedTable(nn.Module):
    """A layer that reads a table of the model, whose rows belong to no sample."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(7, 4))
        self.inner = nn.Linear(4, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x + self.inner(self.table).mean(0)).relu())


@pytest.mark.parametrize(
    ("make", "shape"),
    [(SequenceFirst, (8, 8, 8)), (SequenceFirst, (6, 5, 8)), (WindowMajor, (6, 60)), (SharedTable, (6, 12))],
)
def test_batches_change_nothing_wherever_the_samples_lie(make, shape):
    torch.manual_seed(1)
    net, x = make().eval(), torch.rand(shape)
    chip = on_reram(net, x)
    whole = chip.read(x, read=3)
    half = len(x) // 2
    parts = [chip.read(x[:half], read=3), chip.read(x[half:], read=3, first_sample=half)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(chip.read(x, read=3, reads=2), torch.cat([whole, chip.read(x, read=4)]))
    assert not torch.equal(chip.read(x[half:], read=3), whole[half:])  # negative control


@pytest.mark.parametrize(
    ("make", "shape"), [(SequenceFirst, (8, 8, 8)), (WindowMajor, (6, 60)), (SharedTable, (6, 12))]
)
def test_an_unchecked_chip_finds_its_samples_at_the_first_read(make, shape):
    torch.manual_seed(1)
    net, x = make().eval(), torch.rand(shape)
    hardware = mho.Hardware.paper(sigma_mult=0.2)
    whole = mho.map(net, hardware).read(x, read=0)
    chip = mho.map(net, hardware)
    parts = [chip.read(x[k : k + 1], read=0, first_sample=k) for k in range(len(x))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)  # sums of torch may round otherwise


class Mixing(nn.Module):
    """Subtracts the mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x - x.mean(0))


@pytest.mark.parametrize("hardware", [RERAM, mho.Hardware.paper(sigma_mult=0.1)])
def test_a_model_that_mixes_samples_is_told_of(hardware):
    x = torch.rand(6, 4)
    chip = mho.map(Mixing(), hardware, calibrate=x)
    with pytest.warns(UserWarning, match="layer 'inner': its rows belong to no single sample"):
        chip(x)


def test_samples_are_found_beside_inputs_that_are_no_samples():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (self.inner(x.transpose(0, 1)) * mask).transpose(0, 1)

    chip = mho.map(Masked(), mho.Hardware.paper(sigma_mult=0.2))
    x, mask = torch.rand(4, 8, 4), torch.rand(3)
    whole = chip.read(x, mask, read=0)
    parts = [chip.read(x[k : k + 2], mask, read=0, first_sample=k) for k in (0, 2)]
    assert torch.equal(torch.cat(parts), whole)


def test_rows_that_are_chosen_by_their_values_are_told_of():
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.new_zeros(len(x), 3)
            y[x[:, 0] > 0] = self.inner(x[x[:, 0] > 0])
            return y

    x = torch.tensor([1.0, 1.0, -1.0, 1.0])[:, None].expand(4, 4)
    chip = mho.map(Chosen(), IDEAL)
    with pytest.warns(UserWarning, match=r"layer 'inner'.* to no single sample"):
        chip(x)


@pytest.mark.parametrize(("what", "arguments"), [("read", {"read": 2**32}), ("read", {"read": -1})])
def test_reads_and_samples_without_random_numbers_are_refused(what, arguments):
    chip = on_reram(mlp(), torch.rand(4, 12))
    with pytest.raises(ValueError, match=f"{what} must be 0 to"):
        chip.read(torch.rand(4, 12), **arguments)
    with pytest.raises(ValueError, match="sample must be 0 to"):
        chip.read(torch.rand(4, 12), read=0, first_sample=2**32 - 3)


# -- inputs


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.int32, torch.complex64])
@pytest.mark.parametrize("net", [nn.Linear(8, 3), nn.Conv1d(8, 3, 1)])
def test_only_floating_point_goes_into_a_layer(net, dtype):
    chip = mho.map(net, IDEAL)
    x = torch.ones(1, 8, 8).to(dtype)
    with pytest.raises(MappingError, match=f"takes floating-point inputs, got {dtype}"):
        chip(x)
    with pytest.raises(MappingError, match="floating-point"):
        chip.model(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_outputs_have_the_dtype_of_the_inputs(dtype):
    net = nn.Linear(8, 3)
    x = torch.rand(2, 8).to(dtype)
    y = mho.map(net, IDEAL)(x)
    assert y.dtype == dtype
    assert torch.allclose(y.double(), net.double()(x.double()), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.rand(2, 8, device="meta"), "meta"),
        (lambda: torch.rand(2, 8).to_sparse(), "layout"),
    ],
)
def test_tensors_without_plain_values_are_refused(make, said):
    chip = mho.map(nn.Linear(8, 3), IDEAL)
    with pytest.raises(MappingError, match=said):
        chip(make())


def test_transforms_of_torch_func_are_refused():
    chip = mho.map(nn.Linear(8, 3), IDEAL)
    with pytest.raises(MappingError, match=r"torch\.func"):
        torch.func.vmap(chip.model)(torch.rand(2, 4, 8))
    values = {name: torch.zeros(p.shape) for name, p in chip.named_parameters()}
    with pytest.raises(MappingError, match="weight cannot be replaced"):
        torch.func.functional_call(chip, values, (torch.rand(2, 8),))


def test_named_inputs():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, *, shift: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.fc(input=x) + shift}

    net = Named()
    chip = mho.map(net, IDEAL)
    x, shift = torch.rand(3, 4), torch.rand(3, 2)
    assert torch.allclose(chip(x, shift=shift)["logits"], net(x, shift=shift)["logits"], atol=1e-6)
    several = chip.read(x, read=0, reads=2, named={"shift": shift})["logits"]
    assert several.shape == (6, 2)
    with pytest.raises(TypeError, match="takes torch tensors, got str"):
        chip("x")


# -- past the front door


def test_each_read_past_the_front_door_is_a_read_of_its_own():
    x = torch.rand(6, 12)
    chip = on_reram(mlp(), x)
    found = [chip.model(x), chip.model(x), chip(x), chip.model(x), chip.model[0](x), chip.model[0](x)]
    assert chip.calls == 2 + 2 + 1 + 2 + 1 + 1
    noiseless = chip.read(x, read=0, noisy=False)
    for a, b in [(0, 1), (0, 2), (1, 3), (2, 3), (4, 5)]:
        assert not torch.equal(found[a], found[b])
    assert all(not torch.equal(y, noiseless) for y in found[:4])
    fresh = on_reram(mlp(), x)
    assert torch.equal(fresh.model(x), found[0])  # counted from the same start


def test_reads_by_number_from_several_threads():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6))
    x = torch.rand(16, 1, 8, 8)
    slow = RERAM.replace({"sensing.read_interval": "1 us"})  # successive reads share noise, which the chip keeps
    chip = mho.map(net, slow, calibrate=x)
    alone = [chip.read(x[k % 4 :], read=k) for k in range(16)]
    counted = chip.layers["0"].counts
    fresh = mho.map(net, slow, calibrate=x)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda k: fresh.read(x[k % 4 :], read=k), range(16)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert fresh.layers["0"].counts == counted
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fresh(x), range(12)))
    assert fresh.calls == 12


# -- a chip as a torch module


# -- what the model asks its layers


# -- one truth about sizes


def test_report_and_schedule_speak_of_the_last_size():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    chip = on_reram(net, torch.rand(4, 1, 16, 16))
    small = mho.schedule(chip).first_latency_s
    assert chip.layers["0"].positions == 14 * 14
    chip(torch.rand(2, 1, 32, 32))
    assert chip.layers["0"].positions == 30 * 30
    assert chip.report().table["positions"].tolist() == [900, 1]
    assert mho.schedule(chip).first_latency_s > 2 * small
    chip(torch.rand(2, 1, 16, 16))
    assert mho.schedule(chip).first_latency_s == small

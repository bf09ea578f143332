"""Chips with a number of tiles: what fits, what is written again, and what that does to rate, energy and area."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import hardware, pictures, small_cnn
from hypothesis import given
from hypothesis import strategies as st
from test_cost import fake_chip, fake_layer

import mho
from mho.crossbar.components import Cost
from mho.crossbar.placement import Placement
from mho.crossbar.tile import Tile
from mho.mapping.architecture.decision import decision
from mho.mapping.architecture.loading import Loading
from mho.mapping.architecture.replication import replicate, ways
from mho.mapping.architecture.uncounted import uncounted
from mho.sweeps.costs import costs_of

TILE = Tile(rows=10, columns=20, encoding="differential")


def chip(tiles: int | None, layers: int = 3, **cost: object) -> SimpleNamespace:
    """Layers of 25 word lines by 10 outputs, 3 tiles and 500 cells each."""
    price = Cost(tiles=tiles, **cost)
    made = {f"layer{n}": fake_layer(placement=Placement.of(TILE, 25, 10), cost=price) for n in range(layers)}
    found = fake_chip(**made)
    found.hardware = SimpleNamespace(cost=price)
    return found


def test_what_fits_is_written_once() -> None:
    for tiles in (None, 9, 100):
        loading = Loading.of(chip(tiles))
        assert (loading.needed, loading.written, loading.energy_j, loading.time_s) == (9, 0, 0.0, 0.0)
        assert loading.fits
        assert mho.schedule(chip(tiles), inputs=3).makespan_s == mho.schedule(chip(None), inputs=3).makespan_s
        assert decision(chip(tiles)).energy_j == decision(chip(None)).energy_j
    assert str(Loading.of(chip(9))) == "fits: 9 tiles of 9"


@pytest.mark.parametrize(
    ("tiles", "written", "rounds"),
    [(8, 2, 2), (5, 8, 2), (4, 8, 3), (3, 9, 3), (2, 9, 5), (1, 9, 9)],
)
def test_what_does_not_fit_is_written_in_rounds(tiles: int, written: int, rounds: int) -> None:
    """9 tiles, 5 there: 1 stays, 8 take turns in 4 places. 500 cells of 3 tiles are at most 167 a tile."""
    loading = Loading.of(chip(tiles, write_energy=1e-10, write_time=1e-5, written_at_once=10))
    assert (loading.written, loading.rounds) == (written, rounds)
    assert loading.energy_j == pytest.approx(1500 * 1e-10 * written / 9, rel=1e-12)
    assert loading.time_s == pytest.approx(rounds * 17 * 1e-5, rel=1e-12)
    assert "does not fit: 9 tiles needed" in str(loading)


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_tile_has_its_turn(layers: int, tiles: int) -> None:
    """Places that are written again hold, round by round, all tiles that do not stay; no choice has fewer rounds."""
    loading = Loading.of(chip(tiles, layers))
    needed = 3 * layers
    if needed <= tiles:
        assert loading.fits
        return
    turns = loading.written - (needed - tiles)
    assert 1 <= turns <= tiles
    assert turns * (loading.rounds - 1) < loading.written <= turns * loading.rounds
    rounds = {s: -(-(needed - tiles + s) // s) for s in range(1, tiles + 1)}
    assert loading.rounds == min(rounds.values())
    assert turns == min(s for s, r in rounds.items() if r == loading.rounds)


def test_a_batch_shares_its_writes() -> None:
    plain, tight = chip(None), chip(8)
    loading = Loading.of(tight)
    for inputs in (1, 7):
        free, run = (mho.schedule(c, votes=2, inputs=inputs) for c in (plain, tight))
        assert run.loading == loading
        assert run.makespan_s == pytest.approx(free.makespan_s + loading.time_s, rel=1e-12)
        assert run.decision_interval_s == pytest.approx(free.decision_interval_s + loading.time_s / inputs, rel=1e-12)
        assert run.throughput == pytest.approx(1 / run.decision_interval_s, rel=1e-12)
        assert run.bottleneck == "writing of tiles"
    one, many = decision(tight), decision(tight, batch=1000)
    free = decision(plain)
    assert one.write_j == loading.energy_j == pytest.approx(1000 * many.write_j, rel=1e-12)
    assert one.work_j == pytest.approx(free.work_j + loading.energy_j, rel=1e-12)
    assert many.interval_s == pytest.approx(free.interval_s + loading.time_s / 1000, rel=1e-9)
    assert many.latency_s == one.latency_s == pytest.approx(free.latency_s + loading.time_s, rel=1e-12)
    assert many.power_full_w == pytest.approx(many.energy_j / many.interval_s, rel=1e-12)


def test_tiles_that_are_not_there_have_no_area() -> None:
    """8 of 9 tiles: what is there once a tile is 8 / 9; digital units and buffers stay."""
    full, tight = decision(chip(None)), decision(chip(8))
    cost = Cost()
    once = 3 * (cost.digital_area + 25 * 8 * cost.buffer_area)
    assert tight.area_m2 - once == pytest.approx((full.area_m2 - once) * 8 / 9, rel=1e-9, abs=0)


def test_sweeps_count_what_is_written() -> None:
    """Four votes of one chip: written once, or once a round where each round waits for the one before."""
    tight = chip(8)
    loading, whole = Loading.of(tight), decision(tight, 4)
    votes = {"copies": 1, "votes": 4}
    once = costs_of(tight, SimpleNamespace(**votes, layers=None, vote_error=None), 1e-6, 4.0, 4.0)
    assert once["decision_energy_j"] == pytest.approx(4e-6 + loading.energy_j, rel=1e-12)
    assert once["total_energy_j"] == pytest.approx(
        4e-6 + loading.energy_j + whole.leakage_w * whole.interval_s, rel=1e-9
    )
    assert once["latency_s"] == whole.latency_s
    rounds = costs_of(tight, SimpleNamespace(**votes, layers=None, vote_error=0.1), 1e-6, 4.0, 4.0)
    assert rounds["decision_energy_j"] == pytest.approx(4e-6 + 4 * loading.energy_j, rel=1e-12)
    assert rounds["latency_s"] == pytest.approx(4 * decision(tight).latency_s, rel=1e-12)


def test_replicas_count() -> None:
    assert Loading.of(chip(9), {"layer1": 2}).needed == 12
    assert mho.schedule(chip(9), replicas={"layer1": 2}).loading.written == 6


@pytest.mark.parametrize("batch", [0, -1, 1.5, True])
def test_impossible_batches_are_refused(batch: object) -> None:
    with pytest.raises(ValueError, match="batch: a whole number of at least 1"):
        decision(chip(8), batch=batch)


def test_replicas_of_what_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"does not fit: 9 tiles needed.*cost\.tiles"):
        replicate(chip(8), tiles=20)
    with pytest.raises(ValueError, match=r"ways: .*cost\.tiles to null, got 20"):
        ways(chip(20), 2)


def test_layers_do_not_have_tiles_of_their_own() -> None:
    odd = chip(9)
    odd.layers["layer1"] = fake_layer(placement=Placement.of(TILE, 25, 10), cost=Cost(tiles=5))
    with pytest.raises(ValueError, match=r"cost\.tiles: a chip has one number of tiles.*got 5, 9"):
        Loading.of(odd)


def test_the_report_says_what_fits_and_what_is_left_out() -> None:
    torch.manual_seed(0)
    calibrate = pictures()
    plain = mho.map(small_cnn(), hardware(), calibrate=calibrate).report()
    needed = int(plain.table["tiles"].sum())
    assert "fits" not in str(plain)
    tight = mho.map(small_cnn(), hardware(cost__tiles=needed - 1), calibrate=calibrate).report()
    assert f"does not fit: {needed} tiles needed, {needed - 1} there" in str(tight)
    roomy = mho.map(small_cnn(), hardware(cost__tiles=needed), calibrate=calibrate).report()
    assert f"fits: {needed} tiles of {needed}" in str(roomy)
    lines = [line for line in str(plain).splitlines() if line.startswith("cost leaves out: ")]
    assert len(lines) == 1
    assert "references of converters" in lines[0]


def test_what_is_set_to_zero_is_left_out() -> None:
    preset = mho.Hardware.preset("reram")
    found = uncounted([preset])
    bare = preset.replace({"cost.driver_area": 0, "cost.sense_power": 0, "cost.sense_energy": 0})
    assert [part for part in uncounted([preset, bare]) if part not in found] == [
        "energy of sense amplifiers",
        "area of line drivers",
    ]
    assert uncounted([mho.Hardware.preset("ideal")]) == ["all of it, as a converter has no number of bits"]

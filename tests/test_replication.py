"""Replicas under a budget against all choices there are, and the cost of decisions."""

import importlib.util
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cost import fake_chip, fake_layer

from mho.crossbar.components import Cost
from mho.crossbar.hardware import Hardware
from mho.crossbar.placement import Placement
from mho.crossbar.tile import Tile
from mho.mapping.architecture.cost import demands, layer_costs, peak
from mho.mapping.architecture.decision import decision
from mho.mapping.architecture.replication import replicate, ways
from mho.mapping.architecture.schedule import schedule
from mho.mapping.architecture.stages import reading

TILE = Tile(rows=128, columns=64, encoding="differential")


def chip_of(layers: list[tuple[int, int]]) -> SimpleNamespace:
    """Layers of (positions, row tiles)."""
    return fake_chip(
        **{
            f"layer{n}": fake_layer(positions=positions, placement=Placement.of(TILE, 128 * tiles, 32))
            for n, (positions, tiles) in enumerate(layers)
        }
    )


def brute_force(chip: SimpleNamespace, budget: int, votes: int) -> tuple[float, float]:
    """The shortest slowest stage and the shortest latency of any choice of replicas."""
    asked = demands(chip)
    fixed = [call.work / Cost().digital_rate for call in chip.trace if call.digital]
    fastest = latency = float("inf")
    ranges = [range(1, budget // d.placement.tiles + 1) for d in asked.values()]
    for choice in product(*ranges):
        if sum(n * d.placement.tiles for n, d in zip(choice, asked.values(), strict=True)) > budget:
            continue
        times, paces = list(fixed), list(fixed)
        for n, demand in zip(choice, asked.values(), strict=True):
            split = min(n, demand.positions)
            times.append(reading(demand).time(demand.positions, split))
            paces.append(times[-1] / (n // split))
        fastest = min(fastest, max(paces))
        latency = min(latency, sum(times) + (votes - 1) * max(paces))
    return fastest, latency


@settings(deadline=None, max_examples=40)
@given(
    layers=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 2)), min_size=1, max_size=3),
    spare=st.integers(0, 9),
    votes=st.integers(1, 6),
)
def test_no_other_choice_is_better(layers: list[tuple[int, int]], spare: int, votes: int) -> None:
    chip = chip_of(layers)
    budget = sum(tiles for _, tiles in layers) + spare
    fastest, latency = brute_force(chip, budget, votes)
    quick = replicate(chip, tiles=budget, votes=votes)
    short = replicate(chip, tiles=budget, votes=votes, goal="latency")
    assert quick.slowest_s == pytest.approx(fastest, rel=1e-12)
    assert short.stages_s + (votes - 1) * short.slowest_s == pytest.approx(latency, rel=1e-12)
    assert max(quick.tiles, short.tiles) <= budget
    run = schedule(chip, votes=3, inputs=2, replicas=quick.replicas)
    assert max(t / s for t, s in zip(run.service_s, run.servers, strict=True)) == pytest.approx(quick.slowest_s)


@settings(deadline=None, max_examples=20)
@given(
    layers=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 3)), min_size=1, max_size=4), votes=st.integers(1, 9)
)
def test_a_plan_takes_as_long_as_it_says(layers: list[tuple[int, int]], votes: int) -> None:
    chip = chip_of(layers)
    area = 3 * layer_costs(chip)["area_m2"].sum()
    plan = replicate(chip, area=area, votes=votes, goal="latency")
    assert plan.area_m2 <= area * (1 + 1e-12)
    run = schedule(chip, votes=votes, replicas=plan.replicas)
    if all(servers == 1 for servers in run.servers):
        assert run.makespan_s == pytest.approx(plan.stages_s + (votes - 1) * plan.slowest_s)
    assert run.makespan_s <= schedule(chip, votes=votes).makespan_s * (1 + 1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "of tiles or of area"),
        ({"tiles": 9, "area": 1.0}, "of tiles or of area"),
        ({"tiles": 1}, "tiles: one set of tiles for each layer takes 3, got a budget of 1"),
        ({"area": 0.0}, "area: one set of tiles for each layer takes"),
        ({"tiles": 9, "goal": "fame"}, "goal: throughput or latency, got 'fame'"),
        ({"tiles": 9, "votes": 0}, "votes: .* got 0"),
    ],
)
def test_bad_budgets_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replicate(chip_of([(4, 1), (1, 2)]), **arguments)


def chip_with_voter(**cost: float) -> SimpleNamespace:
    chip = chip_of([(50, 1), (10, 1), (1, 2)])
    chip.hardware = SimpleNamespace(cost=Cost(**cost))
    return chip


def test_a_decision_costs_what_its_layers_do() -> None:
    chip, votes = chip_with_voter(), 20
    costs, one, many = layer_costs(chip), decision(chip), decision(chip, votes)
    assert one.work_j == pytest.approx(costs["energy_j"].sum())
    assert many.work_j == pytest.approx(votes * one.work_j)
    assert one.leakage_w == pytest.approx(costs["leakage_w"].sum())
    assert one.area_m2 == pytest.approx(costs["area_m2"].sum())
    assert many.interval_s == pytest.approx(votes * one.interval_s)
    assert many.latency_s == schedule(chip, votes=votes, voter=chip.hardware.cost.digital_time).makespan_s
    rate = 0.5 / many.interval_s
    assert many.power_w(rate) - many.leakage_w == pytest.approx(votes * (one.power_w(rate) - one.leakage_w))  # K P
    assert many.power_full_w == pytest.approx(one.power_full_w)  # a full pipeline keeps its power
    assert many.power_w(1 / many.interval_s) == pytest.approx(many.power_full_w)
    assert many.operations_per_joule == pytest.approx(many.operations_per_s / many.power_full_w)
    assert many.scales_with_v_j == pytest.approx(costs["energy_array_j"].sum() * votes)
    for rate in (0.0, -1.0, 2 / many.interval_s, float("nan")):
        with pytest.raises(ValueError, match=r"rate: .* decisions a second"):
            many.power_w(rate)


def test_copies_and_replicas_cost_area_and_no_energy() -> None:
    chip = chip_with_voter()
    one = decision(chip, 20)
    copies = decision(chip, 20, copies=5)
    assert copies.area_m2 == pytest.approx(5 * one.area_m2)
    assert copies.leakage_w == pytest.approx(5 * one.leakage_w)
    assert copies.energy == one.energy
    replicas = decision(chip, 20, replicas={"layer0": 5})
    assert one.area_m2 < replicas.area_m2 < copies.area_m2
    assert replicas.energy == one.energy
    assert replicas.latency_s < one.latency_s


def test_ways_side_by_side() -> None:
    table = ways(chip_with_voter(), 20).set_index("way")
    latency, area = table["latency_s"], table["area_m2"]
    assert max(latency["copies"], latency["replicated"]) < latency["pipelined"] < latency["sequential"]
    assert area["replicated"] <= area["copies"] == pytest.approx(20 * area["pipelined"])
    assert table["energy_j"].nunique() == 1
    assert table.loc["copies", "overhead"] == pytest.approx(
        Cost().digital_time / schedule(chip_with_voter()).makespan_s
    )


@pytest.fixture
def isaac() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "isaac.py"
    spec = importlib.util.spec_from_file_location("isaac", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_isaac_follows_from_its_constants(isaac: ModuleType, tmp_path: Path) -> None:
    table = isaac.compare()
    disputed = table["unit"] == "GOPS/W, as stated"
    assert len(table) == 19
    assert table.loc[~disputed, "ratio"].between(0.9, 1.1).all()
    assert not table.loc[disputed, "ratio"].between(0.9, 1.1).any()  # its own power and throughput say otherwise
    assert isaac.main(["--out", str(tmp_path / "isaac")]) == 0
    assert (tmp_path / "isaac" / "isaac.csv").is_file()


def test_a_slower_converter_takes_isaac_out_of_bounds(
    isaac: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Negative control: half the ADC rate halves the throughput."""
    text = isaac.SOURCE.read_text(encoding="utf-8").replace(
        "array_power: 0.3 mW", "adc_rate: 0.64 GHz\n    array_power: 0.3 mW"
    )
    (tmp_path / "isaac.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(isaac, "SOURCE", tmp_path / "isaac.yaml")
    table = isaac.compare().set_index(["figure", "unit"])
    assert table.loc[("chip", "GOPS/mm2"), "ratio"] == pytest.approx(0.5, rel=0.02)


def test_a_peak_without_an_array_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cost\.array_power is null"):
        peak(Hardware.preset("reram"))
    with pytest.raises(ValueError, match=r"dac\.bits is null"):
        peak(Hardware.preset("ideal"))

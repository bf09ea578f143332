"""`mho schedule`: how long K votes take in a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import IMPORTS, LAYERS, import_own

if TYPE_CHECKING:
    from ..mapping.architecture.decision import Decision

REPLICAS = typer.Option([], help="More of one stage, as conv1=4: they take its inputs in turn; repeatable.")


def schedule(
    chip: Path | None = typer.Argument(None, help="Folder of a saved chip, whose layers are the stages."),
    stages: str | None = typer.Option(None, help="Service times in seconds, comma separated, instead: 1e-6,2e-6."),
    votes: int = typer.Option(1, help="Votes per input."),
    inputs: int = typer.Option(1, help="Inputs, one behind the other."),
    voter: float | None = typer.Option(None, help="Service time of a voting stage in seconds; none: votes are free."),
    steps: int = typer.Option(1, help="How often each job goes through the stages, as through a recurrent layer."),
    buffers: int | None = typer.Option(None, help="Results that fit between two stages; none: any number."),
    copies: int = typer.Option(1, help="Whole pipelines that share the votes."),
    replica: list[str] = REPLICAS,
    line_buffers: bool = typer.Option(False, help="Rows of an image are passed on as they are ready."),
    layer: list[str] = LAYERS,
    programmed_for: int | None = typer.Option(
        None, help="Of a saved chip: decisions until it is programmed again, which share the energy of that."
    ),
    gantt: Path | None = typer.Option(None, help="Chart of the schedule: .png, .pdf or .svg."),
    trace: Path | None = typer.Option(None, help="The schedule as JSON for chrome://tracing or Perfetto."),
    report: Path | None = typer.Option(None, help="The schedule as a page for a browser: .html."),
    imports: list[str] = IMPORTS,
) -> None:
    """Pipeline a stream of voted inferences through stages and print latency, throughput and utilisation.

    For a saved chip also the energy, power and area of a decision.
    """
    from ..mapping.architecture.chain import Stages
    from ..mapping.architecture.decision import decision
    from ..mapping.architecture.schedule import schedule as run
    from ..mapping.architecture.uncounted import uncounted
    from ..mapping.saved.load import load

    try:
        times = None if stages is None else [float(time) for time in stages.split(",")]
    except ValueError as error:
        raise ValueError(f"stages must be numbers separated by commas, got {stages!r}") from error
    if (chip is None) == (times is None):
        raise ValueError("give the folder of a saved chip or --stages, one of the two")
    if chip is not None and steps != 1:
        raise ValueError("steps: a chip brings the steps of its layers, leave --steps out")
    if programmed_for is not None and chip is None:
        raise ValueError("programmed_for: needs the folder of a saved chip, whose cells are programmed")
    import_own(imports, chip)
    mapped = None if chip is None else load(chip)
    shared: dict[str, Any] = {"copies": copies, "replicas": _replicas(replica)}
    shared |= {"line_buffers": line_buffers, "layers": layer or None}
    plan = run(
        mapped,
        stages=None if times is None else Stages(times, steps=steps),
        votes=votes,
        inputs=inputs,
        voter=voter,
        buffers=buffers,
        **shared,
    )
    print(f"makespan          {plan.makespan_s:.6g} s")
    print(f"first decision    {plan.first_latency_s:.6g} s")
    print(f"decision interval {plan.decision_interval_s:.6g} s, {plan.throughput:.6g} decisions/s when full")
    print(f"bottleneck        {plan.bottleneck}")
    width = max(map(len, plan.utilisation))
    for name, share in plan.utilisation.items():
        print(f"  {name:{width}s} busy {share:6.1%}")
    if mapped is not None:
        cost = decision(mapped, votes, batch=inputs, programmed_for=programmed_for, **shared)
        _show(cost, inputs, programmed_for)
        print(f"tiles             {plan.loading}")
        left_out = uncounted(layer.hardware for layer in mapped.layers.values())
        print(f"cost leaves out   {', '.join(left_out)}")
    if gantt is not None:
        plan.gantt(gantt)
    if trace is not None:
        plan.trace(trace)
    if report is not None:
        plan.page().write(report)
        print(f"to look at in a browser: {report.resolve()}")


def _show(cost: Decision, inputs: int, programmed_for: int | None) -> None:
    parts = ", ".join(f"{part} {joules:.3g}" for part, joules in cost.energy.items())
    print(f"energy            {cost.work_j:.4g} J a decision ({parts})")
    if cost.write_j:
        print(f"writing of tiles  {cost.write_j:.4g} J a decision, in a batch of {inputs}")
    if cost.programming_j:
        print(f"programming       {cost.programming_j:.4g} J a decision, of {programmed_for} until the next time")
    print(f"leakage           {cost.leakage_w:.4g} W")
    print(f"power             {cost.power_full_w:.4g} W when full")
    print(f"area              {1e6 * cost.area_m2:.4g} mm2")


def _replicas(given: list[str]) -> dict[str, int] | None:
    """By the name of the stage.

    Raises:
        ValueError: no name and number, or a name twice.
    """
    found: dict[str, int] = {}
    for text in given:
        name, _, count = text.rpartition("=")
        if not name or not count.isdecimal():
            raise ValueError(f"replica must be a stage and how many of it, as conv1=4, got {text!r}")
        if name in found:
            raise ValueError(f"replica: {name!r} is given twice")
        found[name] = int(count)
    return found or None

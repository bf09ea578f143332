"""`mho schedule`: how long K votes take in a pipeline."""

from __future__ import annotations

import typer


def schedule(
    stages: str = typer.Option(..., help="Service times in seconds, comma separated: 1e-6,2e-6."),
    votes: int = typer.Option(1, help="Votes per input."),
    inputs: int = typer.Option(1, help="Inputs, one behind the other."),
    voter: float | None = typer.Option(None, help="Service time of a voting stage in seconds; none: votes are free."),
) -> None:
    """Pipeline a stream of voted inferences through stages and print latency, throughput and utilisation."""
    from ..mapping.schedule import schedule as run

    try:
        times = [float(time) for time in stages.split(",")]
    except ValueError as error:
        raise ValueError(f"stages must be numbers separated by commas, got {stages!r}") from error
    plan = run(stages=times, votes=votes, inputs=inputs, voter=voter)
    print(f"makespan          {plan.makespan_s:.6g} s")
    print(f"first decision    {plan.first_latency_s:.6g} s")
    print(f"decision interval {plan.decision_interval_s:.6g} s, {plan.throughput:.6g} decisions/s when full")
    print(f"bottleneck        {plan.bottleneck}")
    for name, share in plan.utilisation.items():
        print(f"  {name:12s} busy {share:.1%}")

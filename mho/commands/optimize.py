"""`mho optimize`: the cheapest settings that reach an accuracy."""

from __future__ import annotations

from pathlib import Path

import typer


def optimize(
    file: Path = typer.Argument(..., help="The search, in YAML: docs/optimize.md."),
    out: Path = typer.Option(..., help="Run folder; what is measured there already is not measured again."),
    jobs: int = typer.Option(1, min=1, help="Processes of this machine, or workers of a local cluster."),
    csv: bool = typer.Option(False, "--csv", help="Write the tables as CSV too."),
) -> None:
    """Search for the cheapest settings that reach an accuracy; run it again after Ctrl-C or a crash, and it resumes."""
    from .progress import loading, shown

    with loading("PyTorch and the search"):
        from ..sweeps.optimize import optimize as run
    with shown("trials") as progress:
        found = run(file, out=out, jobs=jobs, csv=csv, progress=progress)
    print(found)
    print(f"\nreport.txt, front.png and the tables are in {out}")

"""`mho sweep`: an experiment over grids and lists of settings."""

from __future__ import annotations

from pathlib import Path

import typer


def sweep(
    file: Path = typer.Argument(..., help="The sweep, in YAML: docs/sweeps.md."),
    out: Path = typer.Option(..., help="Run folder; what is done there already is not done again."),
    jobs: int = typer.Option(1, min=1, help="Processes of this machine, or workers of a local cluster."),
    csv: bool = typer.Option(False, "--csv", help="Write results.csv beside results.parquet."),
    dry_run: bool = typer.Option(False, "--dry-run", help="List the tasks, and which are done; run nothing."),
) -> None:
    """Run an experiment over grids of settings; run it again after Ctrl-C or a crash, and it resumes."""
    from .progress import loading, shown

    with loading("PyTorch and the sweep"):
        from ..sweeps.run import planned
        from ..sweeps.run import sweep as run
    if dry_run:
        tasks = planned(file, out=out)
        for row in tasks.itertuples():
            print(f"{row.task_id}  {'done' if row.done else '-   '}  {row.task}")
        print(f"{len(tasks)} tasks, {int(tasks['done'].sum())} of them done")
        return
    with shown("tasks") as progress:
        table = run(file, out=out, jobs=jobs, csv=csv, progress=progress)
    print(f"{len(table)} results in {out / 'results.parquet'}; to explore them: mho view {out}")

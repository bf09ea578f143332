"""`mho demo`: the main job on real pictures, from one command."""

from __future__ import annotations

from pathlib import Path

import typer


def demo(
    images: int = typer.Option(10_000, min=1, max=10_000, help="Test pictures for one inference each."),
    vote_images: int = typer.Option(1_000, min=1, max=10_000, help="Test pictures for the votes."),
    votes: int = typer.Option(20, min=1, help="Noisy inferences of each of those."),
    full: bool = typer.Option(False, help="Votes on all pictures."),
    seed: int = typer.Option(0, help="Which chips."),
    out: Path = typer.Option(Path("runs/demo"), help="Run folder for tables and figures."),
) -> None:
    """Two trained networks on ideal, ReRAM, PCM and NAND tiles classify real MNIST test pictures."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..runs import check_run_folder, run_folder

    check_run_folder(out)
    console = Console()
    with console.status("loading PyTorch and the compiled kernels ..."):
        from .. import demo as job

    settings = job.Settings(images, images if full else min(vote_images, images), votes, seed)
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with run_folder(out) as folder:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=job.steps(settings))
            results = job.run(settings, lambda text: progress.update(task, description=text, advance=1))
        job.write(results, settings, folder)
    job.show(results, console)
    console.print(f"{results.seconds:.0f} s; tables, figures and configuration in {out}")

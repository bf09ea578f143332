"""`mho demo`: the main job on real images, from one command."""

from __future__ import annotations

from pathlib import Path

import typer


def demo(
    images: int = typer.Option(10_000, min=1, max=10_000, help="Test images for one inference each."),
    vote_images: int = typer.Option(1_000, min=1, max=10_000, help="Test images for the votes."),
    votes: int = typer.Option(20, min=1, help="Noisy inferences of each of those."),
    full: bool = typer.Option(False, help="Votes on all images."),
    seed: int = typer.Option(0, help="Which chips."),
    jobs: int = typer.Option(0, min=0, help="Processes, of about 1 GB each; 0: one a core, 4 at most."),
    out: Path = typer.Option(Path("runs/demo"), help="Run folder for tables and figures."),
) -> None:
    """Two trained networks on ideal, ReRAM, PCM and NAND tiles classify real MNIST test images."""
    from rich.console import Console

    from ..runs import check_run_folder, run_folder
    from ..sweeps.workers import cores
    from .progress import loading, shown

    check_run_folder(out)
    with loading("PyTorch and the compiled kernels"):
        from .. import demo as job

    settings = job.Settings(images, images if full else min(vote_images, images), votes, seed)
    with run_folder(out) as folder:
        with shown("networks and chips") as tell:
            results = job.run(settings, jobs or min(cores(), 4), tell)
        job.write(results, settings, folder)
    job.show(results, Console())
    print(f"{results.seconds:.0f} s; tables, figures and configuration in {out}")
    print(f"to look at in a browser: {(out / 'report.html').resolve()}")

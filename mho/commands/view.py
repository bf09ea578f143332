"""`mho view`: the table of a sweep or a search in a browser."""

from __future__ import annotations

from pathlib import Path

import typer


def view(
    run: Path = typer.Argument(..., help="Folder of a sweep or search, or a .csv or .parquet table of one."),
    out: Path | None = typer.Option(None, help="File to write; none: view.html in that folder."),
    show: bool = typer.Option(False, "--open", help="Open it in the browser."),
) -> None:
    """Write a page to explore a sweep or search: axes, colours, filters, Pareto fronts, points to run again."""
    import webbrowser

    from ..explorer import view as write

    page = write(run, out).resolve()
    print(f"to look at in a browser: {page}")
    if show:
        webbrowser.open(page.as_uri())

"""Run folders: complete or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .mapping.saved.folders import whole_folder

MARK = "run.yaml"


def check_run_folder(out: Path) -> None:
    """Refuse a folder that is neither new, empty nor an earlier run.

    Raises:
        ValueError: it holds something else.
    """
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise ValueError(f"out: {out} exists and is no run folder; choose another")


@contextmanager
def run_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well and is removed when it does not.

    The block must write `run.yaml`, the resolved settings. An earlier run in `out` is replaced only at the end.

    Raises:
        ValueError: `out` holds something else than a run.
    """
    check_run_folder(out)
    with whole_folder(out) as folder:
        yield folder

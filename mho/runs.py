"""Run folders: complete or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    old = fresh.with_name(fresh.name + ".old")
    try:
        yield fresh
        fresh.chmod(0o755)
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)

"""What stands beside results: when, with which command, on what machine and with which versions they were made."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from .mapping.saved.folders import whole


def record(packages: Sequence[str], command: str) -> dict[str, Any]:
    """Date, command, machine, processor, cores, versions (None: not installed)."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def version(package: str) -> str | None:
    """The version of an installed package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """The processor's name, and whether it has AVX2 and AVX-512 (on Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [line.partition(":") for line in reversed(lines)]  # the first core's fields last, so that they stay
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    vectors = [label for label, flag in (("AVX2", "avx2"), ("AVX-512", "avx512f")) if flag in fields.get("flags", "")]
    name = fields.get("model name", platform.machine())
    return f"{name} with {', '.join(vectors)}" if vectors else name


def write_json(contents: Mapping[str, Any], path: Path) -> None:
    """A JSON file, complete or not there, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def write_measured(path: Path, measure: Callable[[], Mapping[str, Any]]) -> int:
    """Measure, and only then write the record, all of it or nothing. Returns the exit code: 2 after an error."""
    try:
        if path.parent.exists() and not path.parent.is_dir():  # said before the long measurement
            raise ValueError(f"--out {path.parent} exists and is not a folder")
        write_json(measure(), path)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {path}", file=sys.stderr)
    return 0

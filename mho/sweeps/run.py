"""`mho.sweep`: run the tasks of a sweep that are not done yet, on local processes or a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..mapping.voting.asked import whole_number
from .clusters import on_dask, on_ray
from .file import OPTION, Settings, Study, Sweep, field_of, is_hardware
from .folder import MARK, TABLE, SweepFolder
from .tasks import ANSWERING, Parcel, Row, Task, groups_of, run_group, run_parcel, tasks_of
from .workers import cores, spread

SweepLike = str | Path | Mapping[str, Any]


def sweep(
    source: SweepLike,
    *,
    out: str | Path,
    jobs: int = 1,
    csv: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Run a sweep, or what is missing of it.

    Each finished task is written to `out` at once; interrupted or killed, the sweep resumes from there when it is run
    again. A changed sweep in the same folder reuses what still matches. The results are the same bits whatever `jobs`,
    the batch size, and the machines that they come from.

    Args:
        source: a sweep file, or a mapping of what such a file holds: see docs/sweeps.md.
        out: the run folder: `sweep.yaml` and `hardware.yaml` as resolved, `parts/`, and at the end `results.parquet`.
        jobs: local processes, or workers of a local cluster; with 1 and no cluster, this process does the work.
        csv: write `results.csv` too.
        progress: called with how many tasks are done, and how many there are.

    Returns:
        A row per point, in the order of the sweep: `task_id`, the settings, the fields of the hardware that vary, the
        columns of the experiment, `mho_version`; last, columns that are no results: their names end in `_meta`.

    Raises:
        ValueError: a sweep that is impossible (nothing has run then), a task that fails, or a folder in use.

    Example:
        >>> asked = {"experiment": "accuracy", "model": "mnist_cnn", "weights": "sigma-0.5", "data": "mnist"}
        >>> asked |= {"images": 10, "calibrate": 10, "hardware": "reram", "grid": {"adc.bits": [6, 8]}}
        >>> mho.sweep(asked, out="bits")[["adc.bits", "votes"]]
           adc.bits  votes
        0         6      1
        1         8      1
    """
    jobs = whole_number("jobs", jobs)
    folder, settings = SweepFolder(out), Sweep.read(source)
    tasks = tasks_of(settings)
    with folder.locked():
        folder.begin(MARK, settings.dump(), hardware_text(task.settings.hardware for task in tasks))
        rows = measure(tasks, folder, settings, jobs, progress)
        names = [name for name in ANSWERING if any(getattr(task.settings, name) for task in tasks)]
        names += dict.fromkeys(name for values in settings.values for name in values if is_hardware(name))
        table = folder.finish(TABLE, [joined(task, names, rows[task.id]) for task in tasks], csv=csv)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def measure(
    tasks: list[Task],
    folder: SweepFolder,
    study: Study,
    jobs: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Row]:
    """The rows of tasks by id: of those that the folder has, and of the others, which are done and added to it."""
    rows = {id: folder.read(id) for id in folder.done() & {task.id for task in tasks}}
    missing = [task for task in tasks if task.id not in rows]
    progress(len(rows), len(tasks))
    with closing(_results(groups_of(missing), jobs, study.backend, study.cluster)) as results:
        for found in results:
            for row in found:
                folder.add(row)
                rows[row["task_id"]] = row
            progress(len(rows), len(tasks))
    return rows


def planned(source: SweepLike, *, out: str | Path) -> pd.DataFrame:
    """The tasks of a sweep without running them: `task_id`, the point, and whether it is `done` in the folder."""
    folder, tasks = SweepFolder(out), tasks_of(Sweep.read(source))
    done = folder.done()
    return pd.DataFrame([{"task_id": task.id, "task": task.said, "done": task.id in done} for task in tasks])


def joined(task: Task, names: list[str], row: Row) -> Row:
    """A row of the table: the settings of the task, further settings and fields of its hardware by name, the result."""
    unseen = ("batch_size", "options", *ANSWERING)
    asked = {name: getattr(task.settings, name) for name in Settings.model_fields if name not in unseen}
    asked |= {f"{OPTION}{name}": _cell(value) for name, value in task.settings.options.items()}
    results = {name: value for name, value in row.items() if not name.endswith("_meta")}
    meta = {name: value for name, value in row.items() if name.endswith("_meta")}
    version = {"mho_version": metadata.version("mho")}
    fields = {name: field_of(task.settings, task.hardware, name) for name in names}
    fields |= {"coded": _cell(fields["coded"])} if "coded" in fields else {}
    return {"task_id": task.id, "experiment": task.experiment, **asked, **fields, **results, **version, **meta}


def _cell(value: Any) -> Any:
    """A value as a table has it: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def hardware_text(names: Iterable[str]) -> str:
    """Hardware that a study names, resolved, as YAML."""
    from ..inputs import find_hardware

    dumps = {name: find_hardware(name).model_dump(mode="json") for name in dict.fromkeys(names)}
    return yaml.safe_dump(dumps, sort_keys=False, allow_unicode=True)


def _results(groups: list[list[Task]], jobs: int, backend: str, cluster: str | None) -> Generator[list[Row]]:
    """The rows of each group as they come."""
    if not groups:
        return
    if backend == "ray":
        yield from on_ray(groups, jobs, cluster)
    elif backend == "dask":
        yield from on_dask(groups, jobs, cluster)
    elif jobs == 1 or len(groups) == 1:
        for group in groups:
            yield run_group(group)
    else:
        threads = max(1, cores() // jobs)
        yield from spread(run_parcel, [(Parcel.of(group), threads) for group in groups], min(jobs, len(groups)))

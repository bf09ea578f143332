"""`mho.optimize`: search for the cheapest settings that reach an accuracy, on local processes or a cluster."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..mapping.voting.asked import whole_number
from .costs import COSTS
from .experiments import experiment_of
from .file import Values, describe, is_hardware
from .folder import CONFIRMED, FIGURE, REPORT, SEARCH_MARK, TABLE, TRIALS, SweepFolder
from .optimum import Optimum, front_of, near_front_of, ranked
from .run import SweepLike, hardware_text, joined, measure
from .search import Search
from .tasks import Row, Task, tasks_of

MEANS = ("accuracy", "low", "high", "accuracy_1", "mean_reads", *COSTS)
Progress = Callable[[int, int], None]


def optimize(
    source: SweepLike,
    *,
    out: str | Path,
    jobs: int = 1,
    csv: bool = False,
    progress: Progress = lambda done, total: None,
) -> Optimum:
    """Search for the settings that reach an accuracy at the least cost: NSGA-II (Deb et al. 2002), by Optuna.

    Each generation is a sweep by points: tasks have the ids that `mho.sweep` gives them, and what the folder holds is
    not measured again. Interrupted or killed, the search repeats its choices from what is there and resumes. The same
    file gives the same trials and the same bits whatever `jobs` and the machines.

    Args:
        source: a search file, or a mapping of what such a file holds: see docs/optimize.md.
        out: the run folder: `search.yaml` and `hardware.yaml` as resolved, `parts/`, and at the end `results.parquet`
            (all tasks, as of a sweep), `trials.parquet`, `confirmed.parquet`, `report.txt` and `front.png`.
        jobs: local processes, or workers of a local cluster.
        csv: write the tables as CSV too.
        progress: called with how many trials are done, and how many there are.

    Raises:
        ValueError: a search that is impossible, or no Optuna (nothing has run then); a task that fails; or a folder in
            use.
    """
    jobs = whole_number("jobs", jobs)
    folder, search = SweepFolder(out), Search.read(source)
    lacking = [name for name in MEANS if name not in experiment_of(search.experiment).columns]
    if lacking:
        raise ValueError(f"search: experiment {search.experiment} has no column {', '.join(lacking)} to search by")
    space = search.space()
    with _study(search) as study, folder.locked():
        chips = space["hardware"].values if "hardware" in space else [search.hardware]
        folder.begin(SEARCH_MARK, search.dump(), hardware_text(chips))
        bench = _Bench(search, search.grid, folder, jobs)
        for start in range(0, search.trials, search.population):
            trials = [study.ask() for _ in range(min(search.population, search.trials - start))]
            asked = {
                trial.number: search.possible({name: choice.suggest(trial, name) for name, choice in space.items()})
                for trial in trials
            }
            rows = bench.measure(asked, partial(_tell, progress, start, search.trials))
            for trial, row in zip(trials, rows, strict=True):
                costs = [math.log(row[cost]) for cost in search.costs]
                study.tell(trial, [row["accuracy"], *costs])
        again = _Bench(search, search.confirm, folder, jobs)
        cheapest = ranked(bench.table(), search.costs)
        for trial in cheapest["trial"][cheapest["reaches"]] if search.confirm else ():
            if again.measure({trial: bench.asked[trial]})[0]["reaches"]:
                break
        return _finish(search, folder, bench, again, csv)


def _tell(progress: Progress, start: int, total: int, done: int) -> None:
    progress(start + done, total)


class _Bench:
    """Points measured at all of a grid, each once.

    asked: the points, by the first trial that chose them. tasks, results: theirs by id.
    """

    def __init__(self, search: Search, grid: Mapping[str, list[Any]], folder: SweepFolder, jobs: int) -> None:
        self.search, self.grid, self.folder, self.jobs = search, grid, folder, jobs
        self.asked: dict[int, Values] = {}
        self.tasks: dict[str, Task] = {}
        self.results: dict[str, Row] = {}
        self._rows: dict[str, Row] = {}

    def measure(self, asked: Mapping[int, Values], progress: Callable[[int], None] = lambda done: None) -> list[Row]:
        """A row for each of the points, which are given by trial."""
        new: dict[int, Values] = {}
        for trial, values in asked.items():
            if describe(values) not in self._rows and values not in new.values():
                new[trial] = values
        if new:
            tasks = tasks_of(self.search.sweep(list(new.values()), self.grid))
            known = len(asked) - len(new)

            def tell(done: int, total: int) -> None:
                progress(known + len(new) * done // total)

            self.results |= measure(tasks, self.folder, self.search, self.jobs, tell)
            self.tasks |= {task.id: task for task in tasks}
            self.asked |= new
            each = len(tasks) // len(new)
            for number, (trial, values) in enumerate(new.items()):
                self._rows[describe(values)] = self._mean(trial, values, tasks[number * each : (number + 1) * each])
        progress(len(asked))
        return [self._rows[describe(values)] for values in asked.values()]

    def _mean(self, trial: int, values: Values, tasks: list[Task]) -> Row:
        """The row of a point: the means over its tasks."""
        found = [self.results[task.id] for task in tasks]
        means = {name: float(np.mean([row[name] for row in found])) for name in MEANS}
        for cost in self.search.costs:
            if math.isnan(means[cost]):
                raise ValueError(f"{describe(values)}: has no {cost}, as a converter has no bits; set dac and adc.bits")
        outside = dict.fromkeys(row["extrapolated"] for row in found if row["extrapolated"])
        return {
            "task_ids": " ".join(task.id for task in tasks),
            "trial": trial,
            **values,
            **means,
            "accuracy_min": min(row["accuracy"] for row in found),
            "reaches": means["low"] >= self.search.target,
            "may_reach": means["high"] >= self.search.target,
            "extrapolated": "; ".join(outside),
        }

    def table(self) -> pd.DataFrame:
        """A row a point, in the order of the trials."""
        return pd.DataFrame(list(self._rows.values()))


def _finish(search: Search, folder: SweepFolder, bench: _Bench, again: _Bench, csv: bool) -> Optimum:
    """Write tables, report and figure."""
    trials = bench.table()
    for cost in search.costs:
        trials[f"front_{cost}"] = front_of(trials["accuracy"].to_numpy(), trials[cost].to_numpy())
        trials[f"near_front_{cost}"] = near_front_of(trials, trials[cost].to_numpy())
    names = [name for name in dict.fromkeys((*search.search, *search.grid, *search.confirm)) if is_hardware(name)]
    results, tasks = bench.results | again.results, bench.tasks | again.tasks
    folder.finish(TABLE, [joined(task, names, results[id]) for id, task in tasks.items()], csv=csv)
    tables = []
    for name, table in ((TRIALS, trials), (CONFIRMED, again.table())):
        rows = [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]
        tables.append(folder.finish(name, rows, csv=csv).to_pandas() if rows else trials.iloc[:0])
    found = Optimum(search, *tables)
    folder.write(REPORT, f"{found}\n".encode())
    picture = io.BytesIO()
    found.figure().savefig(picture, format="png", dpi=150)
    folder.write(FIGURE, picture.getvalue())
    return found


@contextmanager
def _study(search: Search) -> Iterator[Any]:
    """Optuna's study, which says nothing on the console meanwhile."""
    try:
        import optuna
    except ImportError as error:
        raise ValueError("mho optimize needs Optuna: pip install 'mho[search]'") from error
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        sampler = optuna.samplers.NSGAIISampler(population_size=search.population, seed=search.search_seed)
        yield optuna.create_study(directions=["maximize", *["minimize"] * len(search.costs)], sampler=sampler)
    finally:
        optuna.logging.set_verbosity(said)

"""The command: its options, what is made of them, and where it is written. See `benchmarks/paper.py`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attacks
import pandas as pd
import torch

from mho.records import record, write_json
from mho.tables import write_table

from . import claims, physical, seeds
from .cells import Measurement, read_cells, test_set, trained, write_cells
from .figures import FIGURES, answers, learning_curves
from .ledger import Ledger
from .page import page
from .tables import ACCURACIES, PAPER, TABLES, Grid, markdown, shown, table
from .train import learning_curves as trained_curves
from .train import train_by_protocol, train_like, train_missing
from .web import web_page

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS, IMAGES = ROOT / "docs" / "paper.md", ROOT / "docs" / "results" / "paper", ROOT / "docs" / "images"
CURVES, CELLS = RESULTS / "curves.csv", RESULTS / "cells.parquet"
CLAIMS, ATTACKED = ROOT / "docs" / "claims.md", ROOT / "docs" / "results" / "attacks"
COSTS = ROOT / "docs" / "results" / "latency_power"
TABLES_11 = {"MNIST": ATTACKED / "table_11.csv", "CIFAR-10": ATTACKED / "cifar10" / "table_11.csv"}
DESCRIPTION = "The paper's Tables 2 to 11 and Figures 1 to 11 from the trained networks that come with Mho."
ATTACKS = {10: "Black-box attacks", 11: "Accuracy under black-box attack over the noise of inference, MNIST"}


def numbers(known: Sequence[int]) -> Callable[[str], list[int]]:
    """A parser of comma separated numbers of those that are known."""

    def parse(text: str) -> list[int]:
        found = [int(part) for part in text.split(",") if part.strip().isdigit()]
        if not found or len(found) != text.count(",") + 1 or not set(found) <= set(known):
            raise argparse.ArgumentTypeError(f"numbers of {', '.join(map(str, known))}, got {text!r}")
        return found

    return parse


def untrained(number: int) -> str:
    """Why a table cannot be made of the weights that there are, or nothing."""
    network, noise = shown(number)
    return "" if trained(network, noise) else f"no trained weights of {network} yet"


def without_data(number: int) -> str:
    """Why a table cannot be made of the data that there are, or nothing."""
    try:
        test_set(shown(number)[0])
    except FileNotFoundError as error:
        return str(error)
    return ""


def available(number: int) -> str:
    """Why a table cannot be made now, or nothing."""
    return "" if number == 4 else untrained(number) or without_data(number)


def attacked(number: int, options: argparse.Namespace) -> pd.DataFrame:
    """Table 10, or Table 11 for MNIST; what is printed of it, the rest is in its file."""
    settings = attacks.Settings("mnist", options.images, options.runs, out=options.out / "attacks")
    found = attacks.table_10() if number == 10 else attacks.table_11(settings)
    found.to_csv(options.out / f"table_{number}.csv", index=False)
    return found if number == 10 else attacks.summary(found)


def _chips_of(model: str) -> Path:
    """The file of a network on chips."""
    return RESULTS / f"chips_{model}.csv"


def _on_chips() -> pd.DataFrame:
    """All of them that there are."""
    found = [pd.read_csv(_chips_of(model)) for model in physical.STUDIES if _chips_of(model).is_file()]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def drawable(number: int) -> bool:
    """Whether there is something to draw a figure from."""
    if number in (1, 3):
        return number == 1 or CURVES.is_file()
    needs = {2: 2, 4: 2, 5: 2, 6: 5, 7: 6, 8: 2, 9: 5, 10: 6, 11: 2}
    return not available(needs[number])


def _noted(file: Path, arguments: Sequence[str] | None) -> Path:
    """The file, in a folder that is there and whose run.json says when, how and on what the file was made."""
    command = _without_out(sys.argv[1:] if arguments is None else arguments)
    path = RESULTS / "run.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found[file.name] = {**record(("mho", "torch", "numba", "numpy"), command), "threads": torch.get_num_threads()}
    write_json(found, path)
    return file


def _without_out(arguments: Sequence[str]) -> str:
    """The command, but for --out: a folder of the machine that ran it, which changes no number."""
    left = [given for given in arguments if not given.startswith("--out=")]
    while "--out" in left:
        del left[left.index("--out") : left.index("--out") + 2]
    return " ".join(["benchmarks/paper.py", *left])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, `table` and `figure` as the numbers that are wanted."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("--table", type=numbers([*TABLES, *ATTACKS]), help="numbers of tables, separated by commas")
    parser.add_argument("--figure", type=numbers(range(1, 12)), help="numbers of figures, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder for tables, figures and cells")
    parser.add_argument("--runs", type=int, default=20, help="inferences of each sample, and votes")
    parser.add_argument("--images", type=int, default=10_000, help="samples of the cells that a table states")
    parser.add_argument("--quick", type=int, default=1000, help="samples of the votes of Figure 11 beyond --runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--anew", action="store_true", help="measure what docs/results/paper has, too")
    parser.add_argument("--precision", default="float32", help="of --train: float32 or bfloat16")
    parser.add_argument("--train", action="store_true", help="train what is missing first: hours to days on a CPU")
    parser.add_argument(
        "--chips",
        action="store_true",
        help="measure what is missing of networks on chips",
    )
    parser.add_argument("--page", action="store_true", help="write docs/paper.md and its tables and pictures too")
    parser.add_argument("--claims", action="store_true", help="write docs/claims.md from what has been measured")
    parser.add_argument(
        "--html", type=Path, help="write a page for a browser from docs/results/paper: measures nothing"
    )
    options = parser.parse_args(arguments)
    for name in ("runs", "images", "quick"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    everything = options.table is None and options.figure is None
    if options.page and not everything:
        parser.error("--page needs all tables and figures, leave --table and --figure out")
    if options.claims and (options.page or options.chips or not everything):
        parser.error("--claims reads what has been measured, leave --page, --chips, --table and --figure out")
    if options.chips and (options.page or not everything):
        parser.error("--chips measures chips alone, leave --table, --figure and --page out")
    if options.page:
        for why in [without_data(number) for number in TABLES if number != 4 and not untrained(number)]:
            if why:
                parser.error(f"--page needs the data of all trained networks: {why}")
    options.table = list(TABLES) if everything else options.table or []
    options.figure = list(range(1, 12)) if everything else options.figure or []
    return options


def _train(options: argparse.Namespace, arguments: Sequence[str] | None) -> None:
    """Train what the wanted tables, figures or chips need and is not there."""
    runs, how = options.out / "train", ["--device", options.device, "--precision", options.precision]
    if options.chips:
        train_like(runs, how)
        return
    for number in sorted({PAPER[n].get("of", n) for n in options.table if n in TABLES} & set(ACCURACIES)):
        train_missing(number, runs, how)
        if number == 2:
            train_by_protocol(runs, how)
    if 3 in options.figure:
        trained_curves(runs, how).to_csv(_noted(CURVES, arguments), index=False)


def _keep(tables: dict[int, pd.DataFrame], figures: list[int], out: Path, arguments: Sequence[str] | None) -> None:
    """Put what the page shows where it is committed."""
    for number, found in tables.items():
        found.to_csv(RESULTS / f"table_{number}.csv", index=False)
    for number in figures:
        (IMAGES / f"paper_figure_{number}.png").write_bytes((out / f"figure_{number}.png").read_bytes())
    if {4, 5} <= set(figures):
        answers().to_csv(_noted(RESULTS / "outputs.csv", arguments), index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.claims:
        found = claims.verdicts(Ledger.read(RESULTS, TABLES_11, COSTS))
        CLAIMS.write_text(claims.page(found), encoding="utf-8")
        print(found["verdict"].value_counts().to_string(), f"\n{CLAIMS}")
        return 0
    if options.html is not None:
        web_page(RESULTS, IMAGES).write(options.html)
        print(f"to look at in a browser: {options.html.resolve()}")
        return 0
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.train:
        _train(options, arguments)
    if options.chips:
        for model in physical.STUDIES:
            if options.anew or not _chips_of(model).is_file():
                found = physical.measure(model, out / "chips" / model, options.images, 3, options.runs, jobs=2)
                found.to_csv(_noted(_chips_of(model), arguments), index=False, float_format="%.6g")
            else:
                print(f"{model}: as in {_chips_of(model).name}, whatever --images and --runs; --anew measures it anew")
        print(physical.markdown(_on_chips()))
        return 0
    known = {} if options.anew else read_cells(CELLS)
    stated = Measurement(options.runs, options.images, options.device, out / "cells", known)
    grid = Grid.of(stated, options.quick)
    curves = pd.read_csv(CURVES) if CURVES.is_file() else pd.DataFrame()
    tables, missing = {}, {}
    for number in options.table:
        if number in ATTACKS:
            print(f"\nTable {number}: {ATTACKS[number]}\n{attacked(number, options).to_string(index=False)}")
            continue
        print(f"\nTable {number}: {PAPER[number]['title']}")
        if why := available(number):
            missing[number] = why
            print(f"not made: {why}")
            continue
        tables[number] = table(grid, number, curves)
        write_table(tables[number], out / f"table_{number}")
        print(markdown(number, tables[number]))
    figures = [number for number in options.figure if drawable(number)]
    for number in figures:
        figure = learning_curves(curves) if number == 3 else FIGURES[number](grid)
        figure.savefig(out / f"figure_{number}.png", dpi=100)
        print(f"figure {number}: {out / f'figure_{number}.png'}")
    if options.page:
        again = seeds.measured(grid)
        write_cells(stated.used, _noted(CELLS, arguments))
        _keep(tables, figures, out, arguments)
        again.to_csv(RESULTS / "seeds.csv", index=False)
        PAGE.write_text(page(grid, tables, missing, figures, _on_chips(), again), encoding="utf-8")
    return 0

"""`benchmarks/paper.py`: cells measured once, tables beside the paper's, its figures, what is not trained said so."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import mho
from mho.models.attacks import Pgd

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ["--runs", "2", "--images", "24", "--quick", "12"]


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with two trained networks and few noises."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    cells, tables, figures, notes, page, script = (
        importlib.import_module(f"paper.{part}") for part in ("cells", "tables", "figures", "notes", "page", "main")
    )
    found = {"mult": ["sigma-0.0", "sigma-0.5"], "add": ["add-sigma-0.5"]}
    for module in (cells, tables, figures, notes, page, script):
        known = lambda network, noise: found[noise] if network == "mnist_cnn" else []  # noqa: E731
        monkeypatch.setattr(module, "trained", known)
    monkeypatch.setattr(figures, "SHOWN_RUNS", 20)
    monkeypatch.setattr(figures, "MANY_VOTES", 4)
    return script


def test_tables_and_figures(paper: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "paper")]
    assert paper.main([*out, *TINY, "--table", "2,3,4,6,7", "--figure", "2,5,11"]) == 0
    said = capsys.readouterr().out
    assert "| trained without noise, paper | 99.5 | 99.3 | 93.5 | 65.7 | 38.8 | 21.1 |" in said
    assert "not made: no trained weights of stroke_lstm yet" in said
    table = pd.read_parquet(tmp_path / "paper" / "table_2.parquet")
    assert list(table["sigma_val"]) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert table["best"].between(0, 100).all()
    assert set(table["by"]) <= {0.0, 0.5}
    additive = pd.read_csv(tmp_path / "paper" / "table_3.csv")
    assert additive["clean"].isna().all()
    rms = pd.read_csv(tmp_path / "paper" / "table_4.csv").set_index("sigma_train")["rms"]
    assert rms.notna().sum() == 2
    for number in (2, 5, 11):
        assert (tmp_path / "paper" / f"figure_{number}.png").stat().st_size > 10_000
    assert paper.main([*out, *TINY, "--table", "2,7"]) == 0
    assert "runs of" not in capsys.readouterr().out  # nothing is measured twice


def test_legends_hide_no_points(paper: ModuleType, tmp_path: Path) -> None:
    known = paper.read_cells(paper.CELLS)
    figure = paper.FIGURES[2](paper.Grid.of(paper.Measurement(20, 10_000, "cpu", tmp_path, known), 1000))
    figure.draw_without_rendering()
    for axis in figure.axes:
        assert not axis.get_legend().get_window_extent().overlaps(axis.get_window_extent())


def test_the_page(paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE", "RESULTS", "IMAGES", "CURVES", "CELLS"):
        monkeypatch.setattr(paper, name, tmp_path / name)
    (tmp_path / "IMAGES").mkdir()
    assert paper.main(["--out", str(tmp_path / "paper"), *TINY, "--page"]) == 0
    text = (tmp_path / "PAGE").read_text(encoding="utf-8")
    assert "## Table 6: Multiplicative noise, MNIST strokes\n\nNot made: no trained weights of stroke_lstm yet." in text
    assert "Not drawn, since what they show is not trained yet: Figure 3, 6, 7, 9, 10." in text
    assert "Below the paper's: " in text
    assert "Without noise one inference of the best network is right for " in text
    for picture in (2, 4, 5, 8, 11):
        assert f"images/paper_figure_{picture}.png" in text
        assert (tmp_path / "IMAGES" / f"paper_figure_{picture}.png").is_file()
    made = {path.name for path in (tmp_path / "RESULTS").iterdir()}
    assert made == {"run.json", "outputs.csv", "seeds.csv", *(f"table_{n}.csv" for n in (2, 3, 4, 7))}
    assert set(pd.read_csv(tmp_path / "RESULTS" / "outputs.csv")["weights"]) == {"sigma-0.0", "sigma-1.0"}
    noted = json.loads((tmp_path / "RESULTS" / "run.json").read_text(encoding="utf-8"))["CELLS"]
    assert noted["command"] == f"benchmarks/paper.py {' '.join(TINY)} --page"
    assert paper._without_out(["--out=here", "--page", "--out", "there"]) == "benchmarks/paper.py --page"
    assert len(pd.read_parquet(tmp_path / "CELLS")) > 0


def test_no_page_without_the_data(
    paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page that lacks tables for want of data would take the place of one that has them."""

    def no_data(network: str) -> None:
        raise FileNotFoundError("MNIST: no files")

    monkeypatch.setattr(paper, "PAGE", tmp_path / "PAGE")
    monkeypatch.setattr(paper, "test_set", no_data)
    with pytest.raises(SystemExit):
        paper.main(["--out", str(tmp_path / "paper"), *TINY, "--page"])
    assert "--page needs the data of all trained networks: MNIST: no files" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_vote_of_one_is_the_inference(paper: ModuleType, tmp_path: Path) -> None:
    cells = importlib.import_module("paper.cells")
    table = cells.Measurement(3, 40, "cpu", tmp_path).cell(cells.Cell("mnist_cnn", "sigma-0.5", 0.6))
    assert list(table["k"]) == [1, 2, 3]
    first = table.iloc[0]
    assert first["single"] == first["hard"] == first["soft"]
    clean = cells.Measurement(3, 40, "cpu", tmp_path).cell(cells.Cell("mnist_cnn", "sigma-0.5", 0.0))
    assert len(clean) == 1


def test_cells_that_were_measured_elsewhere(paper: ModuleType, tmp_path: Path) -> None:
    cells = importlib.import_module("paper.cells")
    cell, file = cells.Cell("mnist_cnn", "sigma-0.5", 0.6), tmp_path / "cells.parquet"
    assert cells.read_cells(file) == {}
    first = cells.Measurement(2, 8, "cpu", tmp_path / "first")
    table = first.cell(cell)
    cells.write_cells(first.used, file)
    second = cells.Measurement(2, 8, "cpu", tmp_path / "second", cells.read_cells(file))
    pd.testing.assert_frame_equal(second.cell(cell), table)
    assert not (tmp_path / "second").exists()
    assert second.used.keys() == first.used.keys()


def test_a_slow_network_is_measured_less(paper: ModuleType) -> None:
    cells, tables = importlib.import_module("paper.cells"), importlib.import_module("paper.tables")
    grid = tables.Grid.of(cells.Measurement(20, 10_000, "cpu", Path("unused")), 1000)
    sizes = [part.size("densenet40") for part in (grid.quick, grid.single, grid.voted)]
    assert sizes == [(20, 250), (1, 10_000), (20, 2000)]
    assert {part.size("mnist_cnn") for part in (grid.single, grid.voted)} == {(20, 10_000)}
    assert grid.quick.size("mnist_cnn") == (20, 1000)
    small = tables.Grid.of(cells.Measurement(3, 40, "cpu", Path("unused")), 8)
    assert [part.size("densenet40") for part in (small.quick, small.single, small.voted)] == [(3, 8), (1, 40), (3, 40)]


def test_of_few_samples_the_close_ones_are_measured_again(paper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, tables = importlib.import_module("paper.cells"), importlib.import_module("paper.tables")
    shares = {"sigma-0.0": (0.5, 0.9), "sigma-0.8": (0.708, 0.697), "sigma-1.0": (0.71, 0.684)}  # of few, of many
    asked = []

    def cell(self: object, of: object) -> pd.DataFrame:
        many = self.size("densenet40")[1] > 250  # type: ignore[attr-defined]
        asked.extend([of.weights] * many)  # type: ignore[attr-defined]
        return pd.DataFrame({"single": [shares[of.weights][many]], "hard": shares[of.weights][many]})  # type: ignore[attr-defined]

    monkeypatch.setattr(tables, "trained", lambda network, noise: list(shares))
    monkeypatch.setattr(cells.Measurement, "cell", cell)
    grid = tables.Grid.of(cells.Measurement(20, 10_000, "cpu", Path("unused")), 1000)
    assert grid.best("densenet40", "mult", 0.8, voted=False) == "sigma-0.8"
    assert asked == ["sigma-0.8", "sigma-1.0"]
    assert grid.best("densenet40", "mult", 0.8, voted=True) == "sigma-1.0"


def test_weights_with_dropout_are_a_row_of_their_own(paper: ModuleType) -> None:
    """They are no weights without noise, which claims and curves average."""
    cells, tables = importlib.import_module("paper.cells"), importlib.import_module("paper.tables")
    cell = cells.Cell("densenet40", "dropout-0.2", 0.4)
    assert (cell.noise, cell.sigma_train) == ("dropout", 0.0)
    assert "dropout-0.2" not in cells.trained("densenet40", "mult")
    assert cells.otherwise_trained("densenet40", "mult") == {"dropout": ["dropout-0.2"]}
    assert cells.otherwise_trained("densenet40", "add") == {}
    committed = pd.read_csv(BENCHMARKS.parent / "docs" / "results" / "paper" / "table_5.csv")
    assert "without noise but with dropout, Mho | 92.28" in tables.markdown(5, committed)


def test_weights_by_the_papers_protocol_have_rows_of_their_own(
    paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, tables = importlib.import_module("paper.cells"), importlib.import_module("paper.tables")
    there = ["glorot-sigma-1.0", "glorot-sigma-0.0", "sigma-0.5", "add-sigma-0.5"]
    monkeypatch.setattr(cells, "names", lambda network: there)
    by_protocol = cells.otherwise_trained("mnist_cnn", "mult")
    assert by_protocol == {"protocol": ["glorot-sigma-0.0", "glorot-sigma-1.0"]}
    assert cells.otherwise_trained("mnist_cnn", "add") == {}
    cell = cells.Cell("mnist_cnn", "glorot-sigma-1.0", 0.4)
    assert (cell.noise, cell.sigma_train) == ("protocol", 1.0)
    accuracy = {"glorot-sigma-0.0": 0.4, "glorot-sigma-1.0": 0.6, "sigma-0.0": 0.9, "sigma-0.5": 0.8}

    def measured(self: object, cell: object) -> pd.DataFrame:
        share = accuracy[cell.weights] + (0.5 if cell.sigma_val == 0 and cell.weights == "glorot-sigma-0.0" else 0)
        return pd.DataFrame({"single": [share], "hard": share, "low": share - 0.01, "high": share + 0.01})

    monkeypatch.setattr(cells.Measurement, "cell", measured)
    monkeypatch.setattr(tables, "COMPLETE", ())
    grid = tables.Grid.of(cells.Measurement(1, 10, "cpu", tmp_path), 10)
    found = tables.accuracies(grid, 2)
    assert found["protocol"].round().tolist() == [90, *[40] * 5]
    assert found["protocol_best"].round().tolist() == [90, *[60] * 5]
    assert found["protocol_by"].tolist() == [0.0, *[1.0] * 5]
    assert found["best"].round().tolist() == [90] * 6
    text = tables.markdown(2, found)
    begun = "| trained without noise, the paper's protocol begun as Keras does, Mho |"
    assert f"{begun} 90.00 ± 1.00 | 40.00 ± 1.00" in text
    assert "| best of that protocol, Mho | 90.00 ± 1.00 | 60.00 ± 1.00" in text
    assert "| sigma_train of the best of that protocol, Mho | 0.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 |" in text
    notes = importlib.import_module("paper.notes")
    monkeypatch.setattr(notes, "record_of", lambda network, name: {"recipe": {"epochs": 30}})
    said = notes.REASONS[2](found)
    assert "has 30 of its 100 epochs" in said
    assert "The best of that protocol is within 39.5 points of the paper's; below it: 90.00 for 99.6" in said


def test_which_samples_are_right_is_kept(paper: ModuleType, tmp_path: Path) -> None:
    cells = importlib.import_module("paper.cells")
    table = cells.Measurement(3, 41, "cpu", tmp_path).cell(cells.Cell("mnist_cnn", "sigma-0.5", 0.9))
    assert table["right"].notna().tolist() == [True, False, True]
    for row in (table.iloc[0], table.iloc[2]):
        bits = np.unpackbits(np.frombuffer(row["right"], np.uint8), count=41)
        assert bits.mean() == pytest.approx(row["hard"])


def test_a_complete_table_is_not_raised_by_the_choice(paper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, tables = importlib.import_module("paper.cells"), importlib.import_module("paper.tables")
    rng = np.random.default_rng(0)
    bits = {f"sigma-{s}": rng.random(1000) < 0.7 for s in (0.0, 0.5, 1.0)}  # none is better than another
    made = {
        name: pd.DataFrame(
            {"single": [b.mean()], "hard": [b.mean()], "images": 1000, "right": [np.packbits(b).tobytes()]}
        )
        for name, b in bits.items()
    }
    monkeypatch.setattr(tables, "COMPLETE", ("mnist_cnn",))
    monkeypatch.setattr(tables, "trained", lambda network, noise: list(made))
    monkeypatch.setattr(cells.Measurement, "cell", lambda self, cell: made[cell.weights])
    grid = tables.Grid.of(cells.Measurement(1, 1000, "cpu", Path("unused")), 10)
    best = grid.best("mnist_cnn", "mult", 0.4, voted=False)
    assert best == max(bits, key=lambda name: bits[name].mean())
    found = grid.crossed("mnist_cnn", "mult", 0.4, voted=False)
    even, odd = (max(bits, key=lambda name: bits[name][half::2].mean()) for half in (0, 1))
    assert found["crossed"] == pytest.approx(0.1 * (bits[even][1::2].sum() + bits[odd][::2].sum()))
    assert found["crossed_low"] < found["crossed"] < found["crossed_high"]
    bits["sigma-0.0"][:] = True  # against it all lose
    made["sigma-0.0"].loc[0, ["single", "right"]] = [0.0, np.packbits(bits["sigma-0.0"]).tobytes()]
    assert grid.crossed("mnist_cnn", "mult", 0.4, voted=False)["against"] < 1e-6
    assert tables.Grid.crossed(grid, "densenet40", "mult", 0.4, voted=False) == {}


def test_cells_below_the_papers_are_named(paper: ModuleType) -> None:
    tables = importlib.import_module("paper.tables")
    found = pd.DataFrame({"sigma_val": [0.0, 0.2, 0.4], "voted": [99.6, 99.56, 99.54], "paper_voted": 99.6})
    assert tables.below(7, found) == ["99.54 for 99.6 at sigma_val 0.4"]

    found = pd.DataFrame({"sigma_val": [0.0, 0.2], "clean": [99.6, 98.0], "paper_clean": 99.0, "best": 99.6})
    assert tables.below(2, found, "clean") == ["98.00 for 99.0 at sigma_val 0.2"]
    assert tables.at_most_apart(found, "clean", "paper_clean") == "1.0"


def test_notes_say_why_ours_is_below_the_papers(paper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epochs with noise are those of the whole way to the weights; votes are held against the same weights."""
    notes = importlib.import_module("paper.notes")
    first = {"recipe": {"epochs": 26, "sigma_train": 0.0}}
    second = {"recipe": {"epochs": 1, "sigma_train": 0.6}, "from": first}
    third = {"recipe": {"epochs": 2, "sigma_train": 1.0}, "from": second}
    assert [notes.epochs_of_noise(record) for record in (first, second, third)] == [0, 1, 3]
    known = {"sigma-0.0": first, "sigma-0.6": second, "sigma-1.0": third}
    records = {name: record | {"test_accuracy": 0.9} for name, record in known.items()}
    monkeypatch.setattr(notes, "record_of", lambda network, name: records[name])
    monkeypatch.setattr(notes, "trained", lambda network, noise: list(records))
    apart = pd.DataFrame({"dropout": [92.0, 20.0], "paper_clean": [92.5, 26.0]})
    said = notes.REASONS[5](apart)
    assert "ours had 1 to 3 epochs with noise" in said
    assert "to 6.0 points from it at most" in said
    said = notes.REASONS[8](pd.DataFrame({"by": [0.0, 0.6, 1.0], "voted": [92.0, 89.5, 88.8]}))
    assert "right for 90.0, 90.0 % (sigma_train 0.6, 1.0), and votes come within 1.2 points" in said


def test_a_bin_without_an_inference_has_no_line(paper: ModuleType) -> None:
    figures = importlib.import_module("paper.figures")
    shares = figures.answers(("sigma-0.0",)).groupby("sigma_val")["share"].sum()
    assert shares.to_numpy() == pytest.approx(1.0)
    figure = figures.outputs("sigma-0.0")
    for axis in figure.axes:
        heights = np.concatenate([patch.get_data().values for patch in axis.patches])
        assert np.nanmin(heights) >= 1 / figures.SHOWN_RUNS
        assert np.isnan(heights).any()


def test_networks_on_chips(
    paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row per chip and weights, as the sweep has them; `--page` shows them."""
    study = paper.physical.Study("mnist", ("sigma-0.5",), exact=((0.4, "sigma-0.4"),))
    monkeypatch.setattr(paper.physical, "STUDIES", {"mnist_cnn": study})
    monkeypatch.setattr(paper.physical, "LOW_V", {"reram": 2e-3})
    monkeypatch.setattr(paper, "RESULTS", tmp_path)
    asked = ["--chips", "--images", "20", "--runs", "3", "--out", str(tmp_path / "paper")]
    assert paper.main(asked) == 0
    printed = capsys.readouterr().out
    assert "| mnist_cnn | reram, 2 mV | sigma-0.5 |" in printed
    assert "| mnist_cnn | exact mode, sigma_mult 0.4 | sigma-0.4 |" in printed
    table = pd.read_csv(tmp_path / "chips_mnist_cnn.csv")
    assert list(table["v_read"]) == [0.2] * 2 + [0.002] * 2 + [0.2]
    assert list(table["weights"]) == ["sigma-0.5", "like-reram-low"] * 2 + ["sigma-0.4"]
    sweep = pd.read_parquet(tmp_path / "paper" / "chips" / "mnist_cnn" / "results.parquet")
    chosen = sweep[(sweep["weights"] == "sigma-0.5") & (sweep["sensing.v_read"] == 0.002)]
    for way, rule, column in (("single", "hard", "single"), ("hard", "hard", "voted"), ("soft", "soft", "voted")):
        mean = 100 * chosen[chosen["rule"] == rule][column].mean()
        assert table.loc[2, way] == pytest.approx(mean, rel=1e-4)
    grid = paper.Grid.of(paper.Measurement(3, 20, "cpu", tmp_path), 20)
    text = paper.page(
        grid, {}, dict.fromkeys(paper.TABLES, "asked for no table"), [], table, pd.DataFrame({"seed": []})
    )
    assert "## Beyond the paper" in text
    assert paper.main([*asked, "--runs", "2"]) == 0  # what was measured before is not measured again
    printed = capsys.readouterr().out
    assert "mnist_cnn: as in chips_mnist_cnn.csv, whatever --images and --runs; --anew measures it anew\n" in printed
    assert "sigma_mult 0.4" in printed
    assert list(pd.read_csv(tmp_path / "chips_mnist_cnn.csv")["votes"]) == [3] * 5
    table["soft"] = float("nan")
    assert " |  | " in paper.physical.markdown(table)  # no such rule, no number


def test_the_tables_of_attacks(
    paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = mho.models.mnist_cnn("sigma-0.5")
    monkeypatch.setitem(paper.attacks.PAIRS, "mnist", paper.attacks.Pair(lambda: net, lambda: net))
    monkeypatch.setitem(paper.attacks.TABLE_10, "mnist", Pgd(epsilon=0.1, step=0.05, iterations=2, restarts=1))
    assert paper.main(["--table", "10,11", "--images", "8", "--runs", "2", "--out", str(tmp_path)]) == 0
    assert "Table 11: Accuracy under black-box attack" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "table_11.csv")["sigma"]) == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert list(pd.read_csv(tmp_path / "table_10.csv")["data"]) == ["mnist", "cifar10"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "12"], "numbers of 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, got '12'"),
        (["--figure", "x"], "numbers of 1, 2, 3"),
        (["--runs", "0"], "--runs must be at least 1, got 0"),
        (["--chips", "--table", "2"], "--chips measures chips alone"),
        (["--page", "--table", "2"], "--page needs all tables and figures"),
    ],
)
def test_bad_input(
    paper: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        paper.main([*arguments, "--out", str(tmp_path / "paper")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "paper").exists()


def test_the_page_for_a_browser_is_of_what_is_committed(
    paper: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "paper.html"
    assert paper.main(["--html", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 20e6
    assert all(f"<h2>Table {number}</h2>" in text for number in range(2, 10))
    table = pd.read_csv(paper.RESULTS / "table_2.csv")
    row = table[table["sigma_val"] == 1.0].iloc[0]
    assert f"<td>{row['best']:.2f} ± {row['best_half']:.2f}</td>" in text
    assert text.count('<img src="data:image/png;base64,') == 11
    assert "mnist_cnn, additive noise" in text
    assert 'src="http' not in text  # nothing is loaded from elsewhere
    assert paper.main(["--html", str(tmp_path / "paper.html")]) == 0  # again, over the old one
    with pytest.raises(ValueError, match=r"ends in \.html"):
        paper.main(["--html", str(tmp_path / "paper.pdf")])


def test_the_page_for_a_browser_from_what_is_committed(paper: ModuleType) -> None:
    docs = Path(__file__).parents[1] / "docs"
    text = str(importlib.import_module("paper.web").web_page(docs / "results" / "paper", docs / "images"))
    assert "<td>99.72<br>(99.60 to 99.81)</td>" in text  # two lines: the table is no wider than the page
    assert text.count('<img src="data:image/png') == 11
    assert "<p><img" not in text  # as wide as text, figures of three panels cannot be read

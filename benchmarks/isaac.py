"""The tile of ISAAC from its own constants: power and area by component and peak efficiency, beside what it states.

    python benchmarks/isaac.py [--out runs/isaac]

Prints the table and writes it as CSV. What differs, and where the source disagrees with itself: docs/cost.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import mho
from mho.mapping.architecture.cost import peak

SOURCE = Path(__file__).with_name("isaac.yaml")


def compare() -> pd.DataFrame:
    """A row per figure: what it is, its unit, as published, as modelled, and their ratio."""
    text = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    stated: dict[str, Any] = text["published"]
    tile = peak(mho.Hardware.model_validate(text["hardware"]), tiles=stated["arrays"])
    rows = []
    for part in (*(part for part in tile.index if part in stated and part != "total"), "total"):
        rows.append((part, "mW", stated[part]["power"], 1e3 * tile.loc[part, "power_w"]))
        rows.append((part, "mm2", stated[part]["area"], 1e6 * tile.loc[part, "area_m2"]))
    gops = 1e-9 * tile.attrs["operations_per_s"] * stated["tiles"]
    links = {kind: stated["chip"][kind] - stated["tiles"] * stated["total"][kind] for kind in ("power", "area")}
    watts = 1e-3 * links["power"] + stated["tiles"] * tile.loc["total", "power_w"]
    area = links["area"] + stated["tiles"] * 1e6 * tile.loc["total", "area_m2"]
    rows += [
        ("chip", "GOPS/mm2", stated["gops_per_mm2"], gops / area),
        ("chip", "GOPS/W, from its power", gops / (1e-3 * stated["chip"]["power"]), gops / watts),
        ("chip", "GOPS/W, as stated", stated["gops_per_w"], gops / watts),
    ]
    table = pd.DataFrame(rows, columns=["figure", "unit", "published", "modelled"])
    return table.assign(ratio=table["modelled"] / table["published"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/isaac"), help="folder for the table")
    out: Path = parser.parse_args(arguments).out
    table = compare()
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "isaac.csv", index=False)
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

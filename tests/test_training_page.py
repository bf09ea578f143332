"""The example of docs/training.md runs, and wins what the page says."""

import re
from pathlib import Path

TEXT = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")


def test_training_through_a_chip() -> None:
    codes = [found for found in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "mho.trainable" in found]
    names: dict = {}
    exec("\n".join(codes), names)
    assert 0.55 < min(names["before"]) < 0.7
    assert min(names["after"]) > 0.75
    assert float(names["net"][0].weight.abs().max()) < 3 * float(names["net"][0].weight.std())  # clipped

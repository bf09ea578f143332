"""Runs the Python blocks of pages: `python docs/pages.py PAGE ...`; `--write` renews the outputs that they show.

The blocks of a page run in their order, share their names, and run in a process and a folder of the page's own. A block
whose first line is

- `# name.py` is that file, which other blocks import; entry points in a ```toml block are installed with it;
- `# not run: REASON` is not run, and its reader sees why.

An ```output block behind a Python block is what that block prints. Words must be equal. Numbers may be 5 % off, or one
in the last digit: sums of torch differ with the processor. After a training they differ more: with ```output within=3
each number may be 3 off.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import re
import sys
import tempfile
import traceback
import types
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

DOCS = Path(__file__).parent
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(\n*```output(?: within=([\d.]+))?\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
TOML = re.compile(r"^```toml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.py)\n")
NOT_RUN = re.compile(r"# not run: (\S.*)\n")
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
SOON = ["torch", "pandas", "mho.mapping.convert", "mho.mapping.voting.votes", "mho.crossbar.backends.compiled"]


class Block(NamedTuple):
    """A Python block: its code, its first line in the page, and what the page says that it prints."""

    code: str
    line: int
    within: float
    output: str | None


def pages() -> list[Path]:
    """Those with Python blocks."""
    return [
        page
        for page in (DOCS.parent / "README.md", *sorted(DOCS.glob("[!_]*.md")), *sorted(DOCS.glob("tutorials/*.md")))
        if blocks(page.read_text("utf-8"))
    ]


def blocks(text: str) -> list[Block]:
    return [
        Block(match[1], text[: match.start(1)].count("\n"), float(match[3] or 0), match[4])
        for match in BLOCK.finditer(text)
    ]


def run(page: Path) -> tuple[list[str | None], float]:
    """What each block of a page prints, None for those that are not run; and seconds of processors.

    Raises:
        RuntimeError: with the traceback of a block that fails.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SOON)  # imported once, for all pages
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(page, theirs))
    process.start()
    theirs.close()
    try:
        failure, printed, seconds = ours.recv()
    except EOFError:
        failure, printed, seconds = f"{page}: the process ended\n", [], 0.0
    process.join()
    if failure:
        raise RuntimeError(failure)
    return printed, seconds


def _run(page: Path, answer) -> None:
    printed: list[str | None] = []
    try:
        text = page.read_text("utf-8")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            os.chdir(folder)
            os.environ.update(PYTHONPATH=folder, MHO_DATA=folder, MPLBACKEND="Agg", COLUMNS="100")
            sys.path.insert(0, folder)
            _install(text, Path(folder))
            torch.set_num_threads(1)  # for networks as small as these two are slower, and more so on a busy machine
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            warnings.simplefilter("error")
            warnings.simplefilter("default", UserWarning)  # what Mho has to say of networks and hardware
            for code, line, *_ in blocks(text):
                skipped, out = NOT_RUN.match(code), io.StringIO()
                if not skipped and not FILE.match(code):
                    with contextlib.redirect_stdout(out):
                        exec(compile("\n" * line + code, str(page), "exec"), main.__dict__)
                printed.append(None if skipped else out.getvalue())
            os.chdir("/")
        _end_workers()
        answer.send((None, printed, _seconds()))
    except BaseException:
        answer.send((traceback.format_exc(), printed, _seconds()))


def _end_workers() -> None:
    """Those that joblib keeps for later, which the end of this process would wait for."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    if loky is not None and loky._executor is not None:
        loky._executor.shutdown(kill_workers=True)


def _seconds() -> float:
    """Of processors, of this process and those that it has waited for."""
    return sum(os.times()[:4])


def _install(text: str, folder: Path) -> None:
    """The files and entry points of a page, as of an installed package."""
    for code, *_ in blocks(text):
        if file := FILE.match(code):
            (folder / file[1]).write_text(code, "utf-8")
    points = [found for found in TOML.findall(text) if "[project.entry-points" in found]
    for number, found in enumerate(points):
        info = folder / f"page{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: page{number}\nVersion: 1.0\n")
        named = found.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
        (info / "entry_points.txt").write_text(named)


def same(shown: str, printed: str, within: float = 0.0) -> bool:
    """Whether the words are equal and the numbers nearly so."""
    if [NUMBER.sub("#", line).split() for line in shown.splitlines()] != [
        NUMBER.sub("#", line).split() for line in printed.splitlines()
    ]:
        return False
    return all(_near(a, b, within) for a, b in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True))


def _near(a: str, b: str, within: float) -> bool:
    x, y = float(a.replace(",", "")), float(b.replace(",", ""))
    digits = re.split("e", a)[0].partition(".")[2]
    unit = 10.0 ** -len(digits) * (10 ** float(a.split("e")[1]) if "e" in a else 1)
    return abs(x - y) <= max(1.001 * unit, 0.05 * abs(x), within)


def differences(page: Path, printed: list[str | None]) -> list[str]:
    """What a page shows otherwise than it is printed."""
    found = []
    for block, out in zip(blocks(page.read_text("utf-8")), printed, strict=True):
        if block.output is not None and not same(block.output, out or "", block.within):
            found.append(f"{page.name}:{block.line}: shows\n{block.output}but prints\n{out}")
    return found


def write(page: Path, printed: list[str | None]) -> None:
    """Puts what was printed into the ```output blocks."""
    outputs = iter(printed)

    def renewed(match: re.Match[str]) -> str:
        out = next(outputs)
        fence = f"```output within={match[3]}" if match[3] else "```output"
        return f"```python\n{match[1]}```\n\n{fence}\n{out}```\n" if match[2] else match[0]

    page.write_text(BLOCK.sub(renewed, page.read_text("utf-8")), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="renew the ```output blocks")
    asked = parser.parse_args()
    this = importlib.import_module("pages")  # so that it is found by the processes
    failed = False
    for page in [given.resolve() for given in asked.pages] or this.pages():
        try:
            printed, seconds = this.run(page)
        except RuntimeError as error:
            print(f"{page.name}: {error}")
            failed = True
            continue
        if asked.write:
            write(page, printed)
        print(f"{page.name}: {len(printed)} blocks, {seconds:.1f} s of processors", flush=True)
        for found in this.differences(page, printed):
            print(found)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()

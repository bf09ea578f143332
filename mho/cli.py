"""The command line `mho`: its commands, and one-line answers to bad input.

A new command is a plain function in `commands/` that imports what it needs inside its body, and a line in `COMMANDS`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import typer

from .commands.attack import attack
from .commands.demo import demo
from .commands.devices import devices
from .commands.map import map
from .commands.optimize import optimize
from .commands.schedule import schedule
from .commands.sweep import sweep
from .commands.train import train
from .commands.vote import vote

COMMANDS: dict[str, Callable[..., None]] = {
    "attack": attack,
    "demo": demo,
    "devices": devices,
    "map": map,
    "optimize": optimize,
    "schedule": schedule,
    "sweep": sweep,
    "train": train,
    "vote": vote,
}

USAGE_ERRORS = typer.BadParameter.__mro__[:3]  # BadParameter, UsageError, ClickException: of click, or typer's own
EXPECTED_ERRORS: tuple[type[BaseException], ...] = (*USAGE_ERRORS, ValueError, OSError)

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def face(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    """Trained networks on simulated analog crossbars.

    Bad input is answered by one line and exit code 2; MHO_TRACEBACK=1 shows where it came from.
    """
    if version:
        from . import __version__

        typer.echo(f"mho {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def describe(error: BaseException) -> str:
    """An expected error in one line.

    An error of pydantic names the dotted path, the value and what is wrong with it; one of the system, the file.
    """
    from pydantic import ValidationError

    from .devices.config import faults

    if isinstance(error, ValidationError):
        text = faults(error)
    elif isinstance(error, USAGE_ERRORS):
        text = error.format_message()  # type: ignore[attr-defined]
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(line.strip() for line in text.splitlines())


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run `app` on `arguments` (default: those of the process) and return its exit code.

    Expected errors become one line on standard error and exit code 2, Ctrl-C one line and exit code 130. Any other
    error is a mistake of ours and keeps its traceback, as all do with MHO_TRACEBACK=1.
    """
    try:
        code = app(args=arguments, prog_name="mho", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except EXPECTED_ERRORS as error:
        if os.environ.get("MHO_TRACEBACK") == "1":
            raise
        print(f"mho: error: {describe(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if code == EXIT_INTERRUPTED:
        print("mho: interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point of the command `mho`."""
    sys.exit(run(app))

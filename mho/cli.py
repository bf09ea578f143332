"""The command line `mho`: its commands, and one-line answers to bad input.

A new command is a plain function in `commands/` that imports what it needs inside its body, and a line in `COMMANDS`.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence

import typer

from .commands.attack import attack
from .commands.demo import demo
from .commands.devices import devices
from .commands.explain import explain
from .commands.export import export
from .commands.import_ import import_
from .commands.map import map
from .commands.optimize import optimize
from .commands.report import report
from .commands.schedule import schedule
from .commands.sweep import sweep
from .commands.train import train
from .commands.view import view
from .commands.vote import vote

COMMANDS: dict[str, Callable[..., None]] = {
    "attack": attack,
    "demo": demo,
    "devices": devices,
    "explain": explain,
    "export": export,
    "import": import_,
    "map": map,
    "optimize": optimize,
    "report": report,
    "schedule": schedule,
    "sweep": sweep,
    "train": train,
    "view": view,
    "vote": vote,
}

USAGE_ERRORS = typer.BadParameter.__mro__[:3]  # BadParameter, UsageError, ClickException: of click, or typer's own
EXPECTED_ERRORS: tuple[type[BaseException], ...] = (*USAGE_ERRORS, ValueError, OSError)

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
STOPPING = ("SIGTERM", "SIGHUP")  # end a command as Ctrl-C does: in order, and with a line

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def face(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the versions that results depend on."),
) -> None:
    """Trained networks on simulated analog crossbars.

    Bad input is answered by one line and exit code 2; MHO_TRACEBACK=1 shows where it came from.
    """
    if version:
        from .records import version as version_of

        others = " ".join(f"{name} {version_of(name)}" for name in ("torch", "numpy", "numba"))
        typer.echo(f"mho {version_of('mho')}, python {platform.python_version()} {others}")
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
    error is a mistake of ours and keeps its traceback, as all do with MHO_TRACEBACK=1. No other code than 0 comes
    without a word on standard error.
    """
    global _stopped_by
    _stopped_by = None
    try:
        code = app(args=arguments, prog_name="mho", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # so click and rich leave
            return _refuse(error.__context__)
        if error.code in (None, 0):
            return 0
        _say(f"error: the process was ended by sys.exit({error.code!r}), which no code of Mho does")
        return EXIT_BAD_INPUT
    except EXPECTED_ERRORS as error:
        if os.environ.get("MHO_TRACEBACK") == "1":
            raise
        return _refuse(error)
    if code == EXIT_INTERRUPTED:
        _say("interrupted" if _stopped_by is None else f"ended by {_stopped_by.name}")
        return code if _stopped_by is None else 128 + _stopped_by
    return code if isinstance(code, int) else 0


def _say(text: str) -> None:
    print(f"mho: {text}", file=sys.stderr)


def _refuse(error: BaseException) -> int:
    text = describe(error)
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        lost = _output_is_lost()
        if lost or isinstance(error, BrokenPipeError):
            text = f"standard output: {os.strerror(error.errno)}"
    _say(f"error: {text}")
    return EXIT_BAD_INPUT


def _output_is_lost() -> bool:
    """Whether standard output takes nothing more (a closed pipe, a full disk); then Python shall not try at its end."""
    output = sys.__stdout__  # click and rich may have put another in its place
    if output is None:
        return False
    try:
        print(file=output, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return True
    return False


_stopped_by: signal.Signals | None = None


def _stop(number: int, frame: object) -> None:
    global _stopped_by
    _stopped_by = signal.Signals(number)
    raise KeyboardInterrupt


def main() -> None:
    """The entry point of the command `mho`."""
    faulthandler.enable()  # a crash of compiled code says so
    for name in STOPPING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    sys.exit(run(app))

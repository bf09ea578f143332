"""How the command line answers: one line for what the user can mend, a traceback for what is a mistake of ours."""

import sys
from pathlib import Path

import pydantic
import pytest
import typer

from mho.cli import COMMANDS, app, run

trial = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Converter(pydantic.BaseModel, extra="forbid"):
    bits: int = pydantic.Field(8, gt=0)


class Board(pydantic.BaseModel, extra="forbid"):
    adc: Converter
    low: float = 0.0
    high: float = 1.0

    @pydantic.model_validator(mode="after")
    def ordered(self) -> "Board":
        if self.low >= self.high:
            raise ValueError(f"low must be below high, not {self.low} and {self.high}")
        return self


@trial.command()
def board(adc: str = "{}", low: float = 0.0) -> None:
    Board.model_validate_json(f'{{"adc": {adc}, "low": {low}}}')


@trial.command()
def value(text: str) -> None:
    raise ValueError(text.replace("/", "\n  "))


@trial.command()
def read(path: Path) -> None:
    path.read_text()


@trial.command()
def interrupt() -> None:
    raise KeyboardInterrupt


@trial.command()
def leave(code: int) -> None:
    raise typer.Exit(code)


@trial.command()
def quit(code: int) -> None:
    sys.exit(code)


@trial.command()
def mistake() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["value", "k must be at least 1, not 0"], "k must be at least 1, not 0"),
        (["value", "two/lines"], "two lines"),
        (["read", "no-such-file"], "no-such-file: No such file or directory"),
        (["board", "--adc", '{"bits": 0}'], "adc.bits = 0: Input should be greater than 0"),
        (["board", "--adc", '{"bit": 4}'], "adc.bit = 4: Extra inputs are not permitted"),
        (
            ["board", "--adc", '{"bits": "few", "bit": 4}'],
            "adc.bits = 'few': Input should be a valid integer, unable to parse string as an integer; "
            "adc.bit = 4: Extra inputs are not permitted",
        ),
        (["board", "--low", "2"], "low must be below high, not 2.0 and 1.0"),
    ],
)
def test_bad_input_gets_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(trial, arguments) == 2
    assert capsys.readouterr() == ("", f"mho: error: {line}\n")


@pytest.mark.parametrize("arguments", [["vlaue"], ["value"], ["value", "a", "--colour"], ["leave", "soon"]])
def test_bad_usage_gets_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(trial, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mho: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_refuses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([name, "--no-such-option"], [name, *["nowhere"] * 9]):
        assert run(app, arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("mho: error: ")
        assert err.count("\n") == 1


def test_a_command_that_leaves_python_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(trial, ["quit", "3"]) == 2
    assert capsys.readouterr().err == ("mho: error: the process was ended by sys.exit(3), which no code of Mho does\n")
    assert run(trial, ["quit", "0"]) == 0


def test_control_c_leaves_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(trial, ["interrupt"]) == 130
    assert capsys.readouterr() == ("", "mho: interrupted\n")


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_chooses_its_exit_code(code: int) -> None:
    assert run(trial, ["leave", str(code)]) == code


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(trial, ["mistake"])


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="wrong"):
        run(trial, ["value", "wrong"])


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_goes_to_standard_output(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, arguments) == 0
    out, err = capsys.readouterr()
    assert "Usage: mho" in out
    assert err == ""

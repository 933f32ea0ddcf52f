"""A command whose parameters are the fields of a dataclass, and what of them a recipe takes."""

import dataclasses
import inspect
import re
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from keras_vit.commands.options import recipe_fields, takes


@dataclasses.dataclass(frozen=True)
class Options:
    data: str
    epochs: Annotated[int | None, typer.Option(help="Passes.")] = None
    fast: Annotated[bool, typer.Option("--quick", help="Sooner.")] = False
    rate: Annotated[float, typer.Option(help="Its peak.")] = 0.5


@takes(Options)
def command(options: Options):
    """Do it."""
    print(dataclasses.astuple(options))
    return options


def test_its_parameters_are_the_fields_in_their_order():
    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["data", "epochs", "fast", "rate"]
    assert [p.default for p in parameters.values()] == [inspect.Parameter.empty, None, False, 0.5]
    assert command.__name__ == "command" and command.__doc__ == "Do it."


def test_it_is_called_as_a_function():
    assert command("here", 3, rate=0.1) == Options("here", 3, False, 0.1)
    with pytest.raises(TypeError, match="data"):
        command()


def test_typer_reads_them():
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    result = CliRunner().invoke(app, ["there", "--epochs", "2", "--quick"])
    assert result.output == "('there', 2, True, 0.5)\n"
    shown = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert re.search(r"--epochs \S+ Passes\. --quick Sooner\. --rate \S+ Its peak\. \[default: 0\.5\]", shown)


def test_a_recipe_takes_the_fields_that_both_have():
    @dataclasses.dataclass
    class Recipe:
        epochs: int = 1
        rate: float = 1.0
        seed: int = 0

    options = Options("here", None, rate=2.0)
    assert recipe_fields(options, Recipe) == {"epochs": None, "rate": 2.0}
    assert recipe_fields(options, Recipe, but=("rate",)) == {"epochs": None}

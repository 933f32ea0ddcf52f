"""`keras-vit recipes`: what the named recipes say, field by field."""

import dataclasses
from typing import Annotated

import typer

from keras_vit.commands.terminal import wide_console
from keras_vit.errors import one_of


def recipes(
    name: Annotated[str | None, typer.Argument(help="One of them; all by default.")] = None,
) -> None:
    """Print the recipes; each field is an option of `train`, `pretrain` or both."""
    from keras_vit.training.recipes import RECIPES, pretraining_recipe

    known = {**RECIPES, "pretraining": pretraining_recipe("standard")}
    if name is not None:
        known = {one_of("recipe", name, known): known[name]}
    from rich.table import Table

    table = Table()
    table.add_column("field")
    for title in known:
        table.add_column(title, justify="right")
    types = {type(recipe) for recipe in known.values()}
    for field in [f.name for f in dataclasses.fields(max(types, key=lambda t: len(dataclasses.fields(t))))]:
        table.add_row(field, *(_shown(getattr(recipe, field, "")) for recipe in known.values()))
    wide_console().print(table)


def _shown(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)

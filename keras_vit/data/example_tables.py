"""The tables of a folder with labelled examples of several modalities. No Keras here.

    DIR/train.csv DIR/test.csv          or DIR/examples.csv, of which a fifth is held out; beside test.csv
                                        perhaps DIR/val.csv, by which training chooses between epochs
        label,image,text,audio
        cat,photos/1.jpg,a cat on a mat,
        dog,photos/2.jpg,,sounds/2.wav

One row an example. The column `label` names its class; the others are modalities by name: `image` (a picture
file), `text` (words), `audio` (a .wav file), `video` (a .npy file [frames, height, width, 3] of 0..255, or an
animated .gif) and `action` (a .npy file [steps, features], or a .csv file of numbers without a head). Paths
are relative to the table, with "/" or "\\". An empty cell means that this example has none: then `present` is
0 there. How such tables may be written is said in `data.tables`.
"""

import dataclasses
import os
from pathlib import Path

from keras_vit.data.tables import read_table
from keras_vit.errors import InputError

TABLES = {
    "train": ("train.csv",),
    "test": ("test.csv",),
    "val": ("val.csv", "valid.csv", "validation.csv"),  # without test.csv, that is it
}
ALL = "examples.csv"
LABEL = "label"
EXPECTED = "a folder with train.csv and test.csv, or examples.csv: a column `label` and columns of modalities"


def is_multimodal(source: object) -> bool:
    """Whether `source` is a folder with such tables."""
    try:
        path = Path(str(source))
        return path.is_dir() and bool(_tables(path))
    except (OSError, ValueError):  # a name that the file system refuses, a folder that cannot be read
        return False


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """Where a row stands."""

    table: str
    line: int

    def __str__(self):
        return f"{self.table}, line {self.line}"


@dataclasses.dataclass(frozen=True)
class Row:
    """An example as the table has it.

    Attributes:
        split: "train", "test" or "val"; "" where the tables do not say.
        place: where it stands.
        cells: {column: cell}.
    """

    split: str
    place: Place
    cells: dict[str, str]


def _tables(folder):
    """{split: file name} of the tables that a folder has, by their names in any case; "" for `ALL`."""
    known = {**{name: split for split, names in TABLES.items() for name in names}, ALL: ""}
    tables = {}
    for name in sorted(os.listdir(folder)):
        if name.lower() in known and not (folder / name).is_dir():
            split = known[name.lower()]
            if split in tables:
                raise InputError(f"{folder} has {tables[split]!r} and {name!r}: delete or rename one.")
            tables[split] = name
    return tables


def read_rows(folder: Path) -> tuple[list[Row], dict[Place, str]]:
    """The rows of all tables, and {place: problem} of those that are no examples.

    Raises:
        InputError: a table is missing or cannot be read, has no rows, or other columns than the others.
    """
    rows: list[Row] = []
    problems: dict[Place, str] = {}
    columns: list[str] | None = None
    try:
        tables = _tables(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): expected {EXPECTED}.") from error
    if "test" not in tables and "val" in tables:
        tables["test"] = tables.pop("val")
    names = {split: tables[split] for split in TABLES if split in tables} or tables
    if "" not in names and not {"train", "test"} <= set(names):
        has = ", ".join(names.values()) or "neither"
        raise InputError(f"{folder} has {has}: expected {EXPECTED}.")
    for split, name in names.items():
        table_columns, table = read_table(folder / name, LABEL)
        if columns is not None and set(columns) != set(table_columns):
            raise InputError(f"the tables of {folder} have other columns: {columns} and {table_columns}.")
        columns = table_columns
        before = len(rows)
        for line, cells in table:
            place = Place(name, line)
            row = None if cells is None else dict(zip(columns, cells, strict=True))
            if row is None:
                problems[place] = "it has more cells than columns"
            elif not row[LABEL]:
                problems[place] = "it has no label"
            else:
                rows.append(Row(split, place, row))
        if len(rows) == before:
            why = complaint(folder, len(table), problems) if problems else f"expected {EXPECTED}."
            raise InputError(f"{folder / name} has no rows with a column `{LABEL}` that can be used: {why}")
    return rows, problems


def complaint(folder: Path, count: int, problems: dict[Place, str]) -> str:
    """The message for rows that cannot be used, of `count` in all."""
    reasons = [f"{place}: {problems[place].rstrip('.')}" for place in sorted(problems)]
    more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    return (
        f"{len(reasons)} of {count} rows in {str(folder)!r} cannot be used: {'; '.join(reasons[:5])}{more}. "
        "Mend or delete them; --skip-bad (skip_bad=True) leaves them out."
    )

"""Tables as people have them: what Excel, pandas and others write, in their encodings and separators."""

import codecs
import csv
import io
import warnings
from pathlib import Path

import numpy as np

from keras_vit.errors import InputError, Notice
from keras_vit.files import read_regular

SEPARATORS = (",", ";", "\t", "|")
MOST = 2**28  # bytes
BYTE_ORDER_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, or else, with a `Notice`, in Windows-1252.

    Raises:
        InputError: it cannot be read, is too large, or is no text.
    """
    data = read_regular(path, MOST)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:64]:  # UTF-16 without a mark: every other byte of its head is 0
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            raise InputError(
                f"{str(path)!r} is no text in {encoding.upper()} ({error.reason} at byte {error.start}): "
                "save it as CSV in UTF-8."
            ) from error
        text = data.decode("cp1252", errors="replace")
        warnings.warn(
            f"{str(path)!r} is no text in UTF-8 and was read as Windows-1252 (Western European): if words "
            "look wrong, save it as CSV in UTF-8.",
            Notice,
            stacklevel=2,
        )
    if "\0" in text:
        raise InputError(f"{str(path)!r} has null characters and is no text: save it as CSV in UTF-8.")
    return text


def read_table(path: Path, key: str) -> tuple[list[str], list[tuple[int, list[str] | None]]]:
    """The columns of a table, and its rows.

    Separators may be commas, semicolons, tabs or "|"; Excel's first line "sep=;" may be there. Column names
    are told apart without case and the spaces around them. The index that pandas writes in front, columns
    without a name and a cell, and empty rows are passed over.

    Args:
        path: the file.
        key: the column that it must have; by it the separator is columns.

    Returns:
        (names in lower case, [(line number, the cells in the order of the columns)]); None instead of the
        cells of a row that has more of them than there are columns.

    Raises:
        InputError: no text, no table, no such column, a column that is there twice, quotes that do not fit.
    """
    text = read_text(path)
    separators: tuple[str, ...] = SEPARATORS
    skipped = 0
    first, _, rest = text.partition("\n")
    first = first.strip().strip('"')  # some programs quote it as any other cell
    if first.lower().startswith("sep=") and len(first) <= 5:
        separators, text, skipped = (first[4:] or "\t",), rest, 1
    columns = {separator: _names(_head(text, separator)) for separator in separators}
    # The one by which the table has its key, and of several the one that makes most columns.
    separator = max(
        columns,
        key=lambda one: (key in columns[one], len(columns[one])),
    )
    names = columns[separator]
    if key not in names:
        shown = ", ".join(repr(name) for name in names[:10]) or "none"
        raise InputError(
            f"{str(path)!r} has no column `{key}`: its columns are {shown}. Name them in its first line, "
            f"separated by commas, semicolons or tabs."
        )
    for name in names:
        if name and names.count(name) > 1:
            raise InputError(f"{str(path)!r} has the column {name!r} twice: delete or rename one.")
    rows, width = [], len(names)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                sound = not any(cells[width:])
                rows.append((reader.line_num + skipped, [*cells, *[""] * width][:width] if sound else None))
    except csv.Error as error:
        way_out = 'a cell that holds quotes is written "in quotes, with "" for each".'
        if "field larger" in str(error):
            way_out = "a quote that never closes makes one, or the cell is to be shortened."
        raise InputError(
            f"{str(path)!r} is no table at line {reader.line_num + skipped} ({error}): {way_out}"
        ) from error
    rows = rows[1:]
    kept = _kept_columns(path, names, [cells for _, cells in rows if cells])
    return (
        [names[i] for i in kept],
        [(line, cells and [cells[i] for i in kept]) for line, cells in rows],
    )


def _head(text, separator):
    """The cells of the first row that has any."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        return next((row for row in reader if any(cell.strip() for cell in row)), [])
    except csv.Error:
        return []


def _names(cells):
    names = [" ".join(cell.split()).lower() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _kept_columns(path, names, rows):
    """Which columns count: not pandas' index in front, nor nameless ones without a cell."""
    kept = []
    for i, name in enumerate(names):
        cells = [row[i] for row in rows]
        is_index = i == 0 and name in ("", "unnamed: 0") and all(cell.isdecimal() for cell in cells)
        if is_index or (not name and not any(cells)):
            continue
        if not name:
            raise InputError(f"column {i + 1} of {str(path)!r} has cells and no name: name or delete it.")
        kept.append(i)
    return kept


def read_numbers(path: Path) -> np.ndarray:
    """A table of numbers without a head: float64 [rows, columns].

    Separated by commas, semicolons or tabs; where not by commas, these may stand for decimal points. Lines
    that begin with "#", as NumPy writes its comments, are passed over.

    Raises:
        InputError: no text, something that is no number, rows of different lengths, no rows.
    """
    lines = [
        (i, line)
        for i, line in enumerate(read_text(path).splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    text = "".join(line for _, line in lines[:100])
    separator = next((one for one in (";", "\t") if one in text), ",")
    rows = []
    for number, line in lines:
        cells = line.strip().split(separator)
        if separator != ",":
            cells = [cell.replace(",", ".") for cell in cells]
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            raise InputError(
                f"{str(path)!r} is no table of numbers: line {number} is {line.strip()!r}. It takes "
                "numbers alone, without a head."
            ) from None
        if len(rows[-1]) != len(rows[0]):
            raise InputError(
                f"{str(path)!r} is no table of numbers: line {number} has {len(rows[-1])}, and the first "
                f"{len(rows[0])}."
            )
    if not rows:
        raise InputError(f"{str(path)!r} is no table of numbers: it is empty.")
    return np.array(rows)

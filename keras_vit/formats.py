"""`read_document`: read a JSON file and check it against a schema.

A schema is a `TypedDict` beside the code that writes the file (`training.run_schema`, `data.packed`, ...).
It names the fields that are read, with their types; pydantic checks them, and converts nothing. Other fields,
such as those of a newer version, are ignored, and kept.
"""

import functools
import json
import math
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from keras_vit.errors import InputError
from keras_vit.files import read_regular
from keras_vit.old_names import with_new_names

FORMAT = 1  # of all of them, until one changes
LARGEST = 2**26  # bytes; a manifest with the ranges of a large model has less than one million


@functools.cache
def _adapter(schema):
    return TypeAdapter(schema)


def _inside(name):
    path = PurePosixPath(name)
    leaves = path.parts == () or path.is_absolute() or ".." in path.parts
    if leaves or not name.isprintable() or len(name) > 255:
        raise ValueError("must be a path inside the folder")
    return name


Whole = Annotated[int, Field(ge=0, lt=2**53)]
Side = Annotated[int, Field(gt=0, lt=2**16)]
Size = tuple[Side, Side]
Share = Annotated[float, Field(ge=0, le=1)]
Labels = Annotated[list[str], Field(min_length=1)]
Name = Annotated[str, AfterValidator(_inside)]


def read_document(path: str | Path, schema: Any, way_out: str) -> Any:
    """The JSON in a file, which must be as `schema` says.

    Args:
        schema: a type that pydantic can check, e.g. a `TypedDict` or a list of one.
        way_out: what the user can do where it is not, e.g. "restore it".

    Raises:
        InputError: no such file, not readable, no JSON, or something else in it.
    """
    path = Path(path)
    try:
        data = read_regular(path, LARGEST)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}: {way_out}.") from error
    try:
        value = parsed(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): {way_out}.") from error
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > FORMAT:
        raise InputError(f"{path} was made by a newer version of keras_vit: install that, or {way_out}.")
    value = _with_new_names(value)
    problem = problem_with(value, schema)
    if problem:
        raise InputError(f"{path} is damaged ({problem}): {way_out}.")
    return value


def _with_new_names(value):
    """The document with the recipe that it may hold under today's names."""
    match value:
        case {"recipe": {"variant": {**variant}} as recipe}:
            return {**value, "recipe": {**recipe, "variant": with_new_names(variant)}}
    return value


def parsed(data: bytes | str) -> Any:
    """`json.loads`, which refuses NaN and infinity. Raises ValueError or RecursionError."""
    return json.loads(data, parse_constant=_no_number, parse_float=_number)


def check(value: Any, schema: Any) -> None:
    """Raise pydantic's ValidationError unless `value` is as `schema` says."""
    # Through JSON, where a list may stand for a tuple, and nothing else is converted.
    _adapter(schema).validate_json(json.dumps(value), strict=True)


def problem_with(value: Any, schema: Any) -> str | None:
    """What is wrong with `value`, in a few words, or None."""
    try:
        check(value, schema)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"  # of a recipe that cannot be
    return None


def _no_number(text):
    raise ValueError(f"{text} is no number in JSON")


def _number(text):
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is too large a number")
    return number

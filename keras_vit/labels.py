"""Class names: what can be one. They become the lines of a labels.txt, which programs of all kinds read."""

import numbers
import unicodedata
from collections.abc import Iterable

from keras_vit.errors import InputError

# Characters that turn the direction of what is beside them (Unicode's property Bidi_Control).
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# Never seen, wherever they stand: two names that differ in these alone look the same.
INVISIBLE = str.maketrans(dict.fromkeys("\u00ad\u200b\u2060\ufeff"))
EMPTY = "each label must be one line that is not empty"


def label_problem(label: str) -> str | None:
    """Why `label` cannot be the name of a class, or None."""
    # str.splitlines, with which labels.txt is read, knows more line ends than "\n".
    if label.splitlines() != [label] or not label.strip():
        return EMPTY
    for character in label:
        if character == "\0" or unicodedata.category(character) == "Cs":  # half of a surrogate pair
            return "expected text that UTF-8 can hold, without null characters"
        if unicodedata.category(character) == "Cc" or character in TURNING:
            return f"expected text without control characters, such as {character!a}"
    if label.startswith("\ufeff"):  # readers of labels.txt drop it as a byte order mark
        return "expected text that does not begin with a byte order mark ('\\ufeff')"
    return None if any(c.isprintable() and not c.isspace() for c in label) else EMPTY


def checked_labels(labels: Iterable[str | int]) -> list[str]:
    """`labels` (texts, or integers) as a list of texts, each one line that is not empty, or an `InputError`.

    Two classes may share a name, as in ImageNet.
    """
    if isinstance(labels, str | bytes | dict) or not hasattr(labels, "__iter__"):
        type_name = "text" if isinstance(labels, str) else type(labels).__name__
        raise InputError(f"labels must be a list of names, not the {type_name} {labels!r}.")
    names = []
    for index, label in enumerate(labels):
        if not isinstance(label, str | numbers.Integral):
            raise InputError(f"label {index} is {label!r}, a {type(label).__name__}: expected a text.")
        if problem := label_problem(str(label)):
            raise InputError(f"label {index} is {str(label)!r}: {problem}.")
        names.append(str(label))
    return names


def check_class_names(names: Iterable[str], source: object) -> None:
    """Refuse classes of a data set that could not be told apart, or written to a labels.txt.

    Raises:
        InputError: such a name, or two that look the same.
    """
    seen: dict[str, str] = {}
    for name in names:
        if problem := label_problem(name):
            raise InputError(f"{str(source)!r} has a class {name!r}: {problem}. Rename it.")
        shown = " ".join(unicodedata.normalize("NFC", name.translate(INVISIBLE)).split())
        if shown in seen:
            raise InputError(
                f"{str(source)!r} has the classes {seen[shown]!a} and {name!a}, which look the same: "
                "rename or merge them."
            )
        seen[shown] = name

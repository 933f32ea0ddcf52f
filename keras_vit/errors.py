"""What is said to a user: the exception for a mistake and its wording, a warning, the one for Ctrl-C."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

LONGEST_WORD, LONGEST_LINE = 300, 2000  # characters of a message


def printable(text: object, longest: int = LONGEST_LINE) -> str:
    """`text` as one line that a terminal shows as it is: what a file was named by a stranger may go in.

    Line breaks, escape sequences, marks that turn the direction of writing and undecodable bytes are
    written as in Python, e.g. `\\x1b`. Long words, and a long line, lose their middle, so that the way out
    at the end of a message stays.
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: _cut(word[0], LONGEST_WORD), text)
    return _cut(text, longest)


def _cut(text, longest):
    half = longest // 2 - 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was given, what was expected, and the way out. The command
    line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(message))


class NotInstalled(InputError):
    """A package that one feature needs is not installed.

    Args:
        feature: what needs it, e.g. "--tensorboard".
        package: its name.
        extra: the extra of this package that brings it; None for a package that should be there.
    """

    def __init__(self, feature: str, package: str, extra: str | None = None):
        what = f"'keras-vit[{extra}]'" if extra else package
        super().__init__(f"{feature} needs {package}, which cannot be imported: pip install {what}")


class Notice(UserWarning):
    """Something the user gave was used in part only. The command line prints it as a note."""

    def __init__(self, message: object = ""):
        super().__init__(printable(message))


class Interrupted(Exception):
    """Work was stopped by Ctrl-C or SIGTERM; the message says what is saved and how to go on.

    No KeyboardInterrupt, which the command line's library would end without a word.

    Attributes:
        code: the command line's exit code: 130 after Ctrl-C; 0 after SIGTERM, when all is saved.
    """

    def __init__(self, message: str, code: int = 130):
        super().__init__(message)
        self.code = code


def one_of(what: str, given: object, known: Iterable) -> Any:
    """Return `given` if it is among `known`, else raise `InputError` that lists them.

    Args:
        what: what is being chosen, for the message ("pooling", "profile").
        given: the user's value.
        known: the accepted values.
    """
    known = list(known)
    if given in known:
        return given
    near = difflib.get_close_matches(str(given), [str(k) for k in known], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown {what} {given!r}: the known ones are {', '.join(map(str, known))}.{hint}")

"""What is said to a user: the exception for a mistake and its wording, a warning, the one for Ctrl-C."""

import difflib


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was given, what was expected, and the way out. The command
    line prints it without a traceback and exits with code 2.
    """


class Notice(UserWarning):
    """Something the user gave was used in part only. The command line prints it as a note."""


class Interrupted(Exception):
    """Work was stopped by Ctrl-C or SIGTERM; the message says what is saved and how to go on.

    No KeyboardInterrupt, which the command line's library would end without a word.

    Attributes:
        code: the command line's exit code: 130 after Ctrl-C; 0 after SIGTERM, when all is saved.
    """

    def __init__(self, message, code=130):
        super().__init__(message)
        self.code = code


def one_of(what, given, known):
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

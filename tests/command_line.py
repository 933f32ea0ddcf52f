"""`run`: a command as a person types it, in this process."""

import sys

from keras_vit import cli


def run(capsys, *words):
    """(exit code, standard output, standard error) of `keras-vit WORDS`."""
    old = sys.argv
    sys.argv = ["keras-vit", *map(str, words)]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = old
    return code, *capsys.readouterr()

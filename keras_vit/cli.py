"""The command line, `keras-vit`: its commands, exit codes and errors.

Importing this file imports neither Keras nor TensorFlow.
"""

import errno
import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from keras_vit.commands.benchmark import benchmark
from keras_vit.commands.demo import demo
from keras_vit.commands.demo_app import demo_app
from keras_vit.commands.evaluate import evaluate
from keras_vit.commands.explain import explain
from keras_vit.commands.export import export
from keras_vit.commands.find_rate import find_rate
from keras_vit.commands.import_ import import_
from keras_vit.commands.launch import launch
from keras_vit.commands.pack import pack
from keras_vit.commands.predict import predict
from keras_vit.commands.pretrain import pretrain
from keras_vit.commands.probe import probe
from keras_vit.commands.quantize import quantize
from keras_vit.commands.recipes import recipes
from keras_vit.commands.serve_data import serve_data
from keras_vit.commands.show import show
from keras_vit.commands.train import train
from keras_vit.commands.wording import speaks_of_options
from keras_vit.errors import InputError, Interrupted, Notice, printable
from keras_vit.files import NO_ROOM

COMMANDS: dict[str, Callable] = {
    "import": import_,
    "pack": pack,
    "serve-data": serve_data,
    "recipes": recipes,
    "find-rate": find_rate,
    "pretrain": pretrain,
    "show": show,
    "train": train,
    "launch": launch,
    "probe": probe,
    "quantize": quantize,
    "export": export,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "predict": predict,
    "explain": explain,
    "demo": demo,
    "demo-app": demo_app,
}  # in the order of --help

_debug = {"on": False}  # of this run; typer parses --debug before the command
app = typer.Typer(
    name="keras-vit",
    help="Vision Transformers in Keras 3: train, quantize, export, and prove that all copies agree.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def with_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
) -> None:
    _debug["on"] = debug


def _options_of(name):
    """{argument: option} of a command."""
    parameters = typer.main.get_command(app).commands[name].params
    return {p.name: p.opts[0] for p in parameters if p.opts[0].startswith("--")}


for name, command in COMMANDS.items():
    app.command(name)(speaks_of_options(command, functools.partial(_options_of, name)))


def main():
    """Run the command line: 0 success or pre-empted, 1 failure, 2 bad input or no room, 130 Ctrl-C."""
    _debug["on"] = False
    warnings.showwarning = functools.partial(_note, warnings.showwarning)
    try:
        app()
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except Interrupted as stopped:
        print(printable(stopped), file=sys.stderr)
        sys.exit(stopped.code)
    except OSError as error:
        unnamed = "standard output or a temporary file" if error.errno in NO_ROOM else None
        what = ": ".join(filter(None, [_text(error.filename) or unnamed, error.strerror])) or str(error)
        if what.startswith("standard output"):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries again when it ends
        sys.exit(_fail(f"{what}. What was there before is unchanged: {_way_out(error)}.", 2))
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        sys.exit(_fail(f"{type(error).__name__}: {line} (keras-vit --debug {_command()} ... shows where)", 1))


def _text(name):
    return os.fsdecode(name) if isinstance(name, bytes) else name and str(name)


def _note(usual, message, category, *where, **more):
    """Show a `Notice` as a line, other warnings as usual."""
    if issubclass(category, Notice):
        print(f"note: {message}", file=sys.stderr)
    else:
        usual(message, category, *where, **more)


def _command():
    return next((word for word in sys.argv[1:] if word in COMMANDS), "COMMAND")


def _fail(message, code):
    """Say what went wrong, in a line; with --debug also where. Called where an exception is handled."""
    if _debug["on"]:
        traceback.print_exc()
    print(f"error: {printable(message)}", file=sys.stderr)
    return code


def _way_out(error):
    if error.errno in NO_ROOM:
        return "make room, or give another --out, and run it again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "give an --out that you may write to"
    if error.errno == errno.ENAMETOOLONG:
        return "give a shorter name"
    return "put it right and run it again"


if __name__ == "__main__":
    main()

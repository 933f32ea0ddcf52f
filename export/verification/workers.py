"""A model is run in a process of its own: a runtime that crashes takes that process with it, not the caller.

with Worker("keras_vit.export.verification.verify_worker", {"path": "dist/int8.tflite", ...}) as worker:
    for line in worker:     # what it prints; then Failure, if it did not end well
        ...
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile

from keras_vit.errors import printable
from keras_vit.processes import start


class Failure(Exception):
    """A model could not be measured; the message, one line, becomes its row's `error`."""

    def __init__(self, message: object = ""):
        super().__init__(printable(message))


class Worker:
    """A Python process that does one job on the CPU; a context manager, and an iterator over its lines.

    Args:
        module: what it runs, as `python -m MODULE JOB.json`.
        job: a dictionary for JOB.json.
    """

    def __init__(self, module, job):
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8"))
            json.dump(job, file)
            file.flush()
            text = {"encoding": "utf-8", "errors": "replace"}
            self._said = stack.enter_context(tempfile.TemporaryFile("w+", **text))
            environment = {
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "-1",  # a GPU answers, and takes its time, in its own way
                "KERAS_BACKEND": "tensorflow",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            }
            environment.pop("TF_USE_LEGACY_KERAS", None)  # tensorflow-model-optimization leaves it behind
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
            self._process = start(module, file.name, env=environment, **pipes, **text)
            self._open = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()  # Ctrl-C too: no worker outlives its caller
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._open.close()

    def __iter__(self):
        for line in self._process.stdout:  # noqa: UP028, `yield from` closes it with the first generator
            yield line
        if self._process.wait():
            self._said.seek(0)
            raise Failure(reason(self._process.returncode, self._said.read()))

    def ask(self, **question):
        """Send `question` as a line of JSON; return the line of JSON that it prints next. Raises Failure."""
        with contextlib.suppress(BrokenPipeError):  # why it is gone is read below
            print(json.dumps(question), file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self):
        """The line of JSON that it prints next; other lines are some library's. Raises Failure."""
        for line in self:
            if line.startswith("{"):
                return json.loads(line)
        raise Failure("it ended without an answer")


def reason(returncode, said):
    """One line: the signal that ended a process, and the last thing that it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(INFO|WARNING)\b|[IW]\d{4} ", line)]
    last = lines[-1] if lines else ""
    if returncode > 0:
        return last or f"ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"killed by {name}: {last}" if last else f"killed by {name}"

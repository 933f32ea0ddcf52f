"""`launch`: several workers on this machine, to try out what many machines will do. No TensorFlow here.

Each is a process of its own with a TF_CONFIG that names all of them, at free ports of 127.0.0.1.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

from keras_vit.config import integer
from keras_vit.errors import InputError

LINES = 5  # of a failed worker's output are shown


def launch(arguments, workers):
    """Run `keras-vit ARGUMENTS` in so many worker processes; the first one speaks for all.

    When one fails, the others are stopped: without it they would wait for ever.

    Returns:
        the exit code: 0 when all went well, else that of the first that failed.
    """
    integer("workers", workers, 1)
    if arguments[:1] != ["train"]:
        raise InputError(f"only train can have several workers, not {' '.join(arguments[:1]) or 'nothing'}.")
    places = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for index in range(workers):
            task = {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
            said = None if index == 0 else open(os.path.join(folder, str(index)), "w+b")  # noqa: SIM115
            running.append(
                (
                    subprocess.Popen(
                        [sys.executable, "-m", "keras_vit.cli", *arguments],
                        env={**os.environ, "TF_CONFIG": json.dumps(task)},
                        stdout=said,
                        stderr=said,
                    ),
                    said,
                )
            )
        try:
            return _wait(running)
        finally:
            _stop(running)


def _wait(running):
    while True:
        codes = [process.poll() for process, _ in running]
        failed = [index for index, code in enumerate(codes) if code]
        if failed:
            index = failed[0]
            if running[index][1] is not None:
                print(f"worker {index} failed:\n{_last_lines(running[index][1])}", file=sys.stderr)
            return codes[index] if codes[index] > 0 else 128 - codes[index]  # as shells count signals
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.2)


def _last_lines(said):
    said.seek(0)
    return "\n".join(said.read().decode(errors="replace").strip().splitlines()[-LINES:])


def _stop(running):
    for process, said in running:
        if process.poll() is None:
            process.kill()  # TensorFlow's workers wait for each other, and do not listen
            process.wait()
        if said is not None:
            said.close()


def _free_ports(count):
    """Ports that nobody listens at now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()

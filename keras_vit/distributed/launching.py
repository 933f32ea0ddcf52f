"""`launch`: several workers on this machine, to try out what many machines will do. No TensorFlow here.

Each is a process of its own with a TF_CONFIG that names all of them, at free ports of 127.0.0.1.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import time

from keras_vit.config import integer
from keras_vit.errors import InputError
from keras_vit.processes import start

STOPS = (signal.SIGTERM, signal.SIGINT)
LINES = 5  # of a failed worker's output are shown


def launch(arguments, workers):
    """Run `keras-vit ARGUMENTS` in so many worker processes; the first one speaks for all.

    When one fails, the others are stopped: without it they would wait for ever. SIGTERM or Ctrl-C lets the
    first one save, and stops all. When this process is killed, they end.

    Returns:
        the exit code: 0 when all went well, else that of the first that failed.
    """
    integer("workers", workers, 1)
    if arguments[:1] != ["train"]:
        raise InputError(f"only train can have several workers, not {' '.join(arguments[:1]) or 'nothing'}.")
    with tempfile.TemporaryDirectory() as folder:
        running, asked = [], []
        old = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in STOPS}
        try:
            for index, environment in enumerate(environments(workers)):
                said = None if index == 0 else open(os.path.join(folder, str(index)), "w+b")  # noqa: SIM115
                process = start(
                    "keras_vit.cli",
                    *arguments,
                    env={**os.environ, **environment},
                    stdout=said,
                    stderr=said,
                    start_new_session=True,  # or Ctrl-C in a terminal would reach all of them
                )
                running.append((process, said))
            return _wait(running, asked)
        finally:
            _stop(running)
            for number, handler in old.items():
                signal.signal(number, handler)


def environments(workers):
    """The environment variables of each of so many workers on this machine, which share its cores."""
    places = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    share = max(1, (os.cpu_count() or 1) // workers)  # each with all cores, they would be in each other's way
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
            ),
            "TF_NUM_INTRAOP_THREADS": os.environ.get("TF_NUM_INTRAOP_THREADS", str(share)),
        }
        for index in range(workers)
    ]


def _wait(running, asked):
    told = False
    while True:
        if asked and not told:  # the first one saves; the others have nothing to save
            running[0][0].send_signal(asked[0])
            told = True
        if told and running[0][0].poll() is not None:
            return running[0][0].returncode
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


def free_ports(count):
    """Ports that nobody listens at now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()

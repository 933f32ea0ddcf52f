"""Python processes that end when the process that started them ends, also when that is killed with -9.

    process = start("keras_vit.export.verification.verify_worker", "job.json", stdout=subprocess.PIPE)

Each gets the reading end of a pipe, whose other end its parent alone holds and never writes to. The kernel
closes that end with the parent, however it ends, and a thread of the child then ends the child. What the
child started in this way ends with it in turn. (Linux' PR_SET_PDEATHSIG would do it for Linux alone, and ends
the child with the *thread* that started it.) No Keras and no TensorFlow here.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
import weakref
from typing import Any


def start(module: str, *arguments: str, **options: Any) -> subprocess.Popen:
    """Run `python -m MODULE ARGUMENTS`, until it ends or this process does.

    Args:
        module: the name of a module. The current folder is no place to import it from.
        arguments: strings.
        options: those of `subprocess.Popen`. With `start_new_session=True` all that the process itself
            starts, in whichever way, ends with it.

    Returns:
        a `subprocess.Popen`; the process ends with that object too.
    """
    watched, held = os.pipe()  # neither is inherited by other processes
    try:
        command = [sys.executable, "-P", "-m", "keras_vit.processes", str(watched), module, *arguments]
        process = subprocess.Popen(command, pass_fds=(watched,), **options)
    except BaseException:
        os.close(held)
        raise
    finally:
        os.close(watched)
    weakref.finalize(process, os.close, held)
    return process


def _end_with_parent(watched):
    """Wait until the parent is gone, then end this process; the leader of a session ends all of it."""
    os.read(watched, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _main():
    watched, module = int(sys.argv[1]), sys.argv[2]
    os.set_inheritable(watched, False)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    del sys.argv[:2]  # what the module sees is what it would see alone
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()

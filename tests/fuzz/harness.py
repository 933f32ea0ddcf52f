"""Running inputs: each with a limit of time and of memory, and with what may come of it.

An input is a dictionary {name: bytes} of files, made by its target, its seed and its number alone, so that
these three make it again. A target has

    contained    whether the end of the process is a refusal: then it runs where that is expected
    growth       bytes, where it is not `GROWTH`
    refusals     the exceptions that are documented for a bad input
    make(random) an input
    check(files) reads it: returns "accepted", or raises one of `refusals`; all else is a fault
"""

import contextlib
import resource
import signal
import sys
import traceback

import numpy as np

SECONDS = 60  # for one input; it takes milliseconds
GROWTH = 1 << 30  # bytes by which one input may raise the most memory that this process has ever had
ROOM = (
    8 << 30
)  # bytes of addresses on top of what the process has; TensorFlow reserves much that it never uses
OUTCOMES = ("accepted", "refused", "one alone", "foreign", "hang", "memory", "difference", "crash")
FAULTS = OUTCOMES[3:]


class Difference(Exception):
    """Two readers gave different answers, or one took what is wrong, and neither said so."""


class OneAlone(Exception):
    """A damaged file that one reader refuses and another still reads, which is documented."""


class Hang(BaseException):
    """The time is up. No Exception: code that catches everything must not catch it."""


def random_of(seed, name, index):
    return np.random.default_rng([seed, *name.encode(), index])


def run_one(target, files):
    """(one of OUTCOMES, what was said) of one input."""

    def ring(*_):
        raise Hang

    before = _most_memory()
    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        outcome = target.check(files), ""
    except target.refusals as error:
        said = str(error)
        outcome = "refused", said
        if "\n" in said or not said.strip():
            outcome = "foreign", f"the message is not one line: {said!r}"
    except OneAlone as error:
        outcome = "one alone", str(error)
    except Difference as error:
        outcome = "difference", str(error)
    except Hang:
        outcome = "hang", f"no answer after {SECONDS} s"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]}"
        outcome = "foreign", f"{said} ({where.filename.rpartition('/')[2]}:{where.lineno})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    grown = _most_memory() - before
    if grown > getattr(target, "growth", GROWTH):
        return "memory", f"it took {grown / 1e9:.1f} GB more"
    return outcome


def _most_memory():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def limited_memory():
    """No more memory than there is room for: an input that wants all of it raises MemoryError."""
    try:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def write(files, folder):
    """Write {name: bytes} below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

"""What a model is timed with: random inputs, runs for some seconds, and the peak of the memory."""

import contextlib
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np

from keras_vit.errors import InputError

WARMUP, LEAST, MOST = 2, 3, 1000  # runs of a turn


def time_turn(run, seconds):
    """Milliseconds of each run for about `seconds`, after two runs that bring the caches back."""
    for _ in range(WARMUP):
        run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() < end):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def start_of_peak_memory():
    """Bytes that this process has in memory; on Linux those of now, and its peak starts anew."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_memory()


def peak_memory():
    """The most bytes that this process has had in memory (resident set).

    On Linux from /proc: `ru_maxrss` there begins at the size of the process that started this one.
    """
    with contextlib.suppress(OSError):
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def random_array(shape, dtype, name):
    """An input that any model survives: floats in [0, 1), bytes in their whole range, ids of 0 and 1.

    A size that is not fixed counts as 1 in the first place, the batch; elsewhere nobody can know it.
    """
    shape, dtype = list(shape), np.dtype(dtype)
    if shape and not _fixed(shape[0]):
        shape[0] = 1
    if not all(_fixed(size) for size in shape):
        sizes = ", ".join(str(size) if _fixed(size) else "?" for size in shape)
        raise InputError(f"its input {name} has no fixed shape, [{sizes}]: export it for one size.")
    random = np.random.default_rng(0)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    raise InputError(f"its input {name} is of type {dtype}: only numbers can be made up.")


def _fixed(size):
    return isinstance(size, int | np.integer) and size > 0


# Each loader takes (path, threads) and returns a function that answers one input, and facts. What is
# timed is what a caller waits for: input, run, output.

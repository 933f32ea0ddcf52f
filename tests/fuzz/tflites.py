"""Damaged .tflite files, opened and asked as `predict` does.

There they run in a process of their own, which may end in any way: its caller says that the file is damaged.
Here the process of the fuzzer is that one, for many files, and what ends it counts as a refusal; it is
started again behind the file. One file in forty takes the whole way, with a process of its own.
"""

import contextlib
import resource
import zlib

import numpy as np

from fuzz.harness import write
from fuzz.mutate import chance, damaged, pick
from keras_vit.errors import InputError
from keras_vit.export.verification.runners import load_runner, open_runner
from keras_vit.export.verification.tflite_worker import ROOM, limit_memory
from keras_vit.mobile_demo.site import CIFAR10

NAMES = ("int8.tflite", "int8_static.tflite", "int4.tflite")


@contextlib.contextmanager
def limited_data(path):
    """The limit that the process of one file gives itself."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(path)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


class TFLites:
    refusals = (InputError,)
    contained = True
    growth = 1.2 * ROOM  # which is where that process is stopped

    def __init__(self, folder):
        self.folder = folder
        self._sound = [(CIFAR10 / name).read_bytes() for name in NAMES]

    def make(self, random):
        data = pick(random, self._sound)
        if chance(random, 0.5):
            return {"model.tflite": damaged(data, random, self._sound, limit=len(data))}
        data = bytearray(data)  # the tables lie behind the weights
        for _ in range(int(random.integers(1, 6))):
            at = len(data) - 1 - int(random.integers(min(40_000, len(data))))
            data[at] = pick(random, (0, 1, 2, 255, data[at] ^ (1 << int(random.integers(8)))))
        return {"model.tflite": bytes(data)}

    def check(self, files):
        write(files, self.folder)
        path = self.folder / "model.tflite"
        if zlib.crc32(files["model.tflite"]) % 40 == 0:
            return self._ask(load_runner(path))
        try:
            with limited_data(path):
                return self._ask(open_runner(path))
        except InputError:
            raise
        except Exception as error:  # as `TFLiteProcess` says it
            raise InputError(f"{path} cannot be run by LiteRT ({type(error).__name__})") from error

    def _ask(self, runner):
        if runner.image_size is not None and np.prod(runner.image_size) < 1e6:
            runner.predict(np.full((1, *runner.image_size, 3), 100, "uint8"))
        return "accepted"

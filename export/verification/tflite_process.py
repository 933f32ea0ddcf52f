"""A .tflite file that LiteRT runs in a process of its own: a damaged one can crash LiteRT, not the caller."""

import tempfile
import weakref
from pathlib import Path

import numpy as np

from keras_vit.errors import InputError
from keras_vit.export.verification.runner import Runner
from keras_vit.export.verification.workers import Failure, Worker


class TFLiteProcess(Runner):
    """As `TFLiteRunner`, for files of any origin. The process ends with this object.

    Raises:
        InputError: the file is damaged or no model of ours, or LiteRT crashed on it.
    """

    kind = "tflite"

    def __init__(self, path, threads=1):
        self.path = Path(path)
        folder = tempfile.TemporaryDirectory(prefix="keras_vit-tflite-")
        self._inputs, self._answers = f"{folder.name}/inputs.npz", f"{folder.name}/answers.npy"
        job = {"path": str(path), "threads": threads, "inputs": self._inputs, "answers": self._answers}
        self._worker = Worker("keras_vit.export.verification.tflite_worker", job)
        self._close = weakref.finalize(self, _close, self._worker, folder)
        facts = self._told(self._worker.answer)
        super().__init__(path, facts["inputs"], facts["num_classes"], facts["output"])
        self.operators, self.delegated = facts["operators"], facts["delegated"]

    def time_one(self, example, seconds=1.0, warmup=5, least=20, most=2000):
        """As `Runner.time_one`; the way into the other process and back is not in the times."""
        example = example if isinstance(example, dict) else {"image": example}
        inputs, _ = self._checked({name: np.asarray(x)[None] for name, x in example.items()})
        self._send(self._batch(inputs, 0, 1))
        return self._told(self._worker.ask, seconds=seconds, warmup=warmup, least=least, most=most)["times"]

    def _answer(self, inputs):
        self._send(inputs)
        self._told(self._worker.ask)
        return np.load(self._answers)

    def _send(self, inputs):
        np.savez(self._inputs, *(inputs[name] for name in self.inputs))

    def _told(self, question, **options):
        try:
            answer = question(**options)
        except Failure as failure:
            self._close()
            raise InputError(
                f"{self.path} cannot be run by LiteRT ({failure}): it is damaged. Export the model again."
            ) from None
        if "error" in answer:
            self._close()
            raise InputError(answer["error"])
        return answer


def _close(worker, folder):
    worker.__exit__()
    folder.cleanup()

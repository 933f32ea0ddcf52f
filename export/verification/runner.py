"""`Runner`: what a Keras file, a SavedModel and a .tflite file have in common when they are run."""

import time
from pathlib import Path

import numpy as np

from keras_vit.config import PRESENT
from keras_vit.errors import InputError
from keras_vit.files import find_labels

SIGNATURE, INPUT = "serving_default", "image"


class Runner:
    """What all three kinds share. A subclass loads a model, and answers one batch in `_answer`.

    Attributes:
        kind: "keras", "saved_model" or "tflite".
        inputs: {name: (shape without the batch, dtype)}; of a model of images alone just "image".
        image_size, channels: (height, width) and number of channels of such a model, else None.
        num_classes: number of classes.
        output: "probability", or "logits" of a model with activation=None.
        labels: their names, or None when no `labels.txt` of as many lines is near; of one probability
            those of the labels 0 and 1.
        operators: {operator: count}, of a .tflite file; else empty.
        delegated: the share of operators that run inside a delegate, of a .tflite file; else None.
    """

    kind = None
    batch = 64
    operators: dict[str, int] = {}  # noqa: RUF012, never written to
    delegated = None

    def __init__(self, path, inputs, num_classes, output):
        self.path = Path(path)
        self.inputs = {
            name: (tuple(int(size) for size in shape), np.dtype(dtype).name)
            for name, (shape, dtype) in inputs.items()
        }
        alone = set(inputs) == {INPUT}
        self.image_size, self.channels = (
            (self.inputs[INPUT][0][:2], self.inputs[INPUT][0][2]) if alone else (None, None)
        )
        self.num_classes, self.output = int(num_classes), output
        self.labels = find_labels(self.path, self.num_classes, output)

    def predict(self, inputs, progress=None):
        """Probabilities (or logits, see `output`), float32 [N, num_classes], of raw inputs.

        Args:
            inputs: images [N, H, W, C] with values 0..255, uint8 or float; or {name: array [N, ...]} as
                `inputs` says. Without "present" all are. An array that is mapped from a file is read a
                batch at a time.
            progress: called with (examples done, examples in all) after every batch of 64.
        """
        inputs, count = self._checked(inputs)
        answers = np.empty((count, self.num_classes), np.float32)
        for start in range(0, count, self.batch):
            stop = min(start + self.batch, count)
            answers[start:stop] = self._answer(self._batch(inputs, start, stop))
            if progress and (stop % 64 == 0 or stop == count):
                progress(stop, count)
        bad = int(np.sum(~np.isfinite(answers).all(-1)))
        if bad:
            raise InputError(
                f"{self.path} answers {bad} of {count} examples with NaN or infinity: its weights are "
                "damaged. Look at the training, and export the model again."
            )
        return answers

    def time_one(self, example, seconds=1.0, warmup=5, least=20, most=2000):
        """Milliseconds of each run on one example, [H, W, C] or {name: raw input}, for about `seconds`.

        Everything that a caller waits for is inside: input, run, output.
        """
        example = example if isinstance(example, dict) else {INPUT: example}
        inputs, _ = self._checked({name: np.asarray(x)[None] for name, x in example.items()})
        example = self._batch(inputs, 0, 1)
        for _ in range(warmup):
            self._answer(example)
        times, end = [], time.perf_counter() + seconds
        while len(times) < most and (len(times) < least or time.perf_counter() < end):
            start = time.perf_counter()
            self._answer(example)
            times.append((time.perf_counter() - start) * 1e3)
        return times

    def _checked(self, inputs):
        """({name: array} of all inputs, number of examples)."""
        inputs = dict(inputs) if isinstance(inputs, dict) else {INPUT: inputs}
        count = len(next(iter(inputs.values()), ()))
        if PRESENT in self.inputs:
            inputs.setdefault(PRESENT, np.ones((count, *self.inputs[PRESENT][0]), "float32"))
        if set(inputs) != set(self.inputs):
            raise InputError(f"{self.path.name} takes {', '.join(self.inputs)}, not {', '.join(inputs)}.")
        for name, (shape, _) in self.inputs.items():
            given = tuple(np.shape(inputs[name]))
            if given != (count, *shape):
                what = "images" if name == INPUT else repr(name)
                expected = ", ".join(["N", *map(str, shape)])
                raise InputError(
                    f"{self.path.name} takes {what} of shape [{expected}], not {list(given)}"
                    + (": resize them first." if name == INPUT else ".")
                )
        return inputs, count

    def _batch(self, inputs, start, stop):
        return {name: np.asarray(inputs[name][start:stop], dtype) for name, (_, dtype) in self.inputs.items()}

    def _answer(self, inputs):
        raise NotImplementedError

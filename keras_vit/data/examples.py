"""Labelled examples of several modalities, as arrays: what `MultimodalViT` is trained and verified on.

    data.train.inputs["image"][rows], data.train.inputs["text"][rows], data.train.labels[rows]

NumPy alone, but for the modalities themselves, which are Keras layers.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np


class Shared:
    """An array [N, ...] whose rows are those of a smaller one, for instance one picture of many questions.

    Indexing with integers, a slice or an array of integers gives plain NumPy arrays.

    Args:
        values: array [M, ...].
        rows: integers [N], which row of `values` each example has.
    """

    def __init__(self, values: np.ndarray, rows: Sequence[int] | np.ndarray):
        self.values, self.rows = values, np.asarray(rows)
        self.shape, self.dtype = (len(self.rows), *values.shape[1:]), values.dtype

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.values[self.rows[index]]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Examples for one purpose.

    Attributes:
        inputs: {modality: array or `Shared` [N, ...]}, raw as an exported file takes them: pixels uint8
            0..255, word ids int32, waveforms float32 in [-1, 1]. Perhaps "present", float32 [N, M].
        labels: int32 [N], indices into `MultimodalData.labels`.
        groups: {name: bool [N]}, kinds of examples whose scores are of interest one by one.
    """

    inputs: dict
    labels: np.ndarray
    groups: dict = dataclasses.field(default_factory=dict)

    def __len__(self):
        return len(self.labels)

    def take(self, rows: slice | np.ndarray, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """{name: array} of some rows, of all inputs or of those named."""
        return {name: np.asarray(self.inputs[name][rows]) for name in names or self.inputs}

    def only(self, names: Iterable[str]) -> "Examples":
        """The same examples with fewer inputs."""
        return dataclasses.replace(self, inputs={name: self.inputs[name] for name in names})


@dataclasses.dataclass(frozen=True, eq=False)
class MultimodalData:
    """A labelled set of such examples.

    Attributes:
        train, test: two `Examples`.
        labels: the class names.
        modalities: {name: `keras_vit.modalities.Modality`} that take the inputs, of no width yet.
        source: what it was loaded from.
        fingerprint: 16 hex digits; equal ones mean the same examples.
        skipped: which rows of its tables were left out, as they could not be used.
        val: a third `Examples`, by which training chooses between epochs; None where the source has none.
    """

    train: Examples
    test: Examples
    labels: list
    modalities: dict
    source: str
    fingerprint: str
    skipped: list = dataclasses.field(default_factory=list)
    val: Examples | None = None

    @property
    def choosing(self) -> Examples:
        """The examples that choices are made by: `val`, or `test` where there is none."""
        return self.test if self.val is None else self.val

    def only(self, names: Iterable[str]) -> "MultimodalData":
        """The same data with fewer modalities."""
        return dataclasses.replace(
            self,
            train=self.train.only(names),
            test=self.test.only(names),
            val=self.val and self.val.only(names),
            modalities={name: self.modalities[name] for name in names},
        )

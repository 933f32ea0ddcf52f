"""What a `MultimodalViT` takes: raw inputs by name, and `present`."""

import keras
import numpy as np
from keras import ops

from keras_vit.config import PRESENT, Tensor
from keras_vit.errors import InputError, one_of
from keras_vit.modalities import Modality
from keras_vit.modalities.pixels import ChecksArrays, Pixels
from keras_vit.modalities.values import concrete_values


class NamedInputs(ChecksArrays):
    """Mixed into a model with `modalities`."""

    def input_signature(self, present: bool = False) -> list:
        """That of all modalities; with `present=True` also of what says which of them are there.

        model.export(folder, input_signature=model.input_signature(present=True))
        """
        signature = self.signature()
        if not present:
            del signature[PRESENT]
        specs = {
            name: keras.InputSpec(shape=(None, *spec["shape"]), dtype=spec["dtype"])
            for name, spec in signature.items()
        }
        return [specs]

    def __call__(self, inputs, *arguments, **options):
        self._check(inputs)  # here, since Keras wraps what `call` raises in many lines
        return super().__call__(inputs, *arguments, **options)

    def check_range_of(self, inputs: dict) -> None:
        """See `RangeCheck.check_range`."""
        present = inputs.get(PRESENT)
        for i, (name, modality) in enumerate(self.modalities.items()):
            if isinstance(modality, Pixels) and name in inputs:
                modality.check_range(inputs[name], None if present is None else present[:, i])

    def signature(self) -> dict:
        """{name: {"shape", "dtype"}} of what an exported file takes: each raw input, and "present"."""
        inputs = {name: modality.signature() for name, modality in self.modalities.items()}
        return {**inputs, PRESENT: {"shape": (len(self.modalities),), "dtype": "float32"}}

    def prepare(self, inputs: dict) -> Tensor:
        """{name: raw input, as exported files take it} as this model takes it: pixels become normalised."""
        return {
            name: ops.cast(x, "float32") if name == PRESENT else self.modalities[name].prepare(x)
            for name, x in inputs.items()
        }

    def _check(self, inputs):
        """Raise InputError for unknown names, or a `present` that does not fit; its values count, too."""
        known = [*self.modalities, PRESENT]
        if not isinstance(inputs, dict):
            raise InputError(
                f"this model takes a dictionary of {', '.join(known)}, not {type(inputs).__name__}."
            )
        for name in inputs:
            one_of("input", name, known)
        if not set(inputs) - {PRESENT}:
            raise InputError(f"nothing is given: at least one of {', '.join(self.modalities)} must be.")
        present = inputs.get(PRESENT)
        if present is None:
            return
        if not hasattr(present, "shape"):
            raise InputError(f"present must be an array [batch, modalities], not a {type(present).__name__}.")
        if len(present.shape) != 2 or present.shape[1] != len(self.modalities):
            raise InputError(
                f"present has the shape {list(present.shape)}; expected [batch, {len(self.modalities)}], one "
                f"column for each of {', '.join(self.modalities)}."
            )
        values = concrete_values(present)
        if values is None:  # while a graph is traced; [CLS] is there in any case
            return
        if values.dtype.kind not in "buif":
            raise InputError(f"present must be numbers, 1 or 0 for each modality, not {values.dtype}.")
        given = values[:, [name in inputs for name in self.modalities]] > 0.5
        if not given.any(axis=1).all():
            row = int(np.argmin(given.any(axis=1)))
            raise InputError(f"nothing is present in example {row}: each needs at least one modality.")


def checked_modalities(modalities: dict) -> dict:
    if not isinstance(modalities, dict) or not modalities:
        raise InputError(f"modalities must be {{name: modality}} with at least one, not {modalities!r}.")
    for name, modality in modalities.items():
        if name == PRESENT:
            raise InputError(
                'a modality cannot be named "present": that is the input that says what is absent.'
            )
        if not isinstance(modality, Modality):
            raise InputError(
                f"{name!r} is a {type(modality).__name__}, not a modality: see keras_vit.modalities.Modality "
                "for how to write one."
            )
    return modalities

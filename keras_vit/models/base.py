"""`Model`: what our models share as Keras models: their names, when they are built, what `export` takes."""

import json
import re
from typing import Any

import keras
import numpy as np

from keras_vit._compat import ModelWithSignature, allow_more_layers, flatten_layers

QUANTIZED = "quantized"  # beside the variables in a file: layers that Keras has quantized


class Model(ModelWithSignature):
    """A `keras.Model` that is built where it is made, and knows what it takes.

    A kind defines `build`, which does nothing the second time, and `input_signature`.

    Args:
        name: None for Keras' automatic one: "vit", then "vit_1", ...
        **options: of `keras.Model`: dtype, trainable.
    """

    def __init__(self, name: str | None = None, **options: Any) -> None:
        super().__init__(name=_automatic_name(type(self)) if name is None else name, **options)

    def input_signature(self) -> list:
        """The inputs of a call, as `export` takes them: [a `keras.InputSpec`, or a dictionary of them]."""
        raise NotImplementedError

    def build_now(self, input_shape: Any) -> None:
        """`build`, in a constructor. A subclass can add layers of its own after that."""
        self.build(input_shape)
        # Keras (3.15) has no public way to build without closing the model to further layers.
        allow_more_layers(self)

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: Any = None,
        input_signature: list | None = None,
        **options: Any,
    ) -> Any:
        """As `keras.Model.export`, also of a model that was never called.

        Args:
            filepath, format, verbose: as there.
            input_signature: None: `model.input_signature()`, of any batch size.
            **options: as there.
        """
        if input_signature is None:
            input_signature = self.input_signature()
        return super().export(filepath, format, verbose, input_signature, **options)

    def save_own_variables(self, store: Any) -> None:
        """As in Keras; and which layers Keras has quantized, since our configurations do not have those of a
        user's layers."""
        super().save_own_variables(store)
        found = {
            i: [layer.quantization_mode, keras.saving.serialize_keras_object(layer.quantization_config)]
            for i, layer in enumerate(flatten_layers(self))
            if getattr(layer, "quantization_mode", None)
        }
        if found:
            store[QUANTIZED] = np.frombuffer(json.dumps(found).encode(), "uint8")

    def load_own_variables(self, store: Any) -> None:
        """As in Keras, whose variables of the inner layers come after those of this one."""
        names = list(store.keys())
        if QUANTIZED in names:
            layers = flatten_layers(self)
            for i, (mode, config) in json.loads(np.asarray(store[QUANTIZED]).tobytes()).items():
                if not layers[int(i)].quantization_mode:
                    layers[int(i)].quantize(mode, config=keras.saving.deserialize_keras_object(config))
            store = {name: store[name] for name in names if name != QUANTIZED}
        super().load_own_variables(store)

    @property
    def takes_floats_alone(self) -> bool:
        """Whether all inputs are float32."""
        return {spec.dtype for spec in keras.tree.flatten(self.input_signature())} == {"float32"}


def shapes_of(signature: list) -> Any:
    """The shapes of what `Model.input_signature` gives, as `build` takes them."""
    (specs,) = signature
    if isinstance(specs, dict):
        return {name: spec.shape for name, spec in specs.items()}
    return specs.shape


def _automatic_name(kind):
    """What Keras would call a model of that class, but "vit" and not "vi_t"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__.replace("ViT", "Vit")).lower()
    number = keras.backend.get_uid(words)  # the counter of Keras' own names
    return words if number == 1 else f"{words}_{number - 1}"

"""`Modality`: from one kind of raw input to tokens, and how to add a kind of your own.

A modality is a Keras layer: raw input [B, ...] -> (tokens [B, N, width], mask [B, N]), True = real. N,
`modality.tokens`, is fixed and known before the layer is built. Everything else about it is said once:

- `signature()`: the shape and dtype of the raw input, from which a model is built and exported;
- `blank(batch)`: the raw input that stands for "absent"; where `present` is 0, it replaces what is given;
- `encode(examples)`: what people have (texts, sound files, clips) -> the array that the layer takes;
- `prepare(raw)`: pixels 0..255 -> normalised ones; everything else is as it was;
- `with_width(width)`: the modality for a model whose tokens have that width. A modality on its own gets
  it as an argument: `Image(32, 4, width=64)`.

A modality of your own needs three methods. This one, a table of numbers of which some are missing, is
run by the tests as it stands here:

    import keras
    from keras import ops
    from keras_vit.modalities import Modality

    @keras.saving.register_keras_serializable("mine")
    class Table(Modality):
        '''Numbers [B, columns], NaN where one is missing: a token for each column.'''

        def __init__(self, columns, **kwargs):
            super().__init__(**kwargs)
            self.columns = self.tokens = columns

        def signature(self):
            return {"shape": (self.columns,), "dtype": "float32"}

        def build(self, input_shape):
            shape = (1, self.columns, self.width)
            self.slope = self.add_weight(shape=shape, initializer="random_normal", name="slope")
            self.start = self.add_weight(shape=shape, initializer="random_normal", name="start")

        def tokenize(self, table):
            real = ops.logical_not(ops.isnan(table))
            numbers = ops.expand_dims(ops.where(real, table, 0.0), 2)
            return numbers * self.slope + self.start, real

        def get_config(self):
            return {**super().get_config(), "columns": self.columns}

It takes part like the others: `MultimodalViT(modalities={"table": Table(7), ...}, ...)`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Tensor, integer
from keras_vit.errors import InputError
from keras_vit.layers.masks import ExplicitMask, as_mask
from keras_vit.layers.patches import only_real
from keras_vit.layers.quantization import Quantizable


class Modality(Quantizable, ExplicitMask, keras.layers.Layer):
    """The base of all modalities: raw input [B, ...] -> (tokens [B, N, width], mask [B, N]).

    A kind sets `tokens` and defines `signature` and `tokenize`; `build` and `get_config` as in every layer.
    `call` does what all share: where `present` is 0, the input counts as `blank`, whatever stands there
    (NaN too), and the mask is False. Tokens that the mask leaves out are exactly 0.

    The roles of its tensors for quantization are "table" (of vectors that ids choose from), "tokens" (before)
    and "positioned" (after the positions). A modality of your own that declares none (see
    `layers.quantization`) stays float up to the trunk, but for `Linear` layers in it.

    Args:
        width: length of a token; None until `with_width` says it.

    Raises:
        InputError: an input of another shape or type than `signature` says; no width.
    """

    blank_value: float = 0

    def __init__(self, width: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._width = None if width is None else integer("width", width, 1)

    @property
    def width(self) -> int:
        """Length of a token; an InputError as long as nobody has said it."""
        if self._width is None:
            raise InputError(
                f"{self._title} has no width yet: hand it to a MultimodalViT, which gives it its own, or "
                "say width=..."
            )
        return self._width

    def signature(self) -> dict:
        """{"shape": of one raw input, without the batch, "dtype": "float32" or "int32"}."""
        raise NotImplementedError

    def tokenize(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw input -> (tokens [B, N, width], mask [B, N] or None when all are real)."""
        raise NotImplementedError

    def blank(self, batch: int = 1) -> np.ndarray:
        """The raw input that stands for "absent": a NumPy array [batch, ...]."""
        signature = self.signature()
        return np.full((batch, *signature["shape"]), self.blank_value, signature["dtype"])

    def encode(self, examples: Any) -> np.ndarray:
        """`examples`, an array or a list, as the array [B, ...] that the layer takes."""
        return self._checked(np.asarray(examples)).astype(self.signature()["dtype"])

    def prepare(self, raw: Tensor) -> Tensor:
        """Raw input [B, ...], as exported files take it, as the layer takes it: pixels become normalised."""
        return ops.cast(raw, self.signature()["dtype"])

    def with_width(self, width: int, num_heads: int | None = None, **changes: Any) -> "Modality":
        """This modality for a model of that width: itself if it is one already, else a copy.

        Args:
            width: of the model's tokens.
            num_heads: of the model's attention; for a modality that has attention and was not told.
            **changes: further arguments of the layer to replace: name, dtype.
        """
        if self._width not in (None, width):
            raise InputError(
                f"{self._title} makes tokens of width {self._width} and cannot enter a model of width "
                f"{width}: leave out its width, or use the same."
            )
        config = self.get_config()
        wanted = {**config, "width": integer("width", width, 1)}
        if "num_heads" in config and config["num_heads"] is None:
            wanted["num_heads"] = num_heads
        for key, value in changes.items():
            is_policy = key == "dtype" and value is not None
            wanted[key] = (
                keras.saving.serialize_keras_object(keras.dtype_policies.get(value)) if is_policy else value
            )
        if wanted == config:
            return self
        twin = type(self).from_config(wanted)
        if self.built:
            twin.build((None, *self.signature()["shape"]))
            twin.set_weights(self.get_weights())
        return twin

    def __call__(self, inputs, *arguments, **options):
        # Here, since Keras wraps what `call` raises in many lines.
        inputs = self._checked(inputs if hasattr(inputs, "shape") else np.asarray(inputs))
        _ = self.width
        return super().__call__(inputs, *arguments, **options)

    def call(
        self, inputs: Tensor, present: Tensor | None = None, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """`present`: bool or float [B] or [B, 1], 0 where this input is absent."""
        if present is not None:
            present = ops.reshape(as_mask(present), (-1, 1))
            rows = ops.reshape(present, (-1, *(1,) * (len(inputs.shape) - 1)))
            inputs = ops.where(rows, inputs, ops.cast(self.blank_value, inputs.dtype))
        tokens, mask = self.tokenize(inputs)
        if mask is None:
            mask = ops.ones_like(tokens[:, :, 0], dtype="bool")
            if present is None:
                return tokens, mask
        if present is not None:
            mask = ops.logical_and(mask, present)
        return only_real(tokens, mask), mask

    def compute_output_spec(
        self, inputs: Tensor, present: Tensor | None = None, training: bool | None = None
    ) -> Any:
        shape = (inputs.shape[0], self.tokens)
        return (
            keras.KerasTensor((*shape, self.width), dtype=self.compute_dtype),
            keras.KerasTensor(shape, dtype="bool"),
        )

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        shape = (input_shape[0], self.tokens)
        return (*shape, self.width), shape

    def get_config(self) -> dict:
        return {**super().get_config(), "width": self._width}

    @property
    def _title(self):
        return f"{type(self).__name__} {self.name!r}"

    def _checked(self, inputs):
        """`inputs` if shape and kind of number are those of the signature, else InputError."""
        shape, dtype = (None, *self.signature()["shape"]), self.signature()["dtype"]
        given, kind = tuple(inputs.shape), keras.backend.standardize_dtype(inputs.dtype)
        fits = len(given) == len(shape) and all(
            None in (a, b) or a == b for a, b in zip(given, shape, strict=True)
        )
        numbers = ("int", "uint") if "int" in dtype else ("int", "uint", "float", "bfloat")
        if not fits or not kind.startswith(numbers):
            expected = ", ".join(["batch", *map(str, shape[1:])])
            raise InputError(
                f"{self._title} takes {dtype} [{expected}], not {kind} {list(given)}: "
                "its `encode` makes such arrays from what you have."
            )
        return inputs


def deserialized(pairs: list) -> dict:
    """{name: modality, not built} of [[name, what `keras.saving.serialize_keras_object` gave]].

    Without its build_config, a modality is built by the model, and its variables are named from that down.

    Raises:
        InputError: something in it is no modality, or none that is known here.
    """
    found = {}
    for name, modality in pairs:
        try:
            found[name] = keras.saving.deserialize_keras_object({**modality, "build_config": None})
        except Exception as error:  # Keras raises whatever the classes that are named there raise
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the modality {name!r} cannot be made ({why}): import its class, or train again."
            ) from error
        if not isinstance(found[name], Modality):
            raise InputError(f"{name!r} is a {type(found[name]).__name__}, no modality: train again.")
    return found


def in_words(number: int, thing: str) -> str:
    """ "1 text", "3 texts"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"

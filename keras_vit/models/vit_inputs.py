"""What a `ViT` takes: images, and with `patch_mask` which of their patches are real."""

import keras
from keras import ops

from keras_vit.config import Tensor
from keras_vit.errors import InputError
from keras_vit.layers.masks import as_mask
from keras_vit.modalities.pixels import ChecksArrays, RangeCheck


class ImageInputs(RangeCheck, ChecksArrays):
    """Mixed into a model with `config`, `image_size`, `preprocessing` and `include_preprocessing`."""

    def input_signature(self) -> list:
        image = keras.InputSpec(shape=(None, *self.signature()["image"]["shape"]), dtype="float32")
        if not self.config.patch_mask:
            return [image]
        rows, columns = self.config.grid(self.image_size)
        mask = keras.InputSpec(shape=(None, rows * columns), dtype="float32")
        return [{"image": image, "patch_mask": mask}]

    def __call__(self, inputs, *arguments, **options):
        # Here, since Keras wraps what `call` raises in many lines.
        images, _ = self.images_and_mask(inputs)
        self.check_range(images)
        return super().__call__(inputs, *arguments, **options)

    def check_range_of(self, inputs: Tensor) -> None:
        """See `RangeCheck.check_range`."""
        self.check_range(inputs.get("image") if isinstance(inputs, dict) else inputs)

    def images_and_mask(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """(images, boolean mask [B, N] or None) of what a call is given; InputError for other shapes."""
        images, mask = inputs, None
        if isinstance(inputs, dict):
            known = {"image", "patch_mask"} if self.config.patch_mask else {"image"}
            if "image" not in inputs or not set(inputs) <= known:
                raise InputError(
                    f"this model takes {' and '.join(sorted(known))}, not {', '.join(sorted(inputs))}"
                    + ("." if self.config.patch_mask else ": build it with patch_mask=True for a mask.")
                )
            images, mask = inputs["image"], inputs.get("patch_mask")
        given, (height, width), channels = tuple(images.shape), self.image_size, self.config.channels
        wrong_size = len(given) != 4 or (given[1:3] != (height, width) and not self.config.patch_mask)
        if wrong_size or given[3] != channels:
            size = f"{height}, {width}" if not self.config.patch_mask else "height, width"
            way_out = f"use model.rebuilt(channels={given[-1]})"
            if wrong_size:
                way_out = (
                    f"resize them, use model.rebuilt(image_size={list(given[1:3])}), or patch_mask=True for "
                    "many sizes"
                )
            raise InputError(
                f"this model takes images of shape [batch, {size}, {channels}], not {list(given)}: {way_out}."
            )
        if mask is None:
            return images, None
        rows, columns = self.config.grid(given[1:3])
        if len(mask.shape) != 2 or mask.shape[1] != rows * columns:
            raise InputError(
                f"patch_mask of shape {list(mask.shape)} for images of shape {list(given)}: it must be "
                f"[batch, {rows * columns}], one number for each of {rows} x {columns} patches."
            )
        return images, as_mask(mask)

    def signature(self) -> dict:
        """{"image": {"shape": (H, W, C), "dtype": "float32"}}: what an exported file takes, pixels 0..255."""
        return {"image": {"shape": (*self.image_size, self.config.channels), "dtype": "float32"}}

    def prepare(self, images: Tensor) -> Tensor:
        """Pixels [B, H, W, C] in 0..255, as exported files take them, as this model takes them.

        That is normalised; or as they are, with `include_preprocessing`.
        """
        return ops.cast(images, "float32") if self.include_preprocessing else self._normalise(images)

    def normalised(self, images: Tensor) -> Tensor:
        """What this model takes, [B, H, W, C], normalised, if it is not so already."""
        return self._normalise(images) if self.include_preprocessing else images

    def _normalise(self, images):
        mean, std = (ops.convert_to_tensor(self.preprocessing[key], "float32") for key in ("mean", "std"))
        return (ops.cast(images, "float32") / 255.0 - mean) / std

"""A `ViT` of a checkpoint, or of another `ViT` with some arguments changed."""

from typing import Any

from keras_vit.config import Size, ViTConfig
from keras_vit.modalities.pixels import for_channels
from keras_vit.models.activation import inherited_activation
from keras_vit.models.checkpoints import load_model
from keras_vit.models.transfer import transfer


class Rebuilt:
    """Mixed into `ViT`, whose `_arguments` are those of its constructor."""

    @classmethod
    def from_checkpoint(
        cls, path: Any, num_classes: int | None = None, image_size: Size | None = None, **changes: Any
    ) -> "Rebuilt":
        """A ViT with published weights: `keras_vit.weights` lists the formats.

        Args:
            path: an original .npz, a timm .safetensors or a Hugging Face folder.
            num_classes: None keeps the head of the file; another number than the file's gets a fresh one.
            image_size: None keeps the file's; positions are resized to another.
            **changes: anything else to change, as in `rebuilt`; `num_heads` for a file that lacks it.

        Raises:
            InputError: the file is no such checkpoint, or its tensors do not fit.
        """
        return load_model(cls, path, num_classes=num_classes, image_size=image_size, **changes)[0]

    def rebuilt(self, **changes):
        """A new ViT with this one's weights and some arguments changed.

        Another `image_size` gets resized positions, another `patch_size` a resized patch kernel, another
        number of classes a fresh head; every other variable that is new or has a new shape starts afresh.
        An `activation` that is not the usual one for its classes is kept.
        For other `channels` the kernel that meets pixels is summed (to 1) or repeated (see `for_channels` in
        `models/transfer.py`), and `preprocessing`, unless given, averaged or repeated.

        Args:
            **changes: arguments of the constructor, fields of `ViTConfig` included.
        """
        arguments = {**self._arguments(), "activation": inherited_activation(self), **changes}
        if "preprocessing" not in changes:
            said = {"channels": changes["channels"]} if "channels" in changes else {}
            channels = ViTConfig.of(arguments["config"], **said).channels
            arguments["preprocessing"] = for_channels(self.preprocessing, channels)
        return transfer(self, type(self)(**arguments))

    def reset_classifier(self, num_classes: int | None) -> "Rebuilt":
        """A new ViT with this one's weights and a fresh head for `num_classes` (None: no head)."""
        return self.rebuilt(num_classes=None).rebuilt(num_classes=num_classes)

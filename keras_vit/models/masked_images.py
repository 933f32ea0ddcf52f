"""What makes `MaskedViT` a model of images. A subclass for other tokens overrides these methods."""

import numpy as np
from keras import ops

from keras_vit.config import Tensor
from keras_vit.layers.patches import cut
from keras_vit.losses import patch_statistics
from keras_vit.mixin import Mixin


class MaskedImages(Mixin):
    """Mixed into a model with `encoder`, a `ViT`, and `reconstruction`, its loss."""

    def grid(self, inputs: Tensor) -> tuple[int, int]:
        """(rows, columns) of the tokens; (1, N) of a sequence."""
        images, _ = self.encoder.images_and_mask(inputs)
        return self.encoder.config.grid(images.shape[1:3])

    def real(self, inputs: Tensor) -> Tensor | None:
        """bool [B, N], False for padding; or None."""
        return self.encoder.images_and_mask(inputs)[1]

    def tokens(self, inputs: Tensor, visible: Tensor) -> Tensor:
        """Tokens [B, N, D] before positions are added; those where `visible` [B, N] is False may be anything,
        but must not have been seen by the others (as convolutions do)."""
        images, _ = self.encoder.images_and_mask(inputs)
        return self.encoder.patches(self.encoder.normalised(images), mask=visible)

    def targets(self, inputs: Tensor) -> Tensor:
        """[B, N, P], what is to be predicted for each token: the pixels of its patch, normalised."""
        images, _ = self.encoder.images_and_mask(inputs)
        h, w = self.encoder.config.patch_size
        return cut(self.encoder.normalised(images), self.grid(inputs), h, w * images.shape[3])

    def target_width(self) -> int:
        """P."""
        h, w = self.encoder.config.patch_size
        return h * w * self.encoder.config.channels

    def reconstruct(self, images: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is hidden in pictures, and what the model makes of it.

        Where the loss compares normalised patches, the model predicts no brightness or contrast of a patch:
        each predicted patch then gets those of the true one.

        Args:
            images: what the model takes: normalised [B, H, W, C], or {"image", "patch_mask"}.

        Returns:
            (masked, reconstructions, mask): NumPy float32 [B, H, W, C], normalised, with hidden patches 0,
            the same with hidden patches predicted, and bool [B, N], True = hidden.
        """
        answer = self(images, training=False)
        true = ops.cast(self.targets(images), "float32")
        predicted = ops.cast(answer["patches"], "float32")
        if self.reconstruction.normalise:
            mean, deviation = patch_statistics(true)
            predicted = predicted * deviation + mean
        true, predicted, mask = (ops.convert_to_numpy(x) for x in (true, predicted, answer["mask"]))
        hidden = mask[:, :, np.newaxis]
        grid, size = self.grid(images), self.encoder.config.patch_size
        masked = pictures(np.where(hidden, np.float32(0), true), grid, size)
        return masked, pictures(np.where(hidden, predicted, true), grid, size), mask


def pictures(patches: np.ndarray, grid: tuple[int, int], patch_size: tuple[int, int]) -> np.ndarray:
    """The inverse of `cut`, in NumPy: [B, rows * columns, h * w * C] -> [B, H, W, C]."""
    (rows, columns), (h, w) = grid, patch_size
    x = patches.reshape(len(patches), rows, columns, h, w, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(patches), rows * h, columns * w, -1)

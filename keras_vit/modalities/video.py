"""`Video`: a clip as boxes of space and time."""

from typing import Any

import keras
import numpy as np

from keras_vit.config import Size, integer, pair
from keras_vit.errors import InputError
from keras_vit.layers.tubelets import Tubelets
from keras_vit.modalities.grid import GridModality
from keras_vit.modalities.pixels import Pixels


@keras.saving.register_keras_serializable("keras_vit")
class Video(Pixels, GridModality):
    """Clips [B, frames, height, width, channels] -> a token for each tubelet, earlier ones first.

    The grid of the positions has a row for each time and a column for each place in the picture, so that
    "factorised" is a vector of the time plus one of the place.

    Args:
        frames: of a clip; one is allowed.
        image_size: (height, width) in pixels or one integer, multiples of the patch.
        patch_size: (height, width) in pixels or one integer.
        tubelet: frames in a token; None: 2 where that divides `frames`, else 1.
        channels: 3 for RGB.
        position: see `GridModality`.
        preprocessing: see `Image`.
        width: see `Modality`.
    """

    def __init__(
        self,
        frames: int,
        image_size: Size,
        patch_size: Size,
        tubelet: int | None = None,
        channels: int = 3,
        position: str = "factorised",
        preprocessing: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(position, **kwargs)
        self.frames, self.channels = integer("frames", frames, 1), integer("channels", channels, 1)
        self.image_size, self.patch_size = pair(image_size, "image_size"), pair(patch_size, "patch_size")
        self.tubelet = 2 - frames % 2 if tubelet is None else integer("tubelet", tubelet, 1)
        self.take_preprocessing(preprocessing)
        self.lay_out(self.frames, *self.image_size)

    def signature(self) -> dict:
        return {"shape": (self.frames, *self.image_size, self.channels), "dtype": "float32"}

    def tokenizer(self, width: int, **kwargs: Any) -> keras.layers.Layer:
        return Tubelets((self.tubelet, *self.patch_size), width, **kwargs)

    def encode(self, clips: list) -> np.ndarray:
        """Clips [T, height, width, channels] of any number of frames each, as one array.

        Frames are taken at equal distances, the first and the last always; of a clip with fewer frames some
        are taken more than once.
        """
        return super().encode(np.stack([self._sampled(np.asarray(clip)) for clip in clips]))

    def _sampled(self, clip):
        if clip.ndim != 4 or not len(clip):
            raise InputError(f"a clip is [frames, height, width, channels], not {list(clip.shape)}.")
        chosen = np.linspace(0, len(clip) - 1, self.frames).round().astype(int)
        return clip[chosen]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "frames": self.frames,
            "image_size": list(self.image_size),
            "patch_size": list(self.patch_size),
            "tubelet": self.tubelet,
            "channels": self.channels,
            "preprocessing": self.preprocessing,
        }

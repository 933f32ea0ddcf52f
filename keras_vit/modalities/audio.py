"""`Audio`: a sound as patches of its log-mel spectrogram, all inside the model."""

import os
import warnings
from typing import Any

import keras
import numpy as np

from keras_vit.config import Shape, Size, Tensor, integer, pair
from keras_vit.errors import Notice
from keras_vit.layers.spectrogram import SpectrogramPatches
from keras_vit.modalities.base import in_words
from keras_vit.modalities.grid import GridModality
from keras_vit.modalities.logmel import LogMel
from keras_vit.modalities.waveforms import fitted, load_audio


@keras.saving.register_keras_serializable("keras_vit")
class Audio(GridModality):
    """Waveforms [B, samples] in [-1, 1] -> a token for each patch of `LogMel`, earlier ones first.

    The end is padded with silence until patches fill it.

    Args:
        samples: length of a waveform.
        sample_rate: in Hz.
        patch_size: (frames, bands) of a token, or one integer; the bands must divide `mels`.
        mels, window, hop: see `LogMel`.
        position: see `GridModality`; rows of the grid are times, columns are bands.
        width: see `Modality`.
    """

    def __init__(
        self,
        samples: int,
        sample_rate: int,
        patch_size: Size = 16,
        mels: int = 64,
        window: int | None = None,
        hop: int | None = None,
        position: str = "learned",
        **kwargs: Any,
    ) -> None:
        super().__init__(position, **kwargs)
        self.autocast = False  # the waveform stays float32 up to its spectrogram
        self.samples, self.patch_size = integer("samples", samples, 1), pair(patch_size, "patch_size")
        self.spectrogram = LogMel(
            sample_rate,
            mels,
            window,
            hop,
            multiple=self.patch_size[0],
            dtype=self.dtype_policy,
            name="logmel",
        )
        self.lay_out(self.spectrogram.frames(samples), self.spectrogram.mels)

    @property
    def sample_rate(self) -> int:
        return self.spectrogram.sample_rate

    def signature(self) -> dict:
        return {"shape": (self.samples,), "dtype": "float32"}

    def tokenizer(self, width: int, **kwargs: Any) -> keras.layers.Layer:
        return SpectrogramPatches(self.patch_size, width, **kwargs)

    def build(self, input_shape: Shape) -> None:
        self.spectrogram.build((None, self.samples))
        super().build(input_shape)

    def pieces_shape(self, input_shape: Shape) -> Shape:
        return self.spectrogram.compute_output_shape(input_shape)

    def tokenize(self, waveforms: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().tokenize(self.spectrogram(waveforms))

    def encode(self, sounds: Any, rate: int | None = None) -> np.ndarray:
        """Sounds as one array [B, samples]: resampled, mixed to one channel, padded or cut at the end.

        Args:
            sounds: list of paths of .wav files and arrays (see `load_audio`); or one of them.
            rate: in Hz, of the arrays; None: the sample rate of this modality.

        Warns:
            once, how many sounds were cut and how long the longest is.
        """
        if isinstance(sounds, str | os.PathLike) or (isinstance(sounds, np.ndarray) and sounds.ndim == 1):
            sounds = [sounds]
        waveforms = [load_audio(sound, self.sample_rate, rate) for sound in sounds]
        long = [len(waveform) for waveform in waveforms if len(waveform) > self.samples]
        if long:
            warnings.warn(
                f"{in_words(len(long), 'sound')} cut to {self.samples / self.sample_rate:g} s, which is what "
                f"{self._title} takes: the longest has {max(long) / self.sample_rate:g} s.",
                Notice,
                stacklevel=2,
            )
        return super().encode(np.stack([fitted(waveform, self.samples) for waveform in waveforms]))

    def get_config(self) -> dict:
        spectrogram = self.spectrogram
        return {
            **super().get_config(),
            "samples": self.samples,
            "sample_rate": spectrogram.sample_rate,
            "patch_size": list(self.patch_size),
            "mels": spectrogram.mels,
            "window": spectrogram.window,
            "hop": spectrogram.hop,
        }

"""`LogMel`: from a waveform to a picture of its loudness over time and pitch, by matrix products alone."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Tensor, integer
from keras_vit.errors import InputError

FLOOR = 1e-8  # of the power: -80 dB
# The power is computed in this unit, in which the floor is no zero in a file with float16 weights.
UNIT = 1e-4


@keras.saving.register_keras_serializable("keras_vit")
class LogMel(keras.layers.Layer):
    """Waveforms [B, samples] in [-1, 1] -> log-mel spectrograms [B, frames, mels], about -1 to 1.

        power = |sum_n w[n] x[n] exp(-2 pi i k n / window)|^2 (2 / sum_n w[n])^2,  w: periodic Hann
        y = (10 log10(max(filters . power, 1e-8)) + 40) / 40

    Frame f is centred on hop f + hop / 2; what lies outside of the waveform counts as 0. Silence is -1, and
    a sine of amplitude 1 is 0 dB in its frequency bin, so about 1. `filters` are triangles of height 1 whose
    corners stand at equal distances on Slaney's mel scale, from 0 to half the sample rate.

    The Fourier transform is two products with fixed matrices and framing is reshapes and slices: every
    phone runtime has these. All in float32, whatever the policy; no weights.

    Args:
        sample_rate: in Hz.
        mels: bands.
        window: samples in a frame; None: 25 ms.
        hop: samples from one frame to the next, at most `window`; None: 10 ms.
        multiple: the number of frames is rounded up to a multiple of this.
    """

    def __init__(
        self,
        sample_rate: int,
        mels: int = 64,
        window: int | None = None,
        hop: int | None = None,
        multiple: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # 8 bits of a sample are too few
        self.sample_rate, self.mels = integer("sample_rate", sample_rate, 1), integer("mels", mels, 1)
        self.window = round(0.025 * sample_rate) if window is None else window
        self.hop = round(0.010 * sample_rate) if hop is None else hop
        self.multiple = integer("multiple", multiple, 1)
        if integer("hop", self.hop, 1) > integer("window", self.window, 2):
            raise InputError(
                f"hop {self.hop} is longer than the window {self.window} and would skip samples: "
                f"use at most {self.window}."
            )
        empty = np.flatnonzero(mel_filters(self.sample_rate, self.window, self.mels).sum(axis=0) == 0)
        if len(empty):
            raise InputError(
                f"a window of {self.window} samples at {sample_rate} Hz cannot tell {mels} bands apart: "
                f"band {empty[0]} would be empty. Use fewer mels or a longer window."
            )

    def frames(self, samples: int) -> int:
        """How many frames a waveform of that many samples has."""
        return -(-samples // (self.hop * self.multiple)) * self.multiple

    def build(self, input_shape: Shape) -> None:
        filters = mel_filters(self.sample_rate, self.window, self.mels)
        heard = np.flatnonzero(filters.any(axis=1))  # the frequencies that some band listens to
        n = np.arange(self.window)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / self.window)
        angles = 2 * np.pi / self.window * (np.outer(n, heard) % self.window)
        # A frame consists of whole hops; what it has beyond the window is multiplied by 0.
        rest = -self.window % self.hop
        scaled = hann[:, np.newaxis] * 2 / hann.sum()
        self.cosines, self.sines = (
            np.pad(scaled * wave(angles), ((0, rest), (0, 0))).astype("float32") for wave in (np.cos, np.sin)
        )
        self.filters = (filters[heard] / UNIT).astype("float32")

    def call(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        frames, hops = self.frames(samples), -(-self.window // self.hop)
        before = (self.window - self.hop) // 2
        after = (frames + hops - 1) * self.hop - before - samples
        x = ops.pad(ops.cast(waveforms, "float32"), ((0, 0), (before, after)))
        x = ops.reshape(x, (-1, frames + hops - 1, self.hop))
        x = ops.concatenate([x[:, i : i + frames] for i in range(hops)], axis=2)
        real, imaginary = ops.matmul(x, self.cosines), ops.matmul(x, self.sines)
        power = ops.matmul(real * real + imaginary * imaginary, self.filters)
        decibels = ops.log(ops.maximum(power, FLOOR / UNIT)) * (10 / np.log(10))  # -40 dB are 0
        return ops.cast(decibels / 40, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.frames(input_shape[1]), self.mels)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "sample_rate": self.sample_rate,
            "mels": self.mels,
            "window": self.window,
            "hop": self.hop,
            "multiple": self.multiple,
        }


def mel_filters(sample_rate: int, window: int, mels: int) -> np.ndarray:
    """Triangles of height 1: float64 [window // 2 + 1 frequencies, mels]."""
    corners = hertz(np.linspace(0, mel(sample_rate / 2), mels + 2))
    frequencies = np.arange(window // 2 + 1)[:, np.newaxis] * sample_rate / window
    rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def mel(frequency: Any) -> np.ndarray:
    """Slaney's mel of a frequency in Hz: linear up to 1000 Hz (15 mel), 27 mel for each factor 6.4 above."""
    frequency = np.asarray(frequency, "float64")
    above = 15 + 27 * np.log(np.maximum(frequency, 1000) / 1000) / np.log(6.4)
    return np.where(frequency < 1000, frequency * 3 / 200, above)


def hertz(mels: Any) -> np.ndarray:
    """The inverse of `mel`."""
    mels = np.asarray(mels, "float64")
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((np.maximum(mels, 15) - 15) / 27))

"""Sound in whatever form people have it -> one channel, float32 in [-1, 1], at a given rate.

NumPy and SciPy only.
"""

import io
import math
import os
import warnings
from typing import Any

import numpy as np

from keras_vit.config import integer
from keras_vit.errors import InputError
from keras_vit.files import read_regular

MAX_FILE = 2**28  # bytes of a .wav file: 25 minutes in stereo of 48 kHz and 16 bits, or more
MAX_SAMPLES = 2**27  # of one sound at the rate that is asked for: more than two hours at 16 kHz
MAX_RATE = 10**6  # samples per second
FEW = 8  # channels of one frame


def load_audio(source: Any, sample_rate: int, rate: int | None = None) -> np.ndarray:
    """The sound in a .wav file or an array: float32 [n], one channel, at `sample_rate`.

    Args:
        source: path of a .wav file, or an array [n], [n, channels] or [channels, n]: floats in [-1, 1] or
            integers, whose whole range counts. Time is the longer axis, but [1, channels] of up to 8 is one
            frame. In a file, channels are channels.
        sample_rate: in Hz, of the result.
        rate: in Hz, of an array; None: `sample_rate`. A file says its own.

    Raises:
        InputError: no such file, none that SciPy reads, an array that is no sound, NaN, too long.
    """
    integer("sample_rate", sample_rate, 1)
    channels = None
    if isinstance(source, str | os.PathLike):
        source, rate = read_wav(source)
        channels = 1
    elif rate is None:
        rate = sample_rate
    integer("rate", rate, 1)
    waveform = one_channel(np.asarray(source), channels)
    if rate > MAX_RATE or len(waveform) * sample_rate > MAX_SAMPLES * rate:
        raise InputError(
            f"a sound of {len(waveform)} samples, {rate} a second, is too long at {sample_rate} a second, or "
            f"no sound: cut it to {MAX_SAMPLES // sample_rate} s, or put its rate right."
        )
    if rate == sample_rate:
        return waveform.astype("float32")
    from scipy.signal import resample_poly  # takes a while to import

    divisor = math.gcd(rate, sample_rate)
    return resample_poly(waveform, sample_rate // divisor, rate // divisor).astype("float32")


def prepare_audio(waveform: np.ndarray, rate: int, samples: int, sample_rate: int) -> np.ndarray:
    """`load_audio` of an array, cut or padded with silence at its end: float32 [samples].

    Args:
        waveform: array as in `load_audio`.
        rate: its samples per second.
        samples: length of the result.
        sample_rate: samples per second of the result.
    """
    return fitted(load_audio(waveform, sample_rate, rate), integer("samples", samples, 1))


def fitted(waveform: np.ndarray, samples: int) -> np.ndarray:
    """`waveform` [n], cut or padded with silence at its end: [samples]."""
    waveform = waveform[:samples]
    return np.pad(waveform, (0, samples - len(waveform)))


def read_wav(path: Any) -> tuple[np.ndarray, int]:
    """(array [n] or [n, channels] as it is stored, samples per second) of a .wav file. Raises InputError."""
    from scipy.io import wavfile

    data = read_regular(path, MAX_FILE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of tags, which are no sound
            rate, waveform = wavfile.read(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise InputError(f"{os.fspath(path)!r} is no .wav file that can be read: {error}") from error
    if not 0 < rate <= MAX_RATE:
        raise InputError(f"{os.fspath(path)!r} says that it has {rate} samples a second: put that right.")
    return waveform, rate


def one_channel(waveform: np.ndarray, channels: int | None = None) -> np.ndarray:
    """A sound as float64 [n] in [-1, 1], see `load_audio`; `channels` is their axis, where that is known."""
    waveform = _scaled(waveform)
    if waveform.ndim == 1:
        return waveform
    if channels is None:
        one_frame = waveform.shape[0] == 1 and waveform.shape[1] <= FEW
        channels = 1 if one_frame else int(np.argmin(waveform.shape))
    return waveform.mean(axis=channels)


def _scaled(waveform):
    """As float64 in [-1, 1]."""
    if waveform.ndim not in (1, 2) or not waveform.size or waveform.dtype.kind not in "fiu":
        raise InputError(
            f"a sound is numbers [n] or [n, channels], not {waveform.dtype} {list(waveform.shape)}."
        )
    if waveform.dtype.kind != "f":
        info = np.iinfo(waveform.dtype)
        zero = 0 if info.min else (info.max + 1) // 2  # unsigned samples rest in the middle
        return (waveform.astype("float64") - zero) / ((info.max - info.min + 1) / 2)
    if not np.isfinite(waveform).all():
        at = int(np.argwhere(~np.isfinite(waveform))[0].max())
        raise InputError(f"the sound has NaN or infinity, first at sample {at}: cut it out or set it to 0.")
    loudest = np.abs(waveform).max()
    if loudest > 2:
        raise InputError(
            f"a sound's numbers lie in [-1, 1], and this one has {loudest:g}: divide it by its full scale "
            "(32768 for 16 bits)."
        )
    return waveform.astype("float64")

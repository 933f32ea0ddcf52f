"""How a cell of a table becomes a raw example: a function for each modality, in `READERS`."""

import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageSequence

from keras_vit.data.decoding import MAX_FILE, decode, fit
from keras_vit.data.pixel_range import as_pixels, pixels_problem
from keras_vit.data.tables import read_numbers
from keras_vit.errors import InputError
from keras_vit.files import open_regular, read_regular
from keras_vit.modalities.waveforms import one_channel, read_wav

MAX_CLIP = 2**27  # pixels of all frames of a clip as it is stored
MAX_TRACK = 2**24  # numbers of a track


@dataclasses.dataclass(frozen=True)
class Options:
    """How raw examples become inputs of a fixed size; what is None follows from the data.

    Attributes:
        image_size: (height, width) of pictures and frames.
        patch_size: side of their patches in pixels.
        length: words of a text.
        sentence: tokens of the visual sentence that the text becomes; None for a token for each word.
    """

    image_size: tuple[int, int] | None = None
    patch_size: int | None = None
    length: int | None = None
    sentence: int | None = None


def cell_path(folder: Path, cell: str, column: str) -> Path:
    """The file that a cell names. Raises InputError where there is none."""
    path = folder / cell
    if "\\" in cell and not os.path.lexists(path):  # as Windows writes paths
        path = folder / cell.replace("\\", "/")
    if not os.path.exists(path):
        raise InputError(f"{path} is not there: the column {column!r} names a file relative to the table.")
    return path


def _read_image(folder, cell, options):
    return decode(cell_path(folder, cell, "image"), options.image_size)


def _read_text(folder, cell, options):
    return cell


def _read_audio(folder, cell, options):
    """(float32 [n], samples per second)."""
    path = cell_path(folder, cell, "audio")
    waveform, rate = read_wav(path)
    try:
        return one_channel(waveform, channels=1).astype("float32"), rate
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from error


def _read_video(folder, cell, options):
    path = cell_path(folder, cell, "video")
    clip = _frames(path) if path.suffix.lower() == ".gif" else _array(path)
    if clip.ndim != 4 or clip.shape[3] != 3 or clip.dtype.kind not in "iuf" or not clip.size:
        raise InputError(
            f"{str(path)!r} is {clip.dtype} {list(clip.shape)}, not a clip [frames, height, width, 3] of "
            "values 0..255."
        )
    _check_size(path, len(clip), clip.shape[1:3])
    if problem := pixels_problem(clip):
        raise InputError(f"the values of the clip {str(path)!r} {problem}.")
    # A copy: a mapped file would keep its descriptor, of which a process has a thousand.
    clip = np.array(clip) if clip.dtype == np.uint8 else as_pixels(clip)
    return (
        clip if options.image_size is None else np.stack([fit(frame, options.image_size) for frame in clip])
    )


def _frames(path):
    """The frames of a .gif file: uint8 [frames, height, width, 3]."""
    data = read_regular(path, MAX_FILE)
    try:
        with Pillow.open(io.BytesIO(data), formats=("GIF",)) as image:
            frames = []
            for frame in ImageSequence.Iterator(image):
                _check_size(path, len(frames) + 1, frame.size[::-1])
                frames.append(np.array(frame.convert("RGB")))
            return np.stack(frames)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{str(path)!r} is no .gif that can be read: {error}") from error


def _check_size(path, frames, size):
    height, width = size
    if frames * height * width > MAX_CLIP:
        raise InputError(
            f"{str(path)!r} has {frames} frames or more of {height}x{width}, and a clip has up to "
            f"{MAX_CLIP // 10**6} million pixels: cut it or make it smaller."
        )


def _read_action(folder, cell, options):
    path = cell_path(folder, cell, "action")
    track = _array(path) if path.suffix.lower() == ".npy" else read_numbers(path)
    if track.ndim != 2 or track.dtype.kind not in "iuf" or not track.size:
        raise InputError(
            f"{str(path)!r} is {track.dtype} {list(track.shape)}, not a track of numbers [steps, features]."
        )
    if track.size > MAX_TRACK:
        raise InputError(
            f"{str(path)!r} has {list(track.shape)} numbers, and a track has up to {MAX_TRACK // 10**6} "
            "million: cut it."
        )
    with np.errstate(over="ignore"):
        track = track.astype("float32")
    if not np.isfinite(track).all():
        step = int(np.argwhere(~np.isfinite(track))[0][0])
        raise InputError(
            f"{str(path)!r} has NaN, infinity or a number that float32 cannot hold, first in step {step}: "
            "leave such steps out."
        )
    return track


def _array(path):
    """The array in a .npy file, read when it is used. What its header claims is checked against its size.

    Arrays of objects, which would be unpickled, are refused.
    """
    open_regular(path).close()
    try:
        with np.errstate(over="ignore"):  # NumPy multiplies the claimed sizes, and then looks at the file's
            return np.lib.format.open_memmap(path, mode="r")
    except MemoryError:
        raise
    except Exception as error:  # NumPy parses the header as Python does, and raises as many types
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{str(path)!r} is no .npy file that can be read: {why}") from error


# {modality: (folder of the table, cell, options) -> raw example}; each raises InputError.
READERS: dict[str, Callable[[Path, str, Options], Any]] = {
    "image": _read_image,
    "text": _read_text,
    "audio": _read_audio,
    "video": _read_video,
    "action": _read_action,
}

"""From raw examples to a modality that fits them (`fit_modality`), and to its input (`encode_examples`).

A raw example is what `cell_readers.READERS` reads: an array, a text, or (waveform, samples per second).
"""

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from keras_vit.data.cell_readers import Options, cell_path
from keras_vit.data.decoding import FORMATS, MAX_FILE, fit, to_channels
from keras_vit.files import read_regular
from keras_vit.modalities import Action, Audio, Image, Modality, Text, Video, Vocabulary, load_audio
from keras_vit.modalities.vocabulary import split

MOST_WORDS, MOST_SECONDS, MOST_FRAMES, MOST_STEPS = 64, 10, 16, 128
BATCH = 256  # examples that are encoded at a time


def fit_modality(name: str, examples: Sequence[Any], options: Options) -> Modality:
    """The modality called `name`, of sizes that suit raw examples, where `options` do not say."""
    return FITTERS[name](examples, options)


def encode_examples(name: str, examples: Sequence[Any], modality: Modality) -> np.ndarray:
    """Raw examples, some of them None, as the input [N, ...] of a modality; blank where there is none."""
    shape, dtype = modality.signature()["shape"], modality.signature()["dtype"]
    if hasattr(modality, "preprocessing"):
        dtype = "uint8"
    array = np.repeat(modality.blank(1), len(examples), axis=0).astype(dtype)
    present = [i for i, example in enumerate(examples) if example is not None]
    for start in range(0, len(present), BATCH):
        rows = present[start : start + BATCH]
        batch = [examples[i] for i in rows]
        if name == "image":
            array[rows] = np.stack([to_channels(fit(image, shape[:2]), shape[2]) for image in batch])
        elif name == "video":
            clips = [
                np.stack([to_channels(fit(frame, shape[1:3]), shape[3]) for frame in clip]) for clip in batch
            ]
            array[rows] = modality.encode(clips)
        elif name == "audio":
            waveforms = [load_audio(waveform, modality.sample_rate, rate) for waveform, rate in batch]
            array[rows] = modality.encode(waveforms)
        else:
            array[rows] = modality.encode(batch)
    return array


def with_image_size(
    options: Options, folder: Path, cells: Sequence[str], modalities: Mapping[str, Modality] | None
) -> Options:
    """The options with the size to which images are brought: the model's, or by up to 64 of the `cells`.

    It must be known before the images are read: thousands of photographs would fill the memory.
    """
    if modalities and "image" in modalities:
        return dataclasses.replace(options, image_size=modalities["image"].image_size)
    if options.image_size is not None:
        return options
    shapes, files = [], [cell for cell in cells if cell]
    for i in np.unique(np.linspace(0, len(files) - 1, 64).astype(int)) if files else ():
        # One that cannot be read does not count here; reading them all names it.
        with contextlib.suppress(Exception):
            data = read_regular(cell_path(folder, files[i], "image"), MAX_FILE)
            shapes.append(Pillow.open(io.BytesIO(data), formats=FORMATS).size[::-1])
    return dataclasses.replace(options, image_size=_image_size(shapes) if shapes else (224, 224))


def _image_size(shapes):
    """32, 64 or 224, whichever is near the median side; small images keep their size."""
    side = float(np.median([min(shape) for shape in shapes]))
    if side < 24 and len(set(shapes)) == 1 and all(s % 4 == 0 for s in shapes[0]):
        return shapes[0]
    return (32, 32) if side < 48 else (64, 64) if side < 96 else (224, 224)


def _patch_size(size, options):
    return options.patch_size or max(
        p for p in (1, 2, 4, 8, 16) if all(s % p == 0 and p <= s // 4 for s in size)
    )


def _image(examples, options):
    return Image(options.image_size, _patch_size(options.image_size, options))


def _text(examples, options):
    longest = max(len(split(text)) for text in examples)
    length = options.length or min(max(longest, 1), MOST_WORDS)
    return Text(Vocabulary.from_texts(examples), length, sentence=options.sentence)


def _audio(examples, options):
    sample_rate = examples[0][1]
    seconds = min(max(len(waveform) / rate for waveform, rate in examples), MOST_SECONDS)
    return Audio(round(seconds * sample_rate), sample_rate)


def _video(examples, options):
    size = _image_size([clip.shape[1:3] for clip in examples])
    frames = min(int(np.median([len(clip) for clip in examples])), MOST_FRAMES)
    frames = frames - frames % 2 if frames > 1 else 1
    return Video(frames, size, _patch_size(size, options))


def _action(examples, options):
    steps = min(max(len(track) for track in examples), MOST_STEPS)
    return Action(steps, features=examples[0].shape[1], padding=0.0)


FITTERS = {"image": _image, "text": _text, "audio": _audio, "video": _video, "action": _action}

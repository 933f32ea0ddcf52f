"""Labelled examples of several modalities from a folder with a table.

    DIR/train.csv DIR/test.csv          or DIR/examples.csv, of which a fifth is held out
        label,image,text,audio
        cat,photos/1.jpg,a cat on a mat,
        dog,photos/2.jpg,,sounds/2.wav

One row an example. The column `label` names its class; the others are modalities by name: `image` (a picture
file), `text` (words), `audio` (a .wav file), `video` (a .npy file [frames, height, width, 3] of 0..255, or an
animated .gif) and `action` (a .npy file [steps, features], or a .csv file of numbers without a head). Paths
are relative to the table. An empty cell means that this example has none: then `present` is 0 there.
"""

import contextlib
import csv
import dataclasses
import hashlib
import warnings
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageSequence

from keras_vit.config import PRESENT
from keras_vit.errors import InputError, Notice
from keras_vit.training.examples import Examples, MultimodalData
from keras_vit.training.images import FORMATS, decode, fit, to_channels
from keras_vit.training.layout import choose, natural

TABLES = {"train": "train.csv", "test": "test.csv"}
ALL = "examples.csv"
LABEL = "label"
EXPECTED = "a folder with train.csv and test.csv, or examples.csv: a column `label` and columns of modalities"
MOST_WORDS, MOST_SECONDS, MOST_FRAMES, MOST_STEPS = 64, 10, 16, 128


@dataclasses.dataclass(frozen=True)
class Options:
    """How raw examples become inputs of a fixed size; what is None follows from the data.

    Attributes:
        image_size: (height, width) of pictures and frames.
        patch_size: side of their patches in pixels.
        length: words of a text.
        sentence: tokens of the visual sentence that the text becomes; None for a token for each word.
    """

    image_size: tuple | None = None
    patch_size: int | None = None
    length: int | None = None
    sentence: int | None = None


def is_multimodal(source):
    """Whether `source` is a folder with such a table."""
    path = Path(str(source))
    return path.is_dir() and any((path / name).is_file() for name in (*TABLES.values(), ALL))


def load_examples(source, options=None, modalities=None, test_fraction=0.2, seed=0):
    """A `MultimodalData` from a folder with a table.

    Args:
        source: see this module's first lines.
        options: `Options`.
        modalities: {name: `Modality`} that a model has already, to bring the examples into its form.
        test_fraction, seed: which part of examples.csv is held out, class by class.

    Raises:
        InputError: no table, an unknown column, a file that cannot be read, classes that do not fit.
    """
    folder, options = Path(source), options or Options()
    rows = _rows(folder)
    columns = [name for name in rows[0][1] if name != LABEL]
    for name in columns:
        if name not in KINDS:
            raise InputError(
                f"{folder} has a column {name!r}: the modalities are {', '.join(KINDS)}, and `{LABEL}`."
            )
    if not columns:
        raise InputError(f"{folder} has labels and nothing else: expected {EXPECTED}.")
    labels = sorted({row[LABEL] for _, row in rows}, key=natural)
    classes = np.array([labels.index(row[LABEL]) for _, row in rows], "int32")
    if len(labels) < 2:
        raise InputError(f"{folder} has only one class, {labels[0]!r}: a classifier needs two or more.")
    parts = np.array([part for part, _ in rows])
    if (parts == "").any():
        parts = np.full(len(rows), "train", "<U5")
        for label in range(len(labels)):
            members = np.flatnonzero(classes == label)
            if len(members) < 2:
                raise InputError(
                    f"class {labels[label]!r} of {folder} has a single example: it needs one to train and "
                    "one to test."
                )
            parts[members[sorted(choose(len(members), test_fraction, seed, label))]] = "test"
    for part in TABLES:
        missing = set(range(len(labels))) - set(classes[parts == part].tolist())
        if missing:
            raise InputError(f"class {labels[min(missing)]!r} of {folder} has no {part} examples: add some.")
    training, inputs, made = parts == "train", {}, {}
    if "image" in columns:
        options = _with_image_size(folder, [row["image"] for _, row in rows], options, modalities)
    for name in columns:
        cells = [row[name] for _, row in rows]
        raw = [None if cell == "" else READERS[name](folder, cell, options) for cell in cells]
        if all(x is None for x in raw):
            raise InputError(f"the column {name!r} of {folder} is empty: delete it or fill it.")
        some = [x for x, train in zip(raw, training, strict=True) if train and x is not None]
        modality = (modalities or {}).get(name) or KINDS[name](
            some or [x for x in raw if x is not None], options
        )
        made[name] = modality
        inputs[name] = encoded(name, raw, modality)
    absent = np.array([[row[name] == "" for name in columns] for _, row in rows])
    if absent.all(axis=1).any():
        row = int(np.argmax(absent.all(axis=1)))
        raise InputError(f"row {row + 1} of {folder} has only empty cells: each example needs something.")
    if absent.any():
        inputs[PRESENT] = (~absent).astype("float32")

    def split(which):
        chosen = np.flatnonzero(parts == which)
        return Examples({name: x[chosen] for name, x in inputs.items()}, classes[chosen])

    found = hashlib.sha256(repr([labels, parts.tolist(), classes.tolist()]).encode())
    for name, x in inputs.items():
        found.update(name.encode() + np.ascontiguousarray(x).tobytes())
    return MultimodalData(split("train"), split("test"), labels, made, str(source), found.hexdigest()[:16])


def _rows(folder):
    """[(part, {column: cell})] of all tables; the part is "" where they do not say."""
    found, columns = [], None
    names = {part: name for part, name in TABLES.items() if (folder / name).is_file()}
    if len(names) == 1 or not (names or (folder / ALL).is_file()):
        has = ", ".join(names.values()) or "neither"
        raise InputError(f"{folder} has {has}: expected {EXPECTED}.")
    for part, name in (names or {"": ALL}).items():
        try:
            with open(folder / name, encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, restval="")
                rows = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{folder / name} cannot be read: {error}.") from None
        if not rows or LABEL not in rows[0]:
            raise InputError(f"{folder / name} has no rows with a column `{LABEL}`: expected {EXPECTED}.")
        if columns is not None and set(columns) != set(rows[0]):
            raise InputError(f"the tables of {folder} have other columns: {columns} and {list(rows[0])}.")
        columns = list(rows[0])
        for number, row in enumerate(rows, start=2):
            if None in row or not (row[LABEL] or "").strip():
                raise InputError(
                    f"line {number} of {folder / name} has no label, or more cells than columns."
                )
            found.append((part, {key: (row[key] or "").strip() for key in columns}))
    return found


def encoded(name, raw, modality):
    """All raw examples as one array; blank where there is none."""
    shape, dtype = modality.signature()["shape"], modality.signature()["dtype"]
    if hasattr(modality, "preprocessing"):
        dtype = "uint8"
    array = np.repeat(modality.blank(1), len(raw), axis=0).astype(dtype)
    given = [i for i, x in enumerate(raw) if x is not None]
    for start in range(0, len(given), 256):
        some = given[start : start + 256]
        values = [raw[i] for i in some]
        if name == "image":
            array[some] = np.stack([to_channels(fit(x, shape[:2]), shape[2]) for x in values])
        elif name == "video":
            clips = [
                np.stack([to_channels(fit(frame, shape[1:3]), shape[3]) for frame in clip]) for clip in values
            ]
            array[some] = modality.encode(clips)
        elif name == "audio":
            from keras_vit.modalities import load_audio

            array[some] = modality.encode([load_audio(x, modality.sample_rate, rate) for x, rate in values])
        else:
            array[some] = modality.encode(values)
    return array


def one_example(modalities, given):
    """{name: raw input [1, ...]}, with `present`, of one example; what is not given is blank.

    Args:
        modalities: {name: `Modality`} of a model.
        given: {name: path, or the words of a text}, as in a cell of a table.

    Warns:
        of words that the vocabulary does not have, and of a text that has no words.

    Raises:
        InputError: a name that the model does not have, a file that cannot be read; nothing but a text that
            has no words.
    """
    for name in given:
        if name not in modalities:
            raise InputError(f"this model takes {', '.join(modalities)}, not {name}.")
    for name in modalities:
        if name in given and name not in READERS:
            raise InputError(f"nothing here can read {name!r}: give it from Python.")
    raw = {
        name: READERS[name](Path(), str(given[name]), Options()) if name in given else None
        for name in modalities
    }
    if raw.get("text") is not None:
        _look_at_words(raw["text"], modalities["text"].vocabulary, alone=len(given) == 1)
    inputs = {name: encoded(name, [raw[name]], modality) for name, modality in modalities.items()}
    return {**inputs, PRESENT: np.array([[raw[name] is not None for name in modalities]], "float32")}


def _look_at_words(text, vocabulary, alone):
    from keras_vit.modalities.vocabulary import split

    words = split(text)
    if not words:
        if alone:
            raise InputError(f"the text {text!r} has no words, and nothing else is given.")
        warnings.warn(f"the text {text!r} has no words: it counts as absent.", Notice, stacklevel=3)
    unknown = [] if vocabulary is None else vocabulary.unknown(text)
    if unknown:
        some = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        which = "no word of the text is" if len(unknown) == len(set(words)) else "some words are not"
        warnings.warn(f"{which} in the model's vocabulary: {some}.", Notice, stacklevel=3)


def _with_image_size(folder, cells, options, modalities):
    """The size of pictures is fixed before they are read: thousands of photographs would fill the memory."""
    if modalities and "image" in modalities:
        return dataclasses.replace(options, image_size=modalities["image"].image_size)
    if options.image_size is not None:
        return options
    shapes, files = [], [folder / cell for cell in cells if cell]
    for i in np.unique(np.linspace(0, len(files) - 1, 64).astype(int)) if files else ():
        # One that cannot be read has no say; reading them all names it.
        with contextlib.suppress(Exception), Pillow.open(files[i], formats=FORMATS) as image:
            shapes.append(image.size[::-1])
    return dataclasses.replace(options, image_size=_size(shapes) if shapes else (224, 224))


# How one cell is read.


def _file(folder, cell, kind):
    path = folder / cell
    if not path.is_file():
        raise InputError(f"{path} is not there: the column {kind!r} names a file relative to the table.")
    return path


def _read_image(folder, cell, options):
    return decode(_file(folder, cell, "image"), options.image_size)


def _read_text(folder, cell, options):
    return cell


def _read_audio(folder, cell, options):
    from keras_vit.modalities.waveforms import read_wav

    return read_wav(_file(folder, cell, "audio"))


def _read_video(folder, cell, options):
    path = _file(folder, cell, "video")
    if path.suffix.lower() == ".gif":
        try:
            with Pillow.open(path, formats=("GIF",)) as image:
                clip = np.stack([np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
        except Exception as error:
            raise InputError(f"{str(path)!r} is no .gif that can be read: {error}") from error
    else:
        clip = _array(path)
    if clip.ndim != 4 or clip.shape[3] != 3 or not len(clip) or clip.min() < 0 or clip.max() > 255:
        raise InputError(
            f"{str(path)!r} is {clip.dtype} {list(clip.shape)}, not a clip [frames, height, width, 3] of "
            "values 0..255."
        )
    clip = clip.astype("uint8")
    return (
        clip if options.image_size is None else np.stack([fit(frame, options.image_size) for frame in clip])
    )


def _read_action(folder, cell, options):
    path = _file(folder, cell, "action")
    if path.suffix.lower() == ".npy":
        track = _array(path)
    else:
        try:
            track = np.loadtxt(path, delimiter=",", ndmin=2)
        except (ValueError, OSError) as error:
            raise InputError(f"{str(path)!r} is no table of numbers: {error}") from error
    if track.ndim != 2 or not len(track):
        raise InputError(f"{str(path)!r} is {list(track.shape)}, not a track [steps, features].")
    return track.astype("float32")


def _array(path):
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{str(path)!r} is no .npy file that can be read: {error}") from error


READERS = {
    "image": _read_image,
    "text": _read_text,
    "audio": _read_audio,
    "video": _read_video,
    "action": _read_action,
}


# The modality that fits what was read.


def _patch(size, options):
    return options.patch_size or max(
        p for p in (1, 2, 4, 8, 16) if all(s % p == 0 and p <= s // 4 for s in size)
    )


def _image(examples, options):
    from keras_vit.modalities import Image

    return Image(options.image_size, _patch(options.image_size, options))


def _size(shapes):
    """32, 64 or 224, whichever is near the median side; small pictures keep their size."""
    side = float(np.median([min(shape) for shape in shapes]))
    if side < 24 and len(set(shapes)) == 1 and all(s % 4 == 0 for s in shapes[0]):
        return shapes[0]
    return (32, 32) if side < 48 else (64, 64) if side < 96 else (224, 224)


def _text(examples, options):
    from keras_vit.modalities import Text, Vocabulary
    from keras_vit.modalities.vocabulary import split

    longest = max(len(split(text)) for text in examples)
    length = options.length or min(max(longest, 1), MOST_WORDS)
    return Text(Vocabulary.from_texts(examples), length, sentence=options.sentence)


def _audio(examples, options):
    from keras_vit.modalities import Audio

    rate = examples[0][1]
    seconds = min(max(len(wave) / their for wave, their in examples), MOST_SECONDS)
    return Audio(round(seconds * rate), rate)


def _video(examples, options):
    from keras_vit.modalities import Video

    size = _size([clip.shape[1:3] for clip in examples])
    frames = min(int(np.median([len(clip) for clip in examples])), MOST_FRAMES)
    frames = frames - frames % 2 if frames > 1 else 1
    return Video(frames, size, _patch(size, options))


def _action(examples, options):
    from keras_vit.modalities import Action

    steps = min(max(len(track) for track in examples), MOST_STEPS)
    return Action(steps, features=examples[0].shape[1], padding=0.0)


KINDS = {"image": _image, "text": _text, "audio": _audio, "video": _video, "action": _action}

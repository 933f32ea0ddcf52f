"""Labelled examples of several modalities from a folder with a table.

    DIR/train.csv DIR/test.csv          or DIR/examples.csv, of which a fifth is held out; beside test.csv
                                        perhaps DIR/val.csv, by which training chooses between epochs
        label,image,text,audio
        cat,photos/1.jpg,a cat on a mat,
        dog,photos/2.jpg,,sounds/2.wav

One row an example. The column `label` names its class; the others are modalities by name: `image` (a picture
file), `text` (words), `audio` (a .wav file), `video` (a .npy file [frames, height, width, 3] of 0..255, or an
animated .gif) and `action` (a .npy file [steps, features], or a .csv file of numbers without a head). Paths
are relative to the table, with "/" or "\\". An empty cell means that this example has none: then `present` is
0 there. How such tables may be written is said in `data.tables`.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageSequence

from keras_vit.config import PRESENT
from keras_vit.data.decoding import FORMATS, MAX_FILE, decode, fit, to_channels
from keras_vit.data.examples import Examples, MultimodalData
from keras_vit.data.layout import choose, natural
from keras_vit.data.pixel_range import as_pixels, pixels_problem
from keras_vit.data.tables import read_numbers, read_table
from keras_vit.errors import InputError, Notice
from keras_vit.files import open_regular, read_regular
from keras_vit.labels import check_class_names

TABLES = {
    "train": ("train.csv",),
    "test": ("test.csv",),
    "val": ("val.csv", "valid.csv", "validation.csv"),  # without test.csv, that is it
}
ALL = "examples.csv"
LABEL = "label"
EXPECTED = "a folder with train.csv and test.csv, or examples.csv: a column `label` and columns of modalities"
MOST_WORDS, MOST_SECONDS, MOST_FRAMES, MOST_STEPS = 64, 10, 16, 128
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

    image_size: tuple | None = None
    patch_size: int | None = None
    length: int | None = None
    sentence: int | None = None


def is_multimodal(source):
    """Whether `source` is a folder with such a table."""
    try:
        path = Path(str(source))
        return path.is_dir() and bool(_tables(path))
    except (OSError, ValueError):  # a name that the file system refuses, a folder that cannot be read
        return False


def load_examples(source, options=None, modalities=None, test_fraction=0.2, seed=0, skip_bad=False):
    """A `MultimodalData` from a folder with a table.

    Args:
        source: see this module's first lines.
        options: `Options`.
        modalities: {name: `Modality`} that a model has already, to bring the examples into its form.
        test_fraction, seed: which part of examples.csv is held out, class by class.
        skip_bad: leave out rows that cannot be used, such as one whose file is missing or damaged, instead of
            refusing the table.

    Raises:
        InputError: no table, an unknown column, a row that cannot be used, classes that do not fit.
    """
    folder, options = Path(source), options or Options()
    rows, problems = _rows(folder)
    columns = [name for name in rows[0].cells if name != LABEL]
    for name in columns:
        if name not in KINDS:
            raise InputError(
                f"{folder} has a column {name!r}: the modalities are {', '.join(KINDS)}, and `{LABEL}`."
            )
    if not columns:
        raise InputError(f"{folder} has labels and nothing else: expected {EXPECTED}.")
    labels = sorted({row.cells[LABEL] for row in rows}, key=natural)
    check_class_names(labels, folder)
    number = {label: i for i, label in enumerate(labels)}
    classes = np.array([number[row.cells[LABEL]] for row in rows], "int32")
    if len(labels) < 2:
        raise InputError(f"{folder} has only one class, {labels[0]!r}: a classifier needs two or more.")
    parts = np.array([row.part for row in rows])
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
    _check_all_classes(folder, labels, classes, parts, "examples: add some.")
    for name in columns:
        if not any(row.cells[name] for row in rows):
            raise InputError(f"the column {name!r} of {folder} is empty: delete it or fill it.")
    if "image" in columns:
        options = _with_image_size(folder, [row.cells["image"] for row in rows], options, modalities)
    examples, found = _read(folder, rows, columns, options, modalities)
    skipped = sorted([*problems, *found])
    if skipped and not skip_bad:
        raise InputError(_complaint(folder, len(rows) + len(problems), {**problems, **found}))
    kept = [i for i, row in enumerate(rows) if row.place not in found]
    rows, classes, parts = [rows[i] for i in kept], classes[kept], parts[kept]
    _check_all_classes(folder, labels, classes, parts, "rows left without the bad ones: mend some.")
    training, inputs, made = parts == "train", {}, {}
    for name in columns:
        raw = examples.pop(name)
        if all(x is None for x in raw):
            raise InputError(f"the column {name!r} of {folder} has nothing left without its bad rows.")
        some = [x for x, train in zip(raw, training, strict=True) if train and x is not None]
        modality = (modalities or {}).get(name) or KINDS[name](
            some or [x for x in raw if x is not None], options
        )
        made[name] = modality
        inputs[name] = encoded(name, raw, modality)
    absent = np.array([[row.cells[name] == "" for name in columns] for row in rows])
    if absent.any():
        inputs[PRESENT] = (~absent).astype("float32")

    def split(which):
        chosen = np.flatnonzero(parts == which)
        return Examples({name: x[chosen] for name, x in inputs.items()}, classes[chosen])

    found = hashlib.sha256(repr([labels, parts.tolist(), classes.tolist()]).encode())
    for name, x in inputs.items():
        found.update(name.encode() + np.ascontiguousarray(x).tobytes())
    fingerprint, names = found.hexdigest()[:16], [place.said() for place in skipped]
    val = split("val") if (parts == "val").any() else None
    return MultimodalData(split("train"), split("test"), labels, made, str(source), fingerprint, names, val)


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """Where a row stands."""

    table: str
    line: int

    def said(self):
        return f"{self.table}, line {self.line}"


@dataclasses.dataclass(frozen=True)
class Row:
    """An example as the table has it: {column: cell}. The part is "" where the tables do not say."""

    part: str
    place: Place
    cells: dict


def _tables(folder):
    """{part: file name} of the tables that a folder has, by their names in any case; "" for `ALL`."""
    known = {**{name: part for part, names in TABLES.items() for name in names}, ALL: ""}
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.lower() in known and not (folder / name).is_dir():
            part = known[name.lower()]
            if part in found:
                raise InputError(f"{folder} has {found[part]!r} and {name!r}: delete or rename one.")
            found[part] = name
    return found


def _rows(folder):
    """([Row] of all tables, {Place: why not} of those that are none)."""
    rows, problems, columns = [], {}, None
    try:
        found = _tables(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): expected {EXPECTED}.") from error
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    names = {part: found[part] for part in TABLES if part in found} or found
    if "" not in names and not {"train", "test"} <= set(names):
        has = ", ".join(names.values()) or "neither"
        raise InputError(f"{folder} has {has}: expected {EXPECTED}.")
    for part, name in names.items():
        own, table = read_table(folder / name, LABEL)
        if columns is not None and set(columns) != set(own):
            raise InputError(f"the tables of {folder} have other columns: {columns} and {own}.")
        columns = own
        before = len(rows)
        for line, cells in table:
            place = Place(name, line)
            cells = cells and dict(zip(own, cells, strict=True))
            if cells is None:
                problems[place] = "it has more cells than columns"
            elif not cells[LABEL]:
                problems[place] = "it has no label"
            else:
                rows.append(Row(part, place, cells))
        if len(rows) == before:
            why = _complaint(folder, len(table), problems) if problems else f"expected {EXPECTED}."
            raise InputError(f"{folder / name} has no rows with a column `{LABEL}` that can be used: {why}")
    return rows, problems


def _complaint(folder, count, problems):
    """What to say about {Place: why not}."""
    reasons = [f"{place.said()}: {problems[place].rstrip('.')}" for place in sorted(problems)]
    more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    return (
        f"{len(reasons)} of {count} rows in {str(folder)!r} cannot be used: {'; '.join(reasons[:5])}{more}. "
        "Mend or delete them; --skip-bad (skip_bad=True) leaves them out."
    )


def _check_all_classes(folder, labels, classes, parts, what):
    for part in ("train", "test"):
        missing = set(range(len(labels))) - set(classes[parts == part].tolist())
        if missing:
            raise InputError(f"class {labels[min(missing)]!r} of {folder} has no {part} {what}")


def _read(folder, rows, columns, options, modalities):
    """({column: raw examples of the rows that can be read}, {Place: why not} of the others)."""
    read, problems = {name: [] for name in columns}, {}
    for row in rows:
        try:
            if not any(row.cells[name] for name in columns):
                raise InputError("it has only empty cells, and each example needs something.")
            raw = {
                name: None if row.cells[name] == "" else READERS[name](folder, row.cells[name], options)
                for name in columns
            }
        except InputError as error:
            problems[row.place] = str(error)
            raw = dict.fromkeys(columns)
        for name in columns:
            read[name].append(raw[name])
    if "action" in columns:
        _check_widths(rows, read["action"], (modalities or {}).get("action"), problems)
    good = [i for i, row in enumerate(rows) if row.place not in problems]
    return {name: [raw[i] for i in good] for name, raw in read.items()}, problems


def _check_widths(rows, tracks, modality, problems):
    """Note the rows whose tracks have another number of features than the model takes, or than most have."""
    widths = [track.shape[1] for track in tracks if track is not None]
    if not widths:
        return
    usual = getattr(modality, "features", None) or max(dict.fromkeys(widths), key=widths.count)
    for row, track in zip(rows, tracks, strict=True):
        if track is not None and track.shape[1] != usual:
            problems[row.place] = f"its track has {track.shape[1]} features, and others have {usual}"


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
    shapes, files = [], [cell for cell in cells if cell]
    for i in np.unique(np.linspace(0, len(files) - 1, 64).astype(int)) if files else ():
        # One that cannot be read has no say; reading them all names it.
        with contextlib.suppress(Exception):
            data = read_regular(_file(folder, files[i], "image"), MAX_FILE)
            shapes.append(Pillow.open(io.BytesIO(data), formats=FORMATS).size[::-1])
    return dataclasses.replace(options, image_size=_size(shapes) if shapes else (224, 224))


# How one cell is read.


def _file(folder, cell, kind):
    path = folder / cell
    if "\\" in cell and not os.path.lexists(path):  # as Windows writes paths
        path = folder / cell.replace("\\", "/")
    if not os.path.exists(path):
        raise InputError(f"{path} is not there: the column {kind!r} names a file relative to the table.")
    return path


def _read_image(folder, cell, options):
    return decode(_file(folder, cell, "image"), options.image_size)


def _read_text(folder, cell, options):
    return cell


def _read_audio(folder, cell, options):
    """(float32 [n], samples per second)."""
    from keras_vit.modalities.waveforms import one_channel, read_wav

    path = _file(folder, cell, "audio")
    waveform, rate = read_wav(path)
    try:
        return one_channel(waveform, channels=1).astype("float32"), rate
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from error


def _read_video(folder, cell, options):
    path = _file(folder, cell, "video")
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
    path = _file(folder, cell, "action")
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
    except Exception as error:  # NumPy parses the header as Python does, and raises as many kinds
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{str(path)!r} is no .npy file that can be read: {why}") from error


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

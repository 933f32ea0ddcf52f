"""Labelled examples of several modalities from a folder with tables: `load_examples`; one: `one_example`.

What such tables look like is said in `example_tables`.
"""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_vit.config import PRESENT
from keras_vit.data.cell_readers import READERS, Options
from keras_vit.data.example_tables import EXPECTED, LABEL, complaint, read_rows
from keras_vit.data.examples import Examples, MultimodalData
from keras_vit.data.layout import choose, natural
from keras_vit.data.modality_fitting import encode_examples, fit_modality, with_image_size
from keras_vit.errors import InputError, Notice
from keras_vit.labels import check_class_names
from keras_vit.modalities import Modality, Vocabulary
from keras_vit.modalities.vocabulary import split


def load_examples(
    source: str | Path,
    options: Options | None = None,
    modalities: Mapping[str, Modality] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_bad: bool = False,
) -> MultimodalData:
    """Load labelled examples from a folder with tables.

    Args:
        source: the folder, see `example_tables`.
        options: sizes to which the examples are brought.
        modalities: {name: `Modality`} of a model that exists, whose sizes are taken instead.
        test_fraction, seed: which part of examples.csv is held out, class by class.
        skip_bad: leave out rows that cannot be used, such as one whose file is missing or damaged, instead of
            refusing the table.

    Raises:
        InputError: no table, an unknown column, a row that cannot be used, classes that do not fit.
    """
    folder, options, modalities = Path(source), options or Options(), modalities or {}
    rows, problems = read_rows(folder)
    columns = _modality_columns(folder, rows)
    class_names = sorted({row.cells[LABEL] for row in rows}, key=natural)
    check_class_names(class_names, folder)
    if len(class_names) < 2:
        raise InputError(f"{folder} has only one class, {class_names[0]!r}: a classifier needs two or more.")
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.array([number[row.cells[LABEL]] for row in rows], "int32")
    splits = _splits(folder, rows, class_names, labels, test_fraction, seed)

    if "image" in columns:
        options = with_image_size(options, folder, [row.cells["image"] for row in rows], modalities)
    raw, unreadable = _read(folder, rows, columns, options, modalities)
    skipped = sorted([*problems, *unreadable])
    if skipped and not skip_bad:
        raise InputError(complaint(folder, len(rows) + len(problems), {**problems, **unreadable}))
    kept = [i for i, row in enumerate(rows) if row.place not in unreadable]
    rows, labels, splits = [rows[i] for i in kept], labels[kept], splits[kept]
    _check_all_classes(folder, class_names, labels, splits, "rows left without the bad ones: mend some.")

    inputs, fitted = {}, {}
    for name in columns:
        examples = raw.pop(name)
        present = [example for example in examples if example is not None]
        if not present:
            raise InputError(f"the column {name!r} of {folder} has nothing left without its bad rows.")
        train = [x for x, part in zip(examples, splits, strict=True) if part == "train" and x is not None]
        fitted[name] = modalities.get(name) or fit_modality(name, train or present, options)
        inputs[name] = encode_examples(name, examples, fitted[name])
    absent = np.array([[row.cells[name] == "" for name in columns] for row in rows])
    if absent.any():
        inputs[PRESENT] = (~absent).astype("float32")

    def examples_of(part):
        members = np.flatnonzero(splits == part)
        return Examples({name: x[members] for name, x in inputs.items()}, labels[members])

    return MultimodalData(
        train=examples_of("train"),
        test=examples_of("test"),
        labels=class_names,
        modalities=fitted,
        source=str(source),
        fingerprint=_fingerprint(class_names, splits, labels, inputs),
        skipped=[str(place) for place in skipped],
        val=examples_of("val") if (splits == "val").any() else None,
    )


def _modality_columns(folder, rows):
    columns = [name for name in rows[0].cells if name != LABEL]
    for name in columns:
        if name not in READERS:
            raise InputError(
                f"{folder} has a column {name!r}: the modalities are {', '.join(READERS)}, and `{LABEL}`."
            )
    if not columns:
        raise InputError(f"{folder} has labels and nothing else: expected {EXPECTED}.")
    for name in columns:
        if not any(row.cells[name] for row in rows):
            raise InputError(f"the column {name!r} of {folder} is empty: delete it or fill it.")
    return columns


def _splits(folder, rows, class_names, labels, test_fraction, seed):
    """ "train", "test" or "val" of each row, an array; by chance where the tables do not say."""
    splits = np.array([row.split for row in rows])
    if (splits == "").any():
        splits = np.full(len(rows), "train", "<U5")
        for label in range(len(class_names)):
            members = np.flatnonzero(labels == label)
            if len(members) < 2:
                raise InputError(
                    f"class {class_names[label]!r} of {folder} has a single example: it needs one to train "
                    "and one to test."
                )
            splits[members[sorted(choose(len(members), test_fraction, seed, label))]] = "test"
    _check_all_classes(folder, class_names, labels, splits, "examples: add some.")
    return splits


def _check_all_classes(folder, class_names, labels, splits, what):
    for part in ("train", "test"):
        missing = set(range(len(class_names))) - set(labels[splits == part].tolist())
        if missing:
            raise InputError(f"class {class_names[min(missing)]!r} of {folder} has no {part} {what}")


def _fingerprint(class_names, splits, labels, inputs):
    digest = hashlib.sha256(repr([class_names, splits.tolist(), labels.tolist()]).encode())
    for name, x in inputs.items():
        digest.update(name.encode() + np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()[:16]


def _read(folder, rows, columns, options, modalities):
    """({column: raw examples of the rows that can be read}, {Place: problem} of the others)."""
    raw, problems = {name: [] for name in columns}, {}
    for row in rows:
        try:
            if not any(row.cells[name] for name in columns):
                raise InputError("it has only empty cells, and each example needs something.")
            example = {
                name: None if row.cells[name] == "" else READERS[name](folder, row.cells[name], options)
                for name in columns
            }
        except InputError as error:
            problems[row.place] = str(error)
            example = dict.fromkeys(columns)
        for name in columns:
            raw[name].append(example[name])
    if "action" in columns:
        _check_widths(rows, raw["action"], modalities.get("action"), problems)
    readable = [i for i, row in enumerate(rows) if row.place not in problems]
    return {name: [examples[i] for i in readable] for name, examples in raw.items()}, problems


def _check_widths(rows, tracks, modality, problems):
    """Note the rows whose tracks have another number of features than the model takes, or than most have."""
    widths = [track.shape[1] for track in tracks if track is not None]
    if not widths:
        return
    usual = getattr(modality, "features", None) or max(dict.fromkeys(widths), key=widths.count)
    for row, track in zip(rows, tracks, strict=True):
        if track is not None and track.shape[1] != usual:
            problems[row.place] = f"its track has {track.shape[1]} features, and others have {usual}"


def one_example(modalities: Mapping[str, Modality], cells: Mapping[str, str | Path]) -> dict[str, np.ndarray]:
    """The raw inputs {name: array [1, ...]}, with `present`, of one example; what it lacks is blank.

    Args:
        modalities: {name: `Modality`} of a model.
        cells: {name: path, or the words of a text}, as in a row of a table.

    Warns:
        of words that the vocabulary does not have, and of a text that has no words.

    Raises:
        InputError: a name that the model does not have, a file that cannot be read; nothing but a text that
            has no words.
    """
    for name in cells:
        if name not in modalities:
            raise InputError(f"this model takes {', '.join(modalities)}, not {name}.")
    for name in modalities:
        if name in cells and name not in READERS:
            raise InputError(f"nothing here can read {name!r}: give it from Python.")
    raw = {
        name: READERS[name](Path(), str(cells[name]), Options()) if name in cells else None
        for name in modalities
    }
    if raw.get("text") is not None:
        _check_words(raw["text"], modalities["text"].vocabulary, alone=len(cells) == 1)
    inputs = {name: encode_examples(name, [raw[name]], modality) for name, modality in modalities.items()}
    return {**inputs, PRESENT: np.array([[raw[name] is not None for name in modalities]], "float32")}


def _check_words(text: str, vocabulary: Vocabulary | None, alone: bool) -> None:
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

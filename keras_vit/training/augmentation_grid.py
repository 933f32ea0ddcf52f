"""`draw_augmentation`: what each step of an augmentation policy does to pictures, and the whole of it."""

import numpy as np

from keras_vit.errors import InputError
from keras_vit.inspect.channels import as_rgb
from keras_vit.inspect.plots import FAINT, check_suffix, save

MOST = 32  # pictures that are drawn
TIMES = 3  # the whole policy is drawn so often
SIDE, GAP, LINE = 1.1, 0.12, 0.13  # inches: the longer side of a picture, between two, a line of small print
LONGEST_LABEL = 13  # characters
SHOWN = 0.005  # smaller shares of a label are left out


def draw_augmentation(images, labels, class_names, policy, path, seed=0):
    """Draw a row for each picture: as it is, after each step alone, and `TIMES` times after all of them.

    Steps that act on some pictures only (mirroring, erasing) act on all here. Where pictures are mixed, each
    is with another one of these rows, and its label is written below.

    Args:
        images: uint8 [B, H, W, C].
        labels: int [B], indices into `class_names`.
        class_names: list of strings.
        policy: name of a policy, see `keras_vit.data.augment`.
        path: where to; its suffix is one of `plots.SUFFIXES`.
        seed: of what is drawn.

    Returns:
        {title: (images float32 [B, H, W, C], labels float32 [B, num_classes])} of the columns.

    Raises:
        InputError: another suffix, an unknown policy, no picture or more than 32.
    """
    check_suffix(path)
    if not 0 < len(images) <= MOST:
        raise InputError(f"{len(images)} pictures given: from 1 to {MOST} can be drawn.")
    columns = _columns(images, labels, len(class_names), policy, seed)
    save(_figure(columns, [str(name) for name in class_names]), path)
    return columns


def _columns(images, labels, num_classes, name, seed):
    import tensorflow as tf

    from keras_vit.data.augment import parts, policy

    original = tf.cast(images, tf.float32), tf.one_hot(labels, num_classes)
    whole = policy(name)
    steps = {**parts(name), **{f"{name}, {i + 1} of {TIMES}": whole for i in range(TIMES)}}
    columns = {"original": original}
    for number, (title, step) in enumerate(steps.items()):
        columns[title] = step(*original, tf.constant([seed, number], tf.int32))
    return {title: tuple(x.numpy() for x in column) for title, column in columns.items()}


def _figure(columns, class_names):
    from matplotlib.figure import Figure

    pictures, labels = columns["original"]
    count, height, width, _ = pictures.shape
    scale = SIDE / max(height, width)
    high, wide = height * scale, width * scale
    lines = 2 if any((mixed != labels).any() for _, mixed in columns.values()) else 1
    across, down = max(wide, SIDE) + GAP, high + lines * LINE + GAP
    size = across * len(columns) + GAP, down * count + 2 * LINE + GAP
    figure = Figure(figsize=size, facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    for column, (title, (shown, mixed)) in enumerate(columns.items()):
        left = GAP + column * across
        axis.text(left, GAP, title, fontsize=9, va="top", color=FAINT)
        written = title == "original" or (mixed != labels).any()
        for row in range(count):
            top = GAP + 2 * LINE + row * down
            pixels = as_rgb(np.clip(np.round(shown[row]), 0, 255).astype("uint8"))
            axis.imshow(pixels, extent=(left, left + wide, top + high, top), interpolation="nearest")
            if written:
                names = _label(mixed[row], class_names)
                axis.text(left, top + high + 0.03, names, fontsize=7, va="top", parse_math=False)
    axis.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")  # in inches, from the top left
    return figure


def _label(shares, class_names):
    """The names of a mixed label, the largest share first; the share only where there are several."""
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= SHOWN]
    names = [
        class_names[i] if len(class_names[i]) <= LONGEST_LABEL else f"{class_names[i][: LONGEST_LABEL - 1]}…"
        for i in order
    ]
    if len(names) == 1:
        return names[0]
    return "\n".join(f"{name} {shares[i]:.0%}" for name, i in zip(names, order, strict=True))

"""The pictures: what a model looked at, and which places look alike to it.

Drawn on a `Figure` of its own, never through pyplot: whoever works in a notebook keeps their backend.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_vit.answers import PROBABILITY, default_labels, labels_fit, output_name, ranked, shown
from keras_vit.data.decoding import decode, fit, to_channels
from keras_vit.errors import InputError
from keras_vit.files import atomic_write
from keras_vit.inspect.capture import model_in, vit_in
from keras_vit.inspect.channels import as_rgb
from keras_vit.inspect.rollout import attention_rollout
from keras_vit.inspect.similarity import position_similarity
from keras_vit.models.activation import activate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
BARS, FAINT = ("#3b6fb6", "#a9bfdd", "#eef0f3"), "#6b7280"  # the first, the others, behind them; small print
DIM = (0.12, 0.55)  # the greys that black and white become under the heat
GLOW = ("#b0170000", "#d4300073", "#ff8c00b0", "#ffe96bcc")  # from no heat, transparent, to the most
LONGEST_LABEL = 34  # characters
LEAST_SPAN = 0.1  # of an even share: smaller differences are not made to look large


def draw_explanation(
    model: keras.Model,
    picture: np.ndarray | str | Path,
    path: str | Path,
    labels: Sequence[str] | None = None,
    top: int = 5,
) -> "Predictions":
    """Draw what `model` sees, what it looked at (`attention_rollout`), and its most probable classes.

    The heat is scaled from the least to the most of this picture, so that also a faint preference shows;
    the scale beside it says how much that is, in multiples of what each patch would get by an even share.

    Args:
        model: a `ViT`, or a model around one; without classes the third part is left out.
        picture: uint8 [H, W, 3] or a picture file, brought to the model's size as prediction does. Of a model
            of other channels than these and grey, an array of its size.
        path: where to; its suffix is one of `SUFFIXES`.
        labels: names of the classes; by default their numbers.
        top: how many classes.

    Returns:
        list of (label, probability) of these classes, the most probable first; of a model with
        activation=None (label, logit).

    Raises:
        InputError: another suffix, no picture, or not one label for each class.
    """
    check_suffix(path)
    vit = vit_in(model)
    check_labels(vit, labels)
    shape = vit.signature()["image"]["shape"]
    if getattr(picture, "shape", None) == shape:
        pixels = np.asarray(picture)
        if pixels.dtype != np.uint8:
            raise InputError(
                f"expected a uint8 picture {list(shape)}, not {pixels.dtype}: give pixels 0..255."
            )
    else:
        if isinstance(picture, str | Path):
            pixels = decode(picture, vit.image_size)
        else:
            pixels = fit(picture, vit.image_size)
        pixels = to_channels(pixels, shape[2])
    images = model.prepare(pixels[np.newaxis])
    rollout = attention_rollout(model, images)[0]
    predictions = predictions_of(model, images, labels, top) if vit.num_classes else Predictions()

    figure = _explanation(as_rgb(pixels), rollout, predictions)
    save(figure, path)
    return predictions


def draw_position_similarity(model: keras.Model, path: str | Path) -> None:
    """Draw `position_similarity` as in Dosovitskiy et al. 2020, figure 7: a heat map for every patch.

    The heat map at (row, column) shows how similar the encoding of that patch is to those of all others.

    Args:
        model: see `position_similarity`.
        path: where to; its suffix is one of `SUFFIXES`.

    Raises:
        InputError: another suffix, or positions that are no table.
    """
    check_suffix(path)
    similarity = position_similarity(model)
    grid = vit_in(model).positions.grid
    save(_tiles(similarity.reshape(*grid, *grid)), path)


def check_suffix(path: str | Path) -> None:
    """Refuse a path of a picture whose suffix is none of `SUFFIXES`."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{str(path)!r} names no picture that can be drawn: end it in one of {', '.join(SUFFIXES)}."
        )


class Predictions(list):
    """[(label, value)], the highest first. `output` says what the values are: "probability" or "logits"."""

    def __init__(self, pairs: Iterable[tuple[str, float]] = (), output: str = PROBABILITY):
        super().__init__(pairs)
        self.output = output


def check_labels(model: keras.Model, labels: Sequence[str] | None) -> None:
    """Refuse labels that do not fit a model with a head."""
    if not model.num_classes or labels is None:
        return
    if not labels_fit(len(labels), model.num_classes, output_name(model.activation)):
        raise InputError(
            f"{len(labels)} labels for a model of {model.num_classes} classes: give one for each."
        )


def predictions_of(model: keras.Model, images: Any, labels: Sequence[str] | None, top: int) -> Predictions:
    """[(label, probability)] of the `top` most probable classes of the first example."""
    activation = model_in(model).activation
    answer = ops.convert_to_numpy(activate(model(images, training=False), activation))[0]
    if labels is None:
        labels = [f"class {i}" for i in default_labels(len(answer), output_name(activation))]
    return Predictions(ranked(answer, labels, top), output_name(activation))


def _explanation(pixels, rollout, predictions):
    from matplotlib.figure import Figure

    height, width = pixels.shape[:2]
    scale = 3.6 / max(height, width)  # inches a pixel
    panel = max(1.6, width * scale)  # a title's width at least
    panels = [panel, panel, 3.4] if predictions else [panel, panel]
    size = (sum(panels) + 1.3, max(1.8, height * scale) + 0.55)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    seen, heat, *named = figure.subplots(1, len(panels), width_ratios=panels)

    seen.imshow(pixels, interpolation="nearest")
    seen.set_title("what the model sees", loc="left", fontsize=10, color=FAINT)
    overlay(figure, heat, pixels, rollout, scale)
    heat.set_title("where it looked", loc="left", fontsize=10, color=FAINT)
    for axis in (seen, heat):
        axis.set(xticks=[], yticks=[], anchor="NW")
        axis.spines[:].set_visible(False)
    if predictions:
        prediction_bars(named[0], predictions)
    return figure


def overlay(figure: "Figure", axis: "Axes", pixels: np.ndarray, rollout: np.ndarray, scale: float) -> None:
    """The picture, grey and dim so that nothing in it is as bright as heat, and the heat glowing on top.

    `scale` is in inches a pixel, for a bar beside it that is as wide on every picture.
    """
    from matplotlib.colors import LinearSegmentedColormap

    height, width = pixels.shape[:2]
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    axis.imshow(DIM[0] + grey / 255 * (DIM[1] - DIM[0]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    share = rollout / max(rollout.mean(), 1e-12)  # 1: what the patch would get if all got the same
    low = share.min()
    high = max(share.max(), low + LEAST_SPAN)
    glow = axis.imshow(
        share,
        cmap=LinearSegmentedColormap.from_list("glow", GLOW),
        vmin=low,
        vmax=high,
        interpolation="bilinear",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
    wide, tall = 0.14 / (width * scale), max(1.0, 1.3 / (height * scale))
    place = axis.inset_axes((1 + 0.6 * wide, 1 - tall, wide, tall))
    bar = figure.colorbar(glow, cax=place, ticks=[low, high])
    bar.ax.set_facecolor(str(sum(DIM) / 2))
    bar.ax.set_yticklabels([f"{low:.1f}x", f"{high:.1f}x"], fontsize=8, color=FAINT)
    bar.ax.tick_params(length=0)
    bar.set_label("times an even share", fontsize=8, color=FAINT, labelpad=-12)
    bar.outline.set_visible(False)


def prediction_bars(axis: "Axes", predictions: Predictions) -> None:
    """The names above their bars, so that long ones have room; logits, which have no limits, get none."""
    for place, (label, value) in enumerate(predictions):
        if predictions.output == PROBABILITY:
            axis.barh(place, 1.0, height=0.28, color=BARS[2])
            axis.barh(place, value, height=0.28, color=BARS[place > 0])
        short = label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
        weight = "bold" if place == 0 else "normal"
        above: dict[str, Any] = {"y": place - 0.24, "fontsize": 9, "va": "bottom", "fontweight": weight}
        axis.text(0.0, s=short, ha="left", parse_math=False, **above)
        axis.text(1.0, s=shown(value, predictions.output).strip(), ha="right", **above)
    axis.set(xlim=(0, 1), ylim=(max(5, len(predictions)) - 0.6, -0.75))
    axis.axis("off")


def _tiles(similarity):
    """[rows, columns, rows, columns] as one image with gaps: hundreds of axes would take minutes."""
    from matplotlib.figure import Figure

    rows, columns = similarity.shape[:2]
    gap = max(1, round(max(rows, columns) / 8))
    canvas = np.full((rows * (rows + gap) - gap, columns * (columns + gap) - gap), np.nan)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (rows + gap), column * (columns + gap)
            canvas[top : top + rows, left : left + columns] = similarity[row, column]

    scale = 6.0 / max(canvas.shape)
    size = (max(3.0, canvas.shape[1] * scale) + 1.4, max(1.6, canvas.shape[0] * scale) + 1.0)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axis = figure.subplots()
    low = -1 if similarity.min() < 0 else 0
    image = axis.imshow(canvas, cmap="viridis", vmin=low, vmax=1, interpolation="nearest")
    for name, count in (("y", rows), ("x", columns)):
        step = max(1, -(-count // 14))
        places = np.arange(0, count, step)
        axis.set(
            **{f"{name}ticks": places * (count + gap) + (count - 1) / 2, f"{name}ticklabels": places + 1}
        )
    axis.tick_params(length=0, labelsize=8, colors=FAINT)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("column of the patch", color=FAINT)
    axis.set_ylabel("row of the patch", color=FAINT)
    axis.set_title("Similarity of position encodings", loc="left", fontsize=11)
    bar = figure.colorbar(image, ax=axis, fraction=0.04, pad=0.02, ticks=sorted({low, 0, 1}))
    bar.set_label("cosine", color=FAINT)
    bar.ax.tick_params(length=0, labelsize=8, colors=FAINT)
    bar.outline.set_visible(False)
    return figure


def save(figure: "Figure", path: str | Path, dpi: int = 150) -> None:
    """Write a figure, whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi)

"""What a `MultimodalViT` looked at: the share of each word, patch and step in its answer, and the picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import PRESENT
from keras_vit.inspect.capture import features, model_in
from keras_vit.inspect.channels import as_rgb
from keras_vit.inspect.plots import (
    BARS,
    FAINT,
    Predictions,
    check_labels,
    check_suffix,
    overlay,
    prediction_bars,
    predictions_of,
    save,
)
from keras_vit.inspect.rollout import mixing
from keras_vit.modalities import Image, Text

MOST_WORDS = 24  # in a picture


def token_shares(model: keras.Model, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """How much of each token of each modality reaches the answer, by attention rollout through the trunk.

    As `attention_rollout`; of a visual sentence, its share goes to the words as the last block of its
    decoder attends to them.

    Args:
        model: a `MultimodalViT`, or a model around one.
        inputs: what it takes: {name: array [B, ...]}, prepared.

    Returns:
        {name: float32 [B, tokens]}, for a text [B, length]. What is absent has 0; [CLS] keeps the rest of 1.
    """
    trunk = model_in(model)
    names = [name for name in trunk.modalities if name in inputs]
    maps = [f"{block.name}.attention.probabilities" for block in trunk.blocks]
    looks = {
        name: f"{name}.decoder_{trunk.modalities[name].decoder_depth - 1}.cross_attention.probabilities"
        for name in names
        if isinstance(trunk.modalities[name], Text) and trunk.modalities[name].sentence
    }
    values = features(model, inputs, [*maps, *looks.values()])
    last = values[maps[-1]].astype("float64").mean(axis=1)  # of [CLS] alone: [B, 1, N]
    flow = last.copy()
    flow[:, :, :1] += 1
    flow /= flow.sum(axis=-1, keepdims=True)
    for name in reversed(maps[:-1]):
        flow = flow @ ops.convert_to_numpy(mixing(values[name]))
    start = 1 + (trunk.bottleneck if trunk.fusion == "bottleneck" else 0)
    shares = {}
    for name in names:
        count = trunk.modalities[name].tokens
        share = flow[:, 0, start : start + count]
        start += count
        if name in looks:
            words = values[looks[name]].astype("float64").mean(axis=1)  # [B, K, length]
            real = ops.convert_to_numpy(inputs[name]) > 0
            words = words * real[:, None]
            words /= np.maximum(words.sum(axis=-1, keepdims=True), 1e-12)
            share = (share[:, None] @ words)[:, 0]
        shares[name] = share.astype("float32")
    return shares


def draw_multimodal_explanation(
    model: keras.Model,
    raw: dict[str, np.ndarray],
    path: str | Path,
    labels: Sequence[str] | None = None,
    top: int = 5,
) -> Predictions:
    """Draw which words and which patches an answer comes from, in one picture.

    Args:
        model: a `MultimodalViT`, or a model around one.
        raw: one example as exported files take it: {name: array [1, ...]}, pixels 0..255.
        path: where to; its suffix is one of `plots.SUFFIXES`.
        labels: names of the classes; by default their numbers.
        top: how many classes.

    Returns:
        list of (label, probability) of these classes, the most probable first.

    Raises:
        InputError: another suffix, or not one label for each class.
    """
    from matplotlib.figure import Figure

    check_suffix(path)
    trunk = model_in(model)
    check_labels(trunk, labels)
    inputs = trunk.prepare(raw)
    shares = {name: share[0] for name, share in token_shares(model, inputs).items()}
    predictions = predictions_of(model, inputs, labels, top)

    pictures = [
        name for name, m in trunk.modalities.items() if isinstance(m, Image) and _is_there(name, raw, trunk)
    ]
    texts = [
        name for name, m in trunk.modalities.items() if isinstance(m, Text) and _is_there(name, raw, trunk)
    ]
    panels = [*pictures, *(["words"] if texts else []), "all", "answer"]
    figure = Figure(figsize=(3.4 * len(panels) + 0.8, 3.9), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for panel, axis in zip(panels, axes, strict=True):
        if panel in pictures:
            pixels = np.asarray(raw[panel][0], "float64")
            pixels = as_rgb(pixels)
            heat = shares[panel].reshape(trunk.modalities[panel].grid)
            overlay(figure, axis, pixels, heat, 3.0 / max(pixels.shape[:2]))
            axis.set(xticks=[], yticks=[], anchor="NW")
            axis.spines[:].set_visible(False)
            _title(axis, "where it looked")
        elif panel == "words":
            _words(axis, [(n, trunk.modalities[n], raw[n][0], shares[n]) for n in texts])
            _title(axis, "which words it read")
        elif panel == "all":
            _totals(axis, {name: float(share.sum()) for name, share in shares.items()})
            _title(axis, "which inputs it used")
        else:
            prediction_bars(axis, predictions)
    save(figure, path)
    return predictions


def _is_there(name, raw, trunk):
    if name not in raw:
        return False
    return PRESENT not in raw or raw[PRESENT][0][list(trunk.modalities).index(name)] > 0.5


def _title(axis, text):
    axis.set_title(text, loc="left", fontsize=10, color=FAINT)


def _words(axis, texts):
    """A bar for each word, in the order in which they stand."""
    rows = []
    for _, modality, ids, share in texts:
        for number, weight in zip(ids, share, strict=True):
            if number > 0:
                known = modality.vocabulary is not None
                rows.append((modality.vocabulary.decode([number]) if known else f"#{number}", float(weight)))
    rows = rows[:MOST_WORDS]
    most = max([weight for _, weight in rows], default=0) or 1
    for place, (word, weight) in enumerate(rows):
        axis.barh(place, weight / most, height=0.7, color=BARS[weight < most])
        axis.text(-0.03, place, word, ha="right", va="center", fontsize=9, parse_math=False, **_font(word))
        axis.text(weight / most + 0.02, place, f"{weight:.1%}", va="center", fontsize=8, color=FAINT)
    axis.set(xlim=(-0.6, 1.25), ylim=(max(len(rows), 8) - 0.4, -0.6))
    axis.axis("off")


def _font(word):
    """A font that has the word's characters, where one is installed: matplotlib's own has no Chinese ones."""
    if word.isascii():
        return {}
    from matplotlib import font_manager

    wanted = ("Noto Sans CJK", "Source Han Sans", "WenQuanYi", "SimHei", "PingFang", "Microsoft YaHei")
    names = {font.name for font in font_manager.fontManager.ttflist}
    family = next((name for name in sorted(names) if name.startswith(wanted)), None)
    return {"family": family} if family else {}


def _totals(axis, totals):
    rest = max(0.0, 1 - sum(totals.values()))
    for place, (name, share) in enumerate({**totals, "[CLS]": rest}.items()):
        axis.barh(place, share, height=0.28, color=BARS[name == "[CLS]"])
        axis.text(0.0, place - 0.24, name, va="bottom", fontsize=9, parse_math=False)
        axis.text(1.0, place - 0.24, f"{share:.1%}", va="bottom", ha="right", fontsize=9)
    axis.set(xlim=(0, 1), ylim=(max(5, len(totals) + 1) - 0.6, -0.75))
    axis.axis("off")

"""`draw_reconstructions`: what a `MaskedViT` was shown, and what it made of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_vit.errors import InputError
from keras_vit.inspect.channels import as_rgb
from keras_vit.inspect.plots import FAINT, check_suffix, save
from keras_vit.models.masked import MaskedViT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COVER = 235  # the grey of a hidden patch, which stands apart from most pictures
MOST = 64  # pictures that are drawn


def draw_reconstructions(model: MaskedViT, images: Any, path: str | Path | None = None) -> "Figure":
    """Draw pictures in three rows: as they are, as the model sees them, and with hidden patches predicted.

    Args:
        model: a `MaskedViT`.
        images: uint8 [B, H, W, C], or what the model takes: normalised floats, or {"image", "patch_mask"}.
        path: where to; its suffix is one of `plots.SUFFIXES`. None: nowhere.

    Returns:
        The matplotlib `Figure`; its three axes hold the rows.

    Raises:
        InputError: another suffix, no `MaskedViT`, no picture or more than 64.
    """
    if path is not None:
        check_suffix(path)
    if not isinstance(model, MaskedViT):
        raise InputError(f"expected a MaskedViT, not {type(model).__name__}.")
    mean, std = (np.asarray(model.encoder.preprocessing[key], "float32") for key in ("mean", "std"))
    inputs = dict(images) if isinstance(images, dict) else {"image": images}
    pixels = np.asarray(inputs["image"])
    if not 0 < len(pixels) <= MOST:
        raise InputError(f"{len(pixels)} pictures given: from 1 to {MOST} can be drawn.")
    if pixels.dtype == np.uint8:
        pixels = ops.convert_to_numpy(model.prepare(pixels))
    inputs["image"] = pixels
    _, predicted, mask = model.reconstruct(inputs if isinstance(images, dict) else pixels)

    pixels = ops.convert_to_numpy(model.encoder.normalised(pixels))
    original, predicted = (_shown(x, mean, std) for x in (pixels, predicted))
    rows, columns = model.grid(inputs)
    h, w = model.encoder.config.patch_size
    hidden = mask.reshape(-1, rows, columns).repeat(h, axis=1).repeat(w, axis=2)
    masked = np.where(hidden[..., np.newaxis], np.uint8(COVER), original)
    figure = _figure(
        {
            "original": original,
            f"{mask.mean():.0%} hidden": masked,
            "predicted": predicted,
        },
        "mean and contrast of the hidden patches are given" if model.reconstruction.normalise else None,
    )
    if path is not None:
        save(figure, path)
    return figure


def _shown(images, mean, std):
    """Normalised pictures as uint8 [B, H, W, 3]."""
    pixels = (np.asarray(images, "float32") * std + mean) * 255
    return as_rgb(np.clip(np.round(np.nan_to_num(pixels)), 0, 255).astype("uint8"))


def _figure(rows, note):
    from matplotlib.figure import Figure

    count, height, width, _ = next(iter(rows.values())).shape
    gap = max(1, width // 16)
    strips = {title: _strip(pictures, gap) for title, pictures in rows.items()}
    each = 1.1 if count > 1 else 2.2  # inches
    size = (max(2.4, each * count * (width + gap) / width) + 0.2, 3 * (each * height / width + 0.3) + 0.3)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    for axis, (title, strip) in zip(figure.subplots(3, 1), strips.items(), strict=True):
        axis.imshow(strip, interpolation="nearest")
        axis.set_title(title, loc="left", fontsize=10, color=FAINT)
        axis.set(xticks=[], yticks=[], anchor="W")
        axis.spines[:].set_visible(False)
    if note:
        axis.set_xlabel(note, fontsize=8, color=FAINT, loc="left")
    return figure


def _strip(pictures, gap):
    """[B, H, W, 3] side by side on white."""
    count, height, width, _ = pictures.shape
    strip = np.full((height, count * (width + gap) - gap, 3), 255, "uint8")
    for i, picture in enumerate(pictures):
        strip[:, i * (width + gap) : i * (width + gap) + width] = picture
    return strip

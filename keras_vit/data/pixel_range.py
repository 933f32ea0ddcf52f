"""Numbers that people hand over as pixels: are they in 0..255, or were they normalised?"""

import numpy as np

OVERSHOOT = 64  # how far sharp resizing (bicubic, Lanczos) may go beyond 0..255 at an edge


def pixels_problem(values: np.ndarray) -> str | None:
    """Why numbers cannot be pixels 0..255, or None.

    Fractions are fine: resizing makes them. So are a few values a little outside, which sharp resizing makes.
    Floats up to 2 that are not all 0 were divided by 255, and integers up to 1 are a mask: nobody's pictures
    are that dark.
    """
    if values.dtype.kind not in "iuf" or not values.size:
        return f"are {values.dtype} {list(values.shape)}, and pixels are numbers in 0..255"
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():  # NaN is its own minimum
        return "contain NaN or infinity, and pixels are numbers in 0..255"
    floats = values.dtype.kind == "f"
    if floats and high > 2 and low >= -OVERSHOOT and high <= 255 + OVERSHOOT:
        inside = low >= 0 and high <= 255
        if inside or np.mean((values >= 0) & (values <= 255)) > 0.9:
            return None
    elif low >= 0 and high <= 255 and not 0 < high <= (2 if floats else 1):
        return None
    return (
        f"run from {low:.4g} to {high:.4g}, but pixels run over 0..255: leave out their normalisation, it is "
        "inside the model"
    )


def as_pixels(values: np.ndarray) -> np.ndarray:
    """Numbers that `pixels_problem` has nothing against, as uint8: rounded, halves to the even integer."""
    return values if values.dtype == np.uint8 else np.clip(np.round(values), 0, 255).astype(np.uint8)

"""Scenes of coloured shapes on a plain background, which three of the scenarios share. NumPy alone.

A `Scenes` is what is drawn, as numbers; `draw` makes pixels of it. Thousands of scenes a second.
"""

import dataclasses
import hashlib

import numpy as np

from keras_vit.config import integer
from keras_vit.errors import InputError

# Name -> RGB. The six colours of Sort-of-CLEVR (Santoro et al. 2017, arXiv:1706.01427, section 4.2).
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}
SHAPES = ("square", "circle", "triangle")
BACKGROUND = 255


@dataclasses.dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes of K objects each.

    Attributes:
        centres: int32 [N, K, 2], (row, column) in pixels from the top left.
        colours: int32 [N, K], indices into `COLOURS`; no two of a scene are alike.
        shapes: int32 [N, K], indices into `SHAPES`.
    """

    centres: np.ndarray
    colours: np.ndarray
    shapes: np.ndarray

    def __len__(self):
        return len(self.centres)


def scatter(
    rng: np.random.Generator, count: int, objects: int, size: int, radius: int, gap: int
) -> np.ndarray:
    """Random centres, int32 [count, objects, 2], of objects that lie wholly inside and do not touch.

    No centre lies on the middle line of a canvas of odd size: each is left or right, above or below.

    Args:
        rng: a `numpy.random.Generator`.
        size: of the square canvas, in pixels.
        radius: from the centre of an object to its edge.
        gap: two centres are at least so many pixels apart.

    Raises:
        InputError: the canvas has no room for so many.
    """
    places = np.arange(radius, size - radius)
    if size % 2:
        places = places[places != size // 2]
    # Each object forbids at most a disc of that radius to the next one.
    if len(places) == 0 or (objects - 1) * np.pi * gap**2 >= len(places) ** 2:
        raise InputError(
            f"{objects} objects, {gap} pixels apart, do not surely fit into {size} x {size} pixels: use "
            "fewer objects, a smaller gap or a larger canvas."
        )
    centres = np.zeros((integer("count", count, 1), objects, 2), np.int32)
    for k in range(objects):
        left = np.arange(count)
        while len(left):
            tried = places[rng.integers(len(places), size=(len(left), 2))]
            away = np.square(centres[left, :k] - tried[:, None]).sum(2) >= gap**2
            good = away.all(axis=1)
            centres[left[good], k] = tried[good]
            left = left[~good]
    return centres


def draw(scenes: Scenes, size: int, radius: int) -> np.ndarray:
    """Pixels uint8 [N, size, size, 3] of scenes whose objects reach `radius` pixels from their centres."""
    images = np.full((len(scenes), size, size, 3), BACKGROUND, np.uint8)
    palette = np.array(list(COLOURS.values()), np.uint8)
    for shape, name in enumerate(SHAPES):
        stamp = np.argwhere(outline(name, radius)) - radius
        scene, k = np.nonzero(scenes.shapes == shape)
        at = scenes.centres[scene, k][:, None] + stamp  # [objects, pixels, 2]
        images[scene[:, None], at[..., 0], at[..., 1]] = palette[scenes.colours[scene, k]][:, None]
    return images


def outline(shape: str, radius: int) -> np.ndarray:
    """Which pixels a shape covers: boolean [2 * radius + 1, 2 * radius + 1]."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    if shape == "square":
        return np.ones_like(x, bool)
    if shape == "circle":
        return y**2 + x**2 <= radius**2
    return 2 * np.abs(x) <= y + radius  # a triangle, its tip up


def distinct_colours(rng: np.random.Generator, count: int, objects: int) -> np.ndarray:
    """int32 [count, objects], no colour twice in a row."""
    return rng.permuted(np.tile(np.arange(len(COLOURS), dtype=np.int32), (count, 1)), axis=1)[:, :objects]


def fingerprint(*arrays: np.ndarray) -> str:
    """16 hex digits that tell arrays apart."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]

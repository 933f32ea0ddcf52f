"""Sort-of-CLEVR's scenes, the questions about them in two languages, and the answers."""

import numpy as np

from keras_vit.scenarios.scenes import COLOURS, Scenes, scatter

SIZE, RADIUS, GAP, OBJECTS = 75, 5, 15, 6
LANGUAGES = ("English", "Chinese")
COLOURS_IN = {"English": tuple(COLOURS), "Chinese": ("红", "绿", "蓝", "橙", "灰", "黄")}
# What is asked, in the order of `answers`: the first three of one object, the others of its relations.
QUESTION_TYPES = ("shape", "left", "top", "closest", "furthest", "count")
RELATIONAL = (False, False, False, True, True, True)
PHRASINGS = {
    "English": {
        "shape": ("What is the shape of the {} object?", "Which shape does the {} object have?"),
        "left": ("Is the {} object on the left?", "Is the {} object in the left half?"),
        "top": ("Is the {} object at the top?", "Is the {} object in the upper half?"),
        "closest": (
            "What is the shape of the object closest to the {} object?",
            "Which shape is nearest to the {} object?",
        ),
        "furthest": (
            "What is the shape of the object furthest from the {} object?",
            "Which shape is most distant from the {} object?",
        ),
        "count": (
            "How many objects have the shape of the {} object?",
            "How many objects are shaped like the {} object?",
        ),
    },
    "Chinese": {
        "shape": ("{}色物体是什么形状？", "{}色的物体形状是什么？"),
        "left": ("{}色物体在左边吗？", "{}色的物体在左半边吗？"),
        "top": ("{}色物体在上面吗？", "{}色的物体在上半边吗？"),
        "closest": ("离{}色物体最近的物体是什么形状？", "最靠近{}色物体的是什么形状？"),
        "furthest": ("离{}色物体最远的物体是什么形状？", "距{}色物体最远的是什么形状？"),
        "count": ("有几个物体和{}色物体形状相同？", "与{}色物体同形状的有几个？"),
    },
}
LABELS = ["square", "circle", "yes", "no", *(str(number) for number in range(1, OBJECTS + 1))]
YES, NO, ONE = 2, 3, 4


def scenes(rng: np.random.Generator, count: int) -> Scenes:
    """`Scenes` of six objects, one of each colour in the order of `COLOURS`: squares and circles."""
    return Scenes(
        scatter(rng, count, OBJECTS, SIZE, RADIUS, GAP),
        np.tile(np.arange(OBJECTS, dtype=np.int32), (count, 1)),
        rng.integers(2, size=(count, OBJECTS)).astype(np.int32),
    )


def answers(scenes: Scenes) -> np.ndarray:
    """The answer to every question that there is: int32 [N, 6 types, 6 colours], indices into `LABELS`.

    The object itself counts in "count".
    """
    rows, columns = scenes.centres[..., 0], scenes.centres[..., 1]
    closest, furthest = np.moveaxis(extremes(scenes), 1, 0)
    alike = (scenes.shapes[:, :, None] == scenes.shapes[:, None]).sum(2)
    return np.stack(
        [
            scenes.shapes,
            np.where(columns < SIZE // 2, YES, NO),
            np.where(rows < SIZE // 2, YES, NO),
            np.take_along_axis(scenes.shapes, closest, 1),
            np.take_along_axis(scenes.shapes, furthest, 1),
            ONE - 1 + alike,
        ],
        axis=1,
    ).astype(np.int32)


def extremes(scenes: Scenes) -> np.ndarray:
    """Which other object is the closest to each, and which the furthest: int32 [N, 2, 6 colours].

    Distances are those between the centres. Of equal ones the first in the order of the colours counts.
    """
    between = np.square(scenes.centres[:, :, None] - scenes.centres[:, None]).sum(3)
    itself = np.eye(OBJECTS, dtype=bool)
    return np.stack([np.where(itself, SIZE**3, between).argmin(2), between.argmax(2)], axis=1).astype(
        np.int32
    )


def questions() -> tuple[list[str], np.ndarray]:
    """All questions there are, each in all its words.

    Returns:
        (texts, list of strings; meaning, int32 [texts, 3]: question_type, colour, language).
    """
    texts, meaning = [], []
    for language, name in enumerate(LANGUAGES):
        for question_type, key in enumerate(QUESTION_TYPES):
            for colour, word in enumerate(COLOURS_IN[name]):
                for phrasing in PHRASINGS[name][key]:
                    texts.append(phrasing.format(word))
                    meaning.append((question_type, colour, language))
    return texts, np.array(meaning, np.int32)

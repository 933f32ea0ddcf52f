"""The worlds of scenes: what is drawn, asked, said and answered, each computed again in another way."""

import functools
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from keras_vit.errors import InputError
from keras_vit.scenarios import (
    missing_text,
    sort_of_clevr,
    sort_of_clevr_pretraining,
    sort_of_clevr_questions,
    two_stage,
)
from keras_vit.scenarios.scenes import COLOURS, SHAPES, Scenes, draw, outline, scatter
from keras_vit.training.recipes import multimodal_recipe

WORLDS = (sort_of_clevr, two_stage, missing_text)


@pytest.fixture(scope="module")
def data():
    return {world: world.make(seed=3, train_scenes=120, test_scenes=60) for world in WORLDS}


def seen(picture):
    """{colour: (row, column, shape)} of the objects in a picture without noise, from its pixels alone."""
    return _seen(picture.tobytes(), picture.shape)


@functools.cache
def _seen(pixels, size):
    picture, found = np.frombuffer(pixels, np.uint8).reshape(size), {}
    for colour, rgb in COLOURS.items():
        rows, columns = np.nonzero((picture == np.array(rgb)).all(2))
        if len(rows) == 0:
            continue
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        full = len(rows) / (height * width)
        upper, lower = (rows == rows.min()).sum(), (rows == rows.max()).sum()
        shape = "square" if full == 1 else "circle" if upper == lower else "triangle"
        found[colour] = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2, shape)
    return found


def test_a_picture_shows_the_scene():
    scenes = two_stage.scenes(np.random.default_rng(0), 200)
    for n, picture in enumerate(draw(scenes, two_stage.SIZE, two_stage.RADIUS)):
        told = {
            list(COLOURS)[colour]: (*place, SHAPES[shape])
            for place, colour, shape in zip(
                scenes.centres[n].tolist(), scenes.colours[n], scenes.shapes[n], strict=True
            )
        }
        assert seen(picture) == told
        pixels = sum(outline(shape, two_stage.RADIUS).sum() for _, _, shape in told.values())
        assert (picture != 255).any(2).sum() == pixels  # none hides a part of another


@pytest.mark.parametrize(("shape", "pixels"), [("square", 25), ("circle", 13), ("triangle", 13)])
def test_outlines(shape, pixels):
    assert outline(shape, 2).sum() == pixels


def test_objects_stay_inside_and_apart():
    centres = scatter(np.random.default_rng(0), 2000, 6, 75, 5, 15)
    assert centres.min() == 5 and centres.max() == 69 and not (centres == 37).any()
    between = np.linalg.norm((centres[:, :, None] - centres[:, None]).astype(float), axis=3)
    assert between[:, ~np.eye(6, dtype=bool)].min() == 15


def test_no_room_for_all_objects():
    with pytest.raises(InputError, match=r"6 objects, 30 pixels apart.*larger canvas"):
        scatter(np.random.default_rng(0), 1, 6, 75, 5, 30)


# Sort-of-CLEVR


def asked(text):
    """(kind, colour) of a question in English or Chinese, from its words."""
    signs = {
        "closest": r"closest|nearest|最近|最靠近",
        "furthest": r"furthest|distant|最远",
        "count": r"how many|几个",
        "left": r"left|左",
        "top": r"top|upper|上",
        "shape": r"shape|形状",
    }
    colours = dict(zip("红绿蓝橙灰黄", COLOURS, strict=True)) | {colour: colour for colour in COLOURS}
    kind = next(kind for kind, sign in signs.items() if re.search(sign, text))
    (colour,) = {name for word, name in colours.items() if re.search(rf"(?<![a-z]){word}(?![a-z])", text)}
    return kind, colour


def answered(picture, kind, colour):
    """The answers that are right, by looking at the picture. Two, when two objects are equally far."""
    objects = seen(picture)
    row, column, shape = objects[colour]
    away = {
        other: (row - r) ** 2 + (column - c) ** 2 for other, (r, c, _) in objects.items() if other != colour
    }
    if kind == "shape":
        return {shape}
    if kind in ("left", "top"):
        return {"yes" if (column if kind == "left" else row) < 37 else "no"}
    if kind == "count":
        return {str(sum(other == shape for _, _, other in objects.values()))}
    extreme = (min if kind == "closest" else max)(away.values())
    return {objects[other][2] for other, distance in away.items() if distance == extreme}


def test_every_question_has_the_answer_that_the_picture_gives(data):
    clevr = data[sort_of_clevr]
    vocabulary, kinds = clevr.modalities["text"].vocabulary, set()
    for part in (clevr.train, clevr.test):
        for n in range(0, len(part), 3):
            kind, colour = asked(vocabulary.decode(part.inputs["text"][n]))
            right = answered(part.inputs["image"][n], kind, colour)
            assert clevr.labels[part.labels[n]] in right
            assert part.groups[kind][n]
            assert part.groups["relational"][n] == (kind in ("closest", "furthest", "count"))
            assert part.groups["relational"][n] != part.groups["non-relational"][n]
            kinds.add((kind, colour))
    assert len(kinds) == 36


def test_which_object_is_the_extreme():
    scenes = sort_of_clevr.scenes(np.random.default_rng(6), 50)
    for centres, (closest, furthest) in zip(
        scenes.centres.astype(float), sort_of_clevr_questions.extremes(scenes), strict=True
    ):
        for k in range(6):
            away = np.hypot(*(centres - centres[k]).T)
            others = np.delete(away, k)
            assert closest[k] != k != furthest[k]
            assert away[closest[k]] == others.min() and away[furthest[k]] == others.max()


def test_both_languages_ask_the_same():
    texts, meaning = sort_of_clevr.questions()
    found = {}
    for text, (kind, colour, language) in zip(texts, meaning, strict=True):
        assert asked(text.lower()) == (sort_of_clevr.QUESTION_TYPES[kind], list(COLOURS)[colour])
        assert text.isascii() == (sort_of_clevr.LANGUAGES[language] == "English")
        found.setdefault((kind, colour), []).append(language)
    assert len(found) == 36 and set(map(tuple, found.values())) == {(0, 0, 1, 1)}
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("world", WORLDS)
def test_no_text_is_cut_or_unknown(data, world):
    text = data[world].modalities["text"]
    for part in (data[world].train, data[world].test):
        texts = text.vocabulary.decode(part.inputs["text"][:])
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of cut words
            longer = text.vocabulary.encode(texts, 40)
        np.testing.assert_array_equal(longer[:, : text.length], part.inputs["text"][:])
        assert not longer[:, text.length :].any() and not (longer == 1).any()


def test_the_questions_are_balanced(data):
    train = data[sort_of_clevr].train
    assert train.groups["relational"].mean() == 0.5
    assert train.groups["English"].mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(train.groups["English"], ~train.groups["Chinese"])
    for kind in sort_of_clevr.QUESTION_TYPES:
        assert train.groups[kind].mean() == pytest.approx(1 / 6, abs=0.02)
    answers = sort_of_clevr.answers(sort_of_clevr.scenes(np.random.default_rng(1), 3000))
    for kind, given in zip(sort_of_clevr.QUESTION_TYPES, np.moveaxis(answers, 1, 0), strict=True):
        shares = np.bincount(given.ravel(), minlength=len(sort_of_clevr.LABELS)) / given.size
        if kind == "count":  # one object, and how many of five others share its shape by chance
            expected = [0, 0, 0, 0, *np.array([1, 5, 10, 10, 5, 1]) / 32]
        else:
            expected = [0, 0, 0.5, 0.5] if kind in ("left", "top") else [0.5, 0.5]
        np.testing.assert_allclose(shares, np.pad(expected, (0, 10 - len(expected))), atol=0.02)


# Two-stage


def told(caption):
    """{colour: (shape, place)} from the words of a caption."""
    found = {}
    for part in caption.removesuffix(".").split(", "):
        first, last = re.fullmatch(r"(?:a|at the) (.+) (?:a|at the) (.+)", part).groups()
        thing, place = (first, last) if part.startswith("a ") else (last, first)
        colour, shape = thing.split()
        found[colour] = (shape, place)
    return found


def test_a_caption_says_what_the_picture_shows():
    rng = np.random.default_rng(1)
    scenes = two_stage.scenes(rng, 300)
    pictures = draw(scenes, two_stage.SIZE, two_stage.RADIUS)
    for caption, picture, label in zip(
        two_stage.captions(rng, scenes), pictures, two_stage.answers(scenes), strict=True
    ):
        objects = seen(picture)
        expected = {}
        for colour, (row, column, shape) in objects.items():
            upright = ("top", "middle", "bottom")[int(row // 12)]
            across = ("left", "centre", "right")[int(column // 12)]
            expected[colour] = (shape, f"{upright} {across}")
        assert told(caption) == expected
        assert list(COLOURS)[label] == min(objects, key=lambda colour: objects[colour][0])


def test_the_contents_of_the_cells_are_those_of_the_picture():
    scenes = two_stage.scenes(np.random.default_rng(5), 100)
    names = ["nothing", *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)]
    pictures = draw(scenes, two_stage.SIZE, two_stage.RADIUS)
    for picture, cells in zip(pictures, two_stage.contents(scenes), strict=True):
        expected = ["nothing"] * 9
        for colour, (row, column, shape) in seen(picture).items():
            expected[int(row // 12) * 3 + int(column // 12)] = f"{colour} {shape}"
        assert [names[cell] for cell in cells] == expected


def test_the_order_of_the_words_does_not_tell_the_answer():
    rng = np.random.default_rng(2)
    scenes = two_stage.scenes(rng, 3000)
    place = (scenes.colours == two_stage.answers(scenes)[:, None]).argmax(1)
    np.testing.assert_allclose(np.bincount(place) / 3000, 1 / 3, atol=0.03)
    np.testing.assert_allclose(np.bincount(two_stage.answers(scenes)) / 3000, 1 / 6, atol=0.03)


@pytest.mark.parametrize("world", WORLDS)
def test_a_scenario_that_freezes_parts_can_pretrain_them(world):
    assert hasattr(world, "pretrain") == hasattr(world, "PRETRAINING") == ("freeze" in world.TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "pretrained"),
    [(two_stage, {"image"}), (sort_of_clevr, {"image", "text", "block_0"})],
)
def test_parts_are_pretrained_and_the_others_stay(data, world, pretrained):
    model = multimodal_recipe(data[world], variant=world.MODEL).build(len(data[world].labels))
    parts = {part.name: part for part in (*model.modalities.values(), *model.blocks, model.norm, model.head)}
    before = {name: part.get_weights() for name, part in parts.items()}
    world.pretrain(model, steps=2)
    for name, part in parts.items():
        same = [np.array_equal(*pair) for pair in zip(before[name], part.get_weights(), strict=True)]
        assert not all(same) if name in pretrained else all(same), name
    assert pretrained >= set(world.TRAINING["freeze"])


def test_pretraining_asks_what_it_answers(data):
    """A batch of Sort-of-CLEVR's pretraining, each answer computed again from what the picture shows."""
    world, (texts, meaning) = data[sort_of_clevr], sort_of_clevr.questions()
    model = SimpleNamespace(modalities={"image": SimpleNamespace(prepare=lambda pixels: pixels)})
    inputs, told = next(sort_of_clevr_pretraining.batches(model, meaning, seed=5))
    for n in range(3):
        objects = seen(inputs["pixels"][n])
        for q, text in enumerate(inputs["chosen"][n]):
            kind, colour = asked(texts[text].lower())
            row, column, shape = objects[colour]
            np.testing.assert_allclose(told["centre"][n, q], (np.array([row, column]) - 37) / 37, atol=1e-6)
            answer = world.labels[told["answer"][n, q]]
            if kind == "shape":
                assert answer == shape
            elif kind == "count":
                assert int(answer) == sum(other[2] == shape for other in objects.values())
            elif kind == "left":
                assert answer == ("yes" if column < 37 else "no")


class Features:
    """A model whose features of text n are those of picture `order[n]`."""

    def __init__(self, order):
        self.order = order

    def prepare(self, inputs):
        return inputs

    def visual_features(self, images):
        return np.random.default_rng(0).normal(size=(len(images), 8))

    def predicted_features(self, texts):
        return 7 * self.visual_features(texts)[self.order]


def test_retrieval_is_how_many_texts_find_their_picture(data):
    # Two hundreds, and some more that fill no hundred.
    examples = two_stage.make(seed=1, train_scenes=20, test_scenes=230).test
    assert two_stage.retrieval(Features(np.arange(100)), examples) == 1.0
    swapped = np.arange(100)
    swapped[:20] = np.roll(swapped[:20], 1)
    assert two_stage.retrieval(Features(swapped), examples) == pytest.approx(0.8)


def test_a_bag_of_words_knows_a_third():
    world = two_stage.make(seed=2, train_scenes=1500, test_scenes=600)
    assert 0.25 < two_stage.bag_of_words(world) < 0.42


# Missing text


def test_a_text_tells_half_of_the_class(data):
    world = data[missing_text]
    texts = world.modalities["text"].vocabulary.decode(world.train.inputs["text"])
    said = {"colour": 0, "shape": 0}
    for text, label in zip(texts, world.train.labels, strict=True):
        colour, shape = world.labels[label].split()
        assert (colour in text) != (shape in text)
        assert not any(other in text for other in {*COLOURS, *SHAPES} - {colour, shape})
        said["colour" if colour in text else "shape"] += 1
    assert min(said.values()) > 40


def test_the_noisy_picture_still_shows_its_object():
    rng = np.random.default_rng(4)
    scenes = missing_text.scenes(rng, 400)
    pictures = missing_text.photograph(rng, scenes).astype(float)
    for colour, rgb in enumerate(COLOURS.values()):
        at = scenes.centres[scenes.colours[:, 0] == colour, 0]
        of = pictures[scenes.colours[:, 0] == colour]
        inside = np.mean(
            [p[y - 3 : y + 4, x - 1 : x + 2].mean((0, 1)) for p, (y, x) in zip(of, at, strict=True)], 0
        )
        # The darker a channel of the colour, the darker that channel on average.
        assert (np.diff(inside[np.argsort(rgb)]) > -6).all()
        assert inside[np.argmin(rgb)] < pictures[:, :2].mean() - 15


def test_the_controls_hide_the_texts_of_so_many(data):
    examples = data[missing_text].test
    found = missing_text.controls(examples)
    hidden = []
    for (name, others), share in zip(found.items(), (0.3, 0.7, 1.0), strict=True):
        present = others.inputs["present"]
        assert name.startswith(f"{share:.0%}") and present.dtype == np.float32
        np.testing.assert_array_equal(present[:, 0], 1)
        assert (present[:, 1] == 0).sum() == round(share * len(examples))
        np.testing.assert_array_equal(others.inputs["image"], examples.inputs["image"])
        hidden.append(present[:, 1] == 0)
    assert (hidden[0] <= hidden[1]).all()  # who misses more misses these too


def test_the_plot_of_missing_texts_tells_the_worst_case(data, tmp_path):
    scores = {"image + text": {"all": 0.95}, "image, a model of its own": {"all": 0.9}}
    for share, right in zip(missing_text.SHARES, (0.93, 0.91, 0.895), strict=True):
        scores[f"{share:.0%} of the texts missing"] = {"all": right}
    found = missing_text.more(None, data[missing_text], scores, tmp_path)
    assert list(found.values()) == pytest.approx([-0.005])
    assert (tmp_path / "missing.png").stat().st_size > 5000


# All


@pytest.mark.parametrize("world", WORLDS)
def test_train_and_test_share_no_picture(data, world):
    train, test = (
        {picture.tobytes() for picture in part.inputs["image"][:]}
        for part in (data[world].train, data[world].test)
    )
    assert len(train) == 120 and len(test) == 60 and not train & test


@pytest.mark.parametrize("world", WORLDS)
def test_the_seed_decides_all(data, world):
    again, other = (world.make(seed, train_scenes=120, test_scenes=60) for seed in (3, 4))
    assert again.fingerprint == data[world].fingerprint != other.fingerprint
    for part, twin in ((again.train, data[world].train), (again.test, data[world].test)):
        np.testing.assert_array_equal(part.labels, twin.labels)
        for name in ("image", "text"):
            np.testing.assert_array_equal(part.inputs[name][:], twin.inputs[name][:])
    assert not np.array_equal(other.train.labels, again.train.labels)


@pytest.mark.parametrize("world", WORLDS)
def test_the_modalities_take_the_inputs(data, world):
    for name, modality in data[world].modalities.items():
        given = data[world].test.inputs[name]
        assert given.shape[1:] == modality.signature()["shape"]
        assert given.dtype == {"image": np.uint8, "text": np.int32}[name]
        assert modality.get_config()["width"] is None


def test_scenes_are_their_number():
    scenes = two_stage.scenes(np.random.default_rng(0), 5)
    assert isinstance(scenes, Scenes) and len(scenes) == 5

"""The pictures as files: what is warm in them, and what `explain` refuses."""

import zipfile

import keras
import numpy as np
import pytest
from PIL import Image
from random_weights import randomize

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.inspect import draw_explanation, draw_position_similarity, explain


def picture(place, size=(12, 24), patch=(4, 8)):
    """Dark grey with one bright patch."""
    pixels = np.full((*size, 3), 60, "uint8")
    (row, column), (h, w) = place, patch
    pixels[h * row : h * row + h, w * column : w * column + w] = 230
    return pixels


def read(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def boxes(image, least=60):
    """The large things on white, left to right: (top, bottom, left, right)."""
    found = []
    filled = (image.min(axis=2) < 250).mean(axis=0) > 0.4
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(int), [0]])))
    for left, right in edges.reshape(-1, 2):
        if right - left >= least:
            rows = np.flatnonzero((image[:, left:right].min(axis=2) < 250).mean(axis=1) > 0.9)
            found.append((rows[0], rows[-1] + 1, left, right))
    return found


def patch_means(image, box, grid):
    """The mean colour in the middle of each patch, [rows, columns, 3]."""
    top, bottom, left, right = box
    rows, columns = grid
    h, w = (bottom - top) / rows, (right - left) / columns
    means = np.zeros((rows, columns, 3))
    for r in range(rows):
        for c in range(columns):
            y, x = top + (r + 0.5) * h, left + (c + 0.5) * w
            area = image[int(y - h / 8) : int(y + h / 8), int(x - w / 8) : int(x + w / 8)]
            means[r, c] = area.mean((0, 1))
    return means


@pytest.mark.parametrize("place", [(0, 1), (2, 2)])
def test_the_patch_that_it_looks_at_is_warm(looker, tmp_path, place):
    out = tmp_path / "new folder" / "out.png"
    pixels = picture(place)
    predictions = draw_explanation(looker((12, 24), (4, 8)), pixels, out, labels=["a", "b", "c"])
    assert [label for label, _ in predictions] == ["c", "b", "a"]
    np.testing.assert_allclose([p for _, p in predictions], [3 / 6, 2 / 6, 1 / 6], atol=1e-6)

    image = read(out)
    seen, heat = boxes(image)[:2]
    shown = patch_means(image, seen, (3, 3))
    np.testing.assert_allclose(shown, pixels[2::4, 4::8], atol=2)  # the picture itself, patch by patch
    warmth = patch_means(image, heat, (3, 3)) @ [1, 0, -1]
    assert warmth[place] > 80
    warmth[place] = 0
    assert np.abs(warmth).max() < 25  # elsewhere it stays grey
    assert [p.name for p in out.parent.iterdir()] == ["out.png"]


def test_the_bars_are_as_long_as_the_classes_are_probable(looker, tmp_path):
    draw_explanation(looker((12, 24), (4, 8)), picture((0, 0)), tmp_path / "out.png")
    image = read(tmp_path / "out.png")
    blue = (image[..., 2] - image[..., 0] > 60).any(axis=0).nonzero()[0]
    paler = ((image == [169, 191, 221]).all(axis=2)).any(axis=0).nonzero()[0]
    behind = ((image == [238, 240, 243]).all(axis=2)).any(axis=0).nonzero()[0]
    whole = behind[-1] - blue[0]
    assert (blue[-1] - blue[0]) / whole == pytest.approx(3 / 6, abs=0.02)
    assert (paler[-1] - paler[0]) / whole == pytest.approx(2 / 6, abs=0.02)


def test_without_classes_there_are_two_pictures_and_no_bars(looker, tmp_path):
    model = looker((12, 24), (4, 8), num_classes=None)
    assert draw_explanation(model, picture((1, 1)), tmp_path / "out.jpg") == []
    assert len(boxes(read(tmp_path / "out.jpg"))) == 2


def test_a_picture_of_another_size_is_fitted_as_for_prediction(looker, tmp_path):
    model = looker((12, 24), (4, 8))
    Image.fromarray(picture((1, 0))).resize((240, 120), Image.Resampling.NEAREST).save(tmp_path / "in.png")
    draw_explanation(model, str(tmp_path / "in.png"), tmp_path / "out.png", labels=["$a$", "b" * 99, "ü"])
    image = read(tmp_path / "out.png")
    warmth = patch_means(image, boxes(image)[1], (3, 3)) @ [1, 0, -1]
    assert np.unravel_index(warmth.argmax(), (3, 3)) == (1, 0)


def test_drawing_leaves_pyplot_alone(looker, tmp_path):
    import matplotlib

    before = matplotlib.rcParams["backend"]
    draw_explanation(looker((12, 24), (4, 8)), picture((0, 0)), tmp_path / "out.svg")
    assert matplotlib.rcParams["backend"] == before
    assert b"<svg" in (tmp_path / "out.svg").read_bytes()


def test_what_cannot_be_drawn(looker, tmp_path):
    model = looker((12, 24), (4, 8))
    for name in ("out", "out.txt", "out.tflite"):
        with pytest.raises(InputError, match=r"names no picture that can be drawn.*\.png"):
            draw_explanation(model, picture((0, 0)), tmp_path / name)
    with pytest.raises(InputError, match="2 labels for a model of 3 classes"):
        draw_explanation(model, picture((0, 0)), tmp_path / "out.png", labels=["a", "b"])
    with pytest.raises(InputError, match="uint8 picture"):
        draw_explanation(model, np.zeros((12, 24, 3)), tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


def test_position_similarity_as_tiles(tmp_path):
    model = ViT("Nano/2", (4, 6), 3, width=16, depth=1, position="one_hot")
    draw_position_similarity(model, tmp_path / "out.png")
    image = read(tmp_path / "out.png")
    yellow = (np.abs(image - [253, 231, 37]).sum(axis=2) < 12).nonzero()
    assert len(yellow[0])
    tiles = boxes(image, least=30)[:3]  # the scale comes after them
    assert len(tiles) == 3, "three columns of heat maps"
    teal = [33, 145, 140]  # the middle of viridis, 1/2 on a scale from 0 to 1
    for column, (_, _, left, right) in enumerate(tiles):
        top, bottom = _first_tile(image, left, right)
        means = patch_means(image, (top, bottom, left, right), (2, 3))
        np.testing.assert_allclose(means[0, column], [253, 231, 37], atol=4)  # itself
        np.testing.assert_allclose(means[1, column], teal, atol=4)  # its column
        np.testing.assert_allclose(means[1, (column + 1) % 3], [68, 1, 84], atol=4)  # nothing shared
    with pytest.raises(InputError, match="position='rotary2d'"):
        draw_position_similarity(ViT("Nano/2", 4, 3, position="rotary2d"), tmp_path / "no.png")


def _first_tile(image, left, right):
    filled = (image[:, left:right].min(axis=2) < 250).mean(axis=1) > 0.9
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(int), [0]])))
    return edges[0], edges[1]


@pytest.fixture
def run(looker, tmp_path):
    """A RUN folder with its model, and a picture."""
    folder = tmp_path / "run"
    folder.mkdir()
    looker((12, 24), (4, 8)).save(folder / "model.keras")
    (folder / "labels.txt").write_text("cat\ndog\nübung\n", encoding="utf-8")
    Image.fromarray(picture((1, 1))).save(tmp_path / "picture.png")
    return folder


def test_explain_a_run(run, tmp_path):
    for model in (run, run / "model.keras", str(run)):
        predictions = explain(model, tmp_path / "picture.png", tmp_path / "out.png")
        assert [label for label, _ in predictions] == ["übung", "dog", "cat"]
    image = read(tmp_path / "out.png")
    warmth = patch_means(image, boxes(image)[1], (3, 3)) @ [1, 0, -1]
    assert np.unravel_index(warmth.argmax(), (3, 3)) == (1, 1)
    (run / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")  # of something else
    predictions = explain(run, tmp_path / "picture.png", tmp_path / "out.png")
    assert [label for label, _ in predictions] == ["class 2", "class 1", "class 0"]


def test_explain_a_quantization_aware_model_with_the_labels_of_its_run(run, tmp_path):
    from keras_vit.export import quantize_aware

    folder = run / "quantized" / "int8"
    folder.mkdir(parents=True)
    model = randomize(ViT("Nano/4", (12, 24), 3, depth=1))
    quantize_aware(model, "int8").save(folder / "model.keras")
    found = explain(folder / "model.keras", tmp_path / "picture.png", tmp_path / "int8.png")
    expected = draw_explanation(
        model, tmp_path / "picture.png", tmp_path / "float.png", ["cat", "dog", "übung"]
    )
    assert dict(found) == pytest.approx(dict(expected), abs=0.05)


def test_explain_refuses_what_is_no_keras_model(run, tmp_path):
    image, out = tmp_path / "picture.png", tmp_path / "out.png"
    (tmp_path / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 50)
    with zipfile.ZipFile(tmp_path / "model.tflite", "a") as file:  # as the metadata of a .tflite
        file.writestr("labels.txt", "a")
    (tmp_path / "model.keras").write_bytes(b"no zip")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    for folder, file in (("saved/1", "saved_model.pb"), ("dist", "int8.tflite"), ("empty", "notes.txt")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / file).write_bytes(b"")
    for name, why in (
        ("missing", "there is no"),
        ("model.tflite", "a TFLite file"),
        ("model.keras", "no Keras file"),
        ("other.keras", "expected a ViT, a MultimodalViT or a model around one, not Sequential"),
        ("saved", "a SavedModel"),
        ("saved/1", "a SavedModel"),
        ("dist", "an export"),
        ("empty", "no RUN"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            explain(tmp_path / name, image, out)
        assert name in str(caught.value) and "\n" not in str(caught.value)
        assert name == "other.keras" or "RUN/model.keras" in str(caught.value)
    with pytest.raises(InputError, match="there is no picture"):
        explain(run, tmp_path / "nothing.png", out)
    with pytest.raises(InputError, match="not a picture"):
        explain(run, run / "labels.txt", out)
    with pytest.raises(InputError, match="names no picture"):
        explain(run, image, tmp_path / "out")
    assert not out.exists()

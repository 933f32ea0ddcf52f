"""What a ViT takes for pixels: 0..255 or normalised, of one channel or many; what it says of others."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from random_weights import randomize

from keras_vit import MaskedViT, MultimodalViT, ViT
from keras_vit.errors import InputError, Notice
from keras_vit.modalities import Image, Text

SIZE, CLASSES = 8, 3


def build(channels=3, **changes):
    steps = np.linspace(0, 0.2, channels)
    preprocessing = {"mean": list(0.4 + steps), "std": list(0.2 + steps)}
    options = {"depth": 1, "preprocessing": preprocessing, **changes}
    return randomize(ViT("Nano/4", SIZE, CLASSES, channels=channels, **options))


def pixels(channels=3, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, channels), dtype=np.uint8)


def normalised(images, model):
    """By NumPy."""
    mean, std = (np.array(model.preprocessing[key]) for key in ("mean", "std"))
    return ((images / 255.0 - mean) / std).astype("float32")


def notices(function, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments, **options)
    return [str(each.message) for each in caught if each.category is Notice]


# --- pixels 0..255 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_a_model_that_includes_the_preprocessing_takes_pixels(channels, dtype):
    model = build(channels)
    images, whole = pixels(channels), model.rebuilt(include_preprocessing=True)
    expected = model(normalised(images, model))
    np.testing.assert_allclose(whole(images.astype(dtype)), expected, atol=1e-4)
    # What everything else calls: `prepare`, and then the model.
    np.testing.assert_allclose(whole(whole.prepare(images)), expected, atol=1e-4)


def test_it_is_kept_where_a_model_is_copied(tmp_path):
    model = build(include_preprocessing=True)
    expected = model(pixels())
    model.save(tmp_path / "m.keras")
    copies = [
        keras.models.load_model(tmp_path / "m.keras"),
        model.rebuilt(),
        model.reset_classifier(5),
        MaskedViT(model).classifier(2),
    ]
    assert all(copy.include_preprocessing for copy in copies)
    for copy in copies[:2]:
        np.testing.assert_allclose(copy(pixels()), expected, atol=1e-6)
    with pytest.raises(InputError, match="include_preprocessing must be True or False, not 1"):
        ViT("Nano/4", SIZE, CLASSES, include_preprocessing=1)


def test_half_precision_loses_no_pixel():
    model = build(include_preprocessing=True, dtype="mixed_bfloat16")
    half = model.rebuilt(include_preprocessing=False)
    images = np.arange(SIZE * SIZE * 3).reshape(1, SIZE, SIZE, 3).astype("float32")  # every pixel 0..191
    np.testing.assert_allclose(model.normalised(tf.cast(images, "bfloat16")), half.prepare(images), atol=1e-6)


@pytest.mark.parametrize("stem", ["linear", "overlapping", "compact"])
def test_padding_counts_for_nothing_also_where_it_is_normalised(stem):
    model = build(include_preprocessing=True, patch_mask=True, stem=stem)
    images, mask = pixels().astype("float32"), np.array([[1, 0, 1, 0]] * 2)
    expected = model({"image": images, "patch_mask": mask})
    images[:, :, 4:] = np.nan
    np.testing.assert_array_equal(model({"image": images, "patch_mask": mask}), expected)


@pytest.mark.parametrize("mode", ["simmim", "mae"])
def test_masked_training_compares_normalised_pixels(mode):
    encoder = build().rebuilt(num_classes=None)
    plain = MaskedViT(encoder, mode=mode, seed=1)
    whole = MaskedViT(encoder.rebuilt(include_preprocessing=True), mode=mode, seed=1)
    whole.set_weights(plain.get_weights())
    images = pixels()
    ready = normalised(images, encoder)
    np.testing.assert_allclose(whole.targets(images.astype("float32")), plain.targets(ready), atol=1e-5)
    for one, other in zip(whole.reconstruct(images), plain.reconstruct(ready), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


# --- pixels on another scale -----------------------------------------------------------------------


def test_a_first_batch_of_pixels_is_noticed_once():
    model = build()
    (said,) = notices(model, pixels().astype("float32"))
    assert "model.prepare(images)" in said and "include_preprocessing=True" in said
    assert not notices(model, pixels().astype("float32"))
    assert not notices(build(), normalised(pixels(), build()))


def test_both_ways_out_are_silent():
    model = build()
    assert not notices(model, model.prepare(pixels()))
    assert not notices(model.rebuilt(include_preprocessing=True), pixels())
    wrapped = keras.Sequential([keras.layers.Rescaling(1 / 127.5, -1), build()])
    assert not notices(wrapped, pixels().astype("float32"))


@pytest.mark.parametrize("scale", [1 / 255, 1 / 127.5])
def test_a_model_that_normalises_by_itself_notices_what_was_normalised_before(scale):
    model = build(include_preprocessing=True)
    (said,) = notices(model, pixels() * np.float32(scale) - np.float32(scale > 1 / 200))
    assert "takes pixels 0..255 and normalises them itself" in said
    assert not notices(build(include_preprocessing=True), np.zeros((1, SIZE, SIZE, 3), "float32"))


def test_arrays_given_to_fit_predict_and_evaluate_are_looked_at():
    images, labels = pixels().astype("float32"), np.array([0, 1])
    for call in ("fit", "predict", "evaluate"):
        model = build()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, run_eagerly=True)
        given = (images,) if call == "predict" else (images, labels)
        assert len(notices(getattr(model, call), *given, verbose=0)) == 1
    masked = MaskedViT(build().rebuilt(num_classes=None))
    assert len(notices(masked, images)) == 1


def test_nothing_is_looked_at_in_a_graph():
    """Neither while it is traced, where it would add operators, nor when it runs."""
    model, ready = build(), build()
    ready.range_checked = True  # as if it had looked already
    names = []
    for each in (model, ready):
        graph = tf.function(each).get_concrete_function(tf.TensorSpec((None, SIZE, SIZE, 3)))
        assert not notices(graph, tf.constant(pixels(), "float32"))
        names.append([operation.type for operation in graph.graph.get_operations()])
    assert names[0] == names[1]
    assert not model.range_checked
    assert not notices(keras.Model.__call__, model, keras.Input((SIZE, SIZE, 3)))


def test_padding_and_absent_pictures_are_passed_over():
    model = build(patch_mask=True)
    images = normalised(pixels(), model)
    images[:, :, 4:] = np.nan
    assert not notices(model, {"image": images, "patch_mask": np.array([[1, 0, 1, 0]] * 2)})
    far = pixels().astype("float32")
    far[:, :, 4:] = np.nan
    masked = {"image": far, "patch_mask": np.array([[1, 0, 1, 0]] * 2)}
    assert len(notices(build(patch_mask=True), masked)) == 1
    several = MultimodalViT(
        {"image": Image(SIZE, 4), "text": Text(9, length=4)}, width=16, depth=1, num_heads=2, num_classes=3
    )
    ids, far = np.ones((2, 4), "int32"), pixels().astype("float32")
    far[0] = 0
    assert not notices(several, {"image": far, "text": ids, "present": np.array([[1, 1], [0, 1]], "float32")})
    several.modalities["image"].range_checked = False
    (said,) = notices(several, {"image": far, "text": ids})
    assert "model.prepare" in said and "include_preprocessing" not in said


# --- channels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["linear", "conv", "overlapping", "compact"])
def test_a_grey_picture_gets_the_answer_of_three_equal_channels(stem):
    """`rebuilt(channels=1)` sums the kernel over RGB, as timm does."""
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    old = build(stem=stem, preprocessing=half, distilled=True)
    new = old.rebuilt(channels=1)
    grey = normalised(pixels(1), new)
    np.testing.assert_allclose(new(grey), old(np.repeat(grey, 3, axis=3)), atol=1e-5)
    assert new.signature()["image"]["shape"] == (SIZE, SIZE, 1)
    name = "convolution_1" if stem == "compact" else "projection"
    kernels = [np.asarray(next(v for v in m.weights if f"{name}/kernel" in v.path)) for m in (old, new)]
    if stem != "compact":
        kernels[0] = kernels[0].reshape(-1, 3, 64)
        kernels[1] = kernels[1].reshape(-1, 1, 64)
    np.testing.assert_allclose(kernels[1], kernels[0].sum(-2, keepdims=True), atol=1e-6)


def test_more_channels_repeat_the_kernel_in_turn():
    """As timm's `adapt_input_conv`: R, G, B, R, G times 3 / 5. Mean and deviation of pixels go with them."""
    old = build()
    new = old.rebuilt(channels=5)
    kernels = [np.asarray(m.patches.projection.kernel).reshape(16, -1, 64) for m in (old, new)]
    np.testing.assert_allclose(kernels[1], kernels[0][:, [0, 1, 2, 0, 1]] * 3 / 5, atol=1e-6)
    mean = old.preprocessing["mean"]
    assert new.preprocessing["mean"] == [*mean, *mean[:2]]
    averaged = old.rebuilt(channels=1).preprocessing["mean"]
    assert averaged == pytest.approx([sum(mean) / 3])
    given = {"mean": [0.1], "std": [0.2]}
    assert old.rebuilt(channels=1, preprocessing=given).preprocessing == given


def test_a_kernel_of_equal_size_and_another_shape_is_fitted_all_the_same():
    old = build(patch_size=(4, 8), position="none")
    new = old.rebuilt(patch_size=(8, 4))
    assert np.abs(np.subtract(new.patches.projection.kernel, old.patches.projection.kernel)).max() > 1e-3


def test_other_channels_are_refused_with_a_way_out_that_works():
    model, images = build(), normalised(pixels(1), build(1))
    with pytest.raises(InputError, match=r"\[batch, 8, 8, 3\], not \[2, 8, 8, 1\]: .*rebuilt\(channels=1\)"):
        model(images)
    assert model.rebuilt(channels=1)(images).shape == (2, CLASSES)
    for wrong in (0, -1, "3", 2.0):
        with pytest.raises(InputError, match="channels must be a positive integer"):
            model.rebuilt(channels=wrong)
    with pytest.raises(InputError, match="'mean': \\[1 numbers\\]"):
        ViT("Nano/4", SIZE, CLASSES, channels=1, preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3})


@pytest.mark.parametrize("channels, mode", [(1, "simmim"), (5, "mae")])
def test_masked_training_of_other_channels(channels, mode):
    masked = MaskedViT(build(channels).rebuilt(num_classes=None), mode=mode)
    images = normalised(pixels(channels), masked.encoder)
    masked.compile("sgd", run_eagerly=True)
    assert np.isfinite(masked.fit(images, verbose=0).history["loss"]).all()
    assert masked.reconstruct(images)[1].shape == images.shape
    assert masked.classifier(4)(images).shape == (2, 4)

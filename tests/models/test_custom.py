"""Layers of the user's own in a ViT: the example of the README as it stands there, and others."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from random_weights import randomize

import keras_vit
from keras_vit import MaskedViT, ViT, ViTConfig
from keras_vit.errors import InputError
from keras_vit.layers import EncoderBlock
from keras_vit.models.transfer import custom_layers

README = Path(__file__).parents[2] / "README.md"


def example():
    """(the README's code, the same for pictures of 8 x 8)."""
    text = README.read_text(encoding="utf-8")
    code = re.search(r"```python\n(@keras\.saving\.register.*?)```", text, re.DOTALL)[1]
    return code, code.replace('"Ti/16", image_size=224', '"Nano/4", image_size=8, depth=2')


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The folder of a module mine.py with the README's example, imported."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text("import keras\nimport keras_vit\n\n" + example()[1])
    sys.path.insert(0, str(folder))
    import mine

    yield folder, mine
    sys.path.remove(str(folder))


def pictures(count=6):
    return np.random.default_rng(0).normal(0, 0.4, (count, 8, 8, 3)).astype("float32")


def test_the_example_is_short():
    assert len(example()[0].splitlines()) < 20


def test_the_example_trains_and_is_loaded_by_another_process(mine):
    folder, module = mine
    model, images = module.model, pictures()
    before = [np.array(weight) for weight in model.weights]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(images, np.arange(6), batch_size=2, epochs=1, verbose=0)  # the head starts at 0
    trained = [np.abs(w - b).max() > 0 for w, b in zip(model.weights, before, strict=True)]
    theirs = [any(w is v for _, layer in custom_layers(model) for v in layer.weights) for w in model.weights]
    assert sum(theirs) == 4 and all(trained[i] for i in range(len(trained)) if theirs[i])
    randomize(model)
    model.save(folder / "model.keras")
    np.save(folder / "images.npy", images)
    program = (
        "import keras, numpy, mine; model = keras.models.load_model('model.keras');"
        "numpy.save('answer.npy', model(numpy.load('images.npy')))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    np.testing.assert_allclose(np.load(folder / "answer.npy"), model(images), atol=1e-6)
    # Without the module there is one line that says what to do.
    program = program.replace(", mine", ", keras_vit")
    failed = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert (
        "attention='mine>FromTheMean' is not registered with Keras here: import the module" in failed.stderr
    )


@keras.saving.register_keras_serializable("tests")
class Turned(keras.layers.Layer):
    """An attention that asks for everything, and says what it got."""

    got = ()

    def __init__(self, config, index, **kwargs):
        super().__init__(**kwargs)
        self.index = index
        self.project = keras.layers.Dense(config.width)  # no name: Keras counts it up

    def call(self, tokens, mask=None, bias=None, rotary=None, training=None):
        given = {"mask": mask, "bias": bias, "rotary": rotary, "training": training}
        Turned.got = {name for name, value in given.items() if value is not None}
        return self.project(tokens)


@keras.saving.register_keras_serializable("tests")
def two_layers(config, name, dtype):
    """An MLP from a function."""
    dense = keras.layers.Dense
    return keras.Sequential([dense(8, "relu", dtype=dtype), dense(config.width, dtype=dtype)], name=name)


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    """A whole block, with a weight of its own beside a layer."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.mix = keras.layers.Dense(config.width, name="mix")

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(input_shape[1], 1), initializer="ones", name="gain")
        self.mix.build(input_shape)

    def call(self, tokens):
        return tokens + self.gain * self.mix(tokens)


PARTS = {"attention": Turned, "mlp": two_layers, "block": Block}


def build(field, **changes):
    return randomize(ViT("Nano/4", 8, 3, depth=2, **{field: PARTS[field]}, **changes))


@pytest.mark.parametrize("field", PARTS)
def test_weights_follow_into_every_copy(field, tmp_path):
    """Though Keras gives a layer without a name another one in each model."""
    model, images = build(field), pictures()
    expected = np.asarray(model(images))
    assert np.abs(expected).max() > 1e-3
    model.save(tmp_path / "m.keras")
    twin = ViT.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    for copy in (keras.models.load_model(tmp_path / "m.keras"), twin, model.rebuilt(dtype="float32")):
        np.testing.assert_allclose(copy(images), expected, atol=1e-6)
    features = model.rebuilt(num_classes=None)(images)
    np.testing.assert_allclose(
        model.reset_classifier(5).rebuilt(num_classes=None)(images), features, atol=1e-6
    )
    assert ViTConfig.of(model.config.to_dict()) == model.config
    assert hash(model.config) and model.config.custom == {field: f"tests>{PARTS[field].__name__}"}


def test_a_block_computes_what_it_says():
    """By NumPy, from the patches to the answer."""
    model, images = build("block", pooling="mean"), pictures(2)
    x = images.reshape(2, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 48)
    w = {v.path.split("/", 1)[1]: np.asarray(v, "float64") for v in model.weights}
    x = x @ w["patches/projection/kernel"] + w["patches/projection/bias"] + w["positions/table"]
    for i in range(2):
        x = x + w[f"block_{i}/gain"] * (x @ w[f"block_{i}/mix/kernel"] + w[f"block_{i}/mix/bias"])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = (x * w["norm/scale"] + w["norm/shift"]).mean(1)
    np.testing.assert_allclose(model(images), x @ w["head/kernel"] + w["head/bias"], atol=1e-4)


def test_what_a_layer_asks_for_it_gets():
    for changes, inputs, expected in (
        ({}, pictures(), set()),
        ({"position": "rotary2d"}, pictures(), {"rotary"}),
        ({"position": "relative"}, pictures(), {"bias"}),
        ({"patch_mask": True}, {"image": pictures(), "patch_mask": np.ones((6, 4))}, {"mask"}),
    ):
        model = build("attention", **changes)
        model(inputs, training=True)
        assert Turned.got == expected | {"training"}, changes
        assert [block.attention.index for block in model.blocks] == [0, 1]


def test_what_a_model_must_tell_a_layer_that_does_not_ask_is_refused():
    for changes, name in (
        ({"position": "rotary2d"}, "rotary"),
        ({"position": "relative"}, "bias"),
        ({"patch_mask": True}, "mask"),
    ):
        with pytest.raises(InputError, match=f"block=tests>Block cannot .* an argument `{name}`"):
            build("block", **changes)


def test_a_block_after_a_merge_is_built_for_fewer_tokens():
    model = build("block", merge=(1, 2))
    assert [block.gain.shape[0] for block in model.blocks] == [5, 3]
    assert model(pictures()).shape == (6, 3)


@pytest.mark.parametrize("mode", ["simmim", "mae"])
def test_masked_training_takes_them(mode):
    masked = MaskedViT(build("attention").rebuilt(num_classes=None), mode=mode)
    assert masked(pictures(), training=True)["patches"].shape == (6, 4, 48)


def test_an_encoder_block_takes_layers_and_saves_them():
    block = EncoderBlock(2, 8, attention=keras.layers.Dense(12), mlp=keras.layers.Dense(12, "relu"))
    tokens = np.random.default_rng(0).normal(size=(2, 5, 12)).astype("float32")
    expected = block(tokens)
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(block))
    twin.set_weights(block.get_weights())
    np.testing.assert_array_equal(twin(tokens), expected)


@keras.saving.register_keras_serializable("tests")
def nameless(config, dtype, name):
    return keras.layers.Dense(config.width)


@keras.saving.register_keras_serializable("tests")
def narrow(config, dtype, name):
    return keras.layers.Dense(2, name=name)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"attention": keras.layers.Layer.__class__}, "is not registered with Keras"),
        ({"block": lambda name, dtype: None}, "block=<lambda> is not registered .*register_keras_serial"),
        (
            {"attention": "elsewhere>Thing"},
            "attention='elsewhere>Thing' is not registered .* import the module",
        ),
        ({"block": "soft"}, "unknown block 'soft'"),
        ({"mlp": nameless}, "mlp=tests>nameless must make a Keras layer named 'mlp'"),
        ({"mlp": narrow}, "Dense 'mlp' makes .* it must keep their shape"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        ViT("Nano/4", 8, 3, **options)


def test_a_ViT_without_them_is_as_before():
    assert ViTConfig().custom == {} and not custom_layers(keras_vit.ViT("Nano/4", 8, 3))

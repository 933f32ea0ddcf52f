"""Models do all that a Keras user does with a model. (For layers and modalities see harness.py.)

Every public kind of model goes through it: by itself, inside a functional and a sequential model, subclassed,
with a layer of the user's, and quantization-aware.
"""

import copy
import functools
import importlib
import inspect
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from random_weights import randomize

import keras_vit
from keras_vit import (
    MaskedViT,
    MultimodalViT,
    ViT,
    ViTConfig,
    layers,
    losses,
    modalities,
    models,
    registration,
)
from keras_vit.export.quantization.model import QuantizeAware, quantize_aware
from keras_vit.modalities import Image, Text

CONFIG = ViTConfig(patch_size=4, width=8, depth=1, num_heads=2, mlp_width=9)
EVERY_PART = {
    "depth": 2,
    "registers": 2,
    "distilled": True,
    "merge": (1, 2),
    "stem": "compact",
    "position": "relative",
    "mlp": "swiglu",
    "qk_norm": True,
    "layer_scale": 0.1,
    "dropout": 0.1,
    "stochastic_depth": 0.1,
    "patch_dropout": 0.5,
}
random = np.random.default_rng(0)
IMAGES = random.normal(size=(2, 8, 8, 3)).astype("float32")
PADDED = {"image": IMAGES, "patch_mask": np.array([[1, 1, 1, 1], [1, 0, 1, 0]], "float32")}
BOTH = {"image": IMAGES, "text": np.array([[2, 3, 0, 0], [4, 2, 2, 0]], "int32")}
SOME = {**BOTH, "present": np.array([[1, 1], [1, 0]], "float32")}


def vit(num_classes=3, **options):
    return ViT(CONFIG, image_size=8, num_classes=num_classes, **options)


def multimodal(sentence=None, **options):
    parts = {"image": Image(8, 4, depth=1), "text": Text(9, length=4, sentence=sentence, depth=1)}
    return MultimodalViT(parts, width=8, depth=1, num_heads=2, num_classes=3, **options)


def around(model, *inputs):
    """A functional model: a Dense on the features of `model`."""
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, keras.layers.Dense(2)(model(*inputs)))


@keras.saving.register_keras_serializable("contract")
class Subclass(ViT):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.scale = layers.LayerScale(0.5)
        self.scale.build((None, self.num_classes))

    def call(self, inputs, training=None):
        return self.scale(super().call(inputs, training=training))


@keras.saving.register_keras_serializable("contract")
class Twice(keras.layers.Layer):
    """In the place of an MLP."""

    def __init__(self, config, **options):
        super().__init__(**options)
        self.project = layers.Linear(config.width, dtype=self.dtype_policy)

    def call(self, tokens):
        return self.project(self.project(tokens))


MODELS = {
    "ViT": (vit, IMAGES),
    "ViT with every part": (lambda: vit(**EVERY_PART), IMAGES),
    "ViT of padded pictures": (lambda: vit(None, pooling=None, patch_mask=True), PADDED),
    "ViT in bfloat16, of pixels": (
        lambda: vit(None, pooling="mean", dtype="mixed_bfloat16", include_preprocessing=True),
        IMAGES,
    ),
    "ViT with a layer of the user's": (lambda: vit(mlp=Twice), IMAGES),
    "a subclass of ViT": (lambda: Subclass(CONFIG, image_size=8, num_classes=3), IMAGES),
    "MultimodalViT": (multimodal, BOTH),
    "MultimodalViT with every part": (
        lambda: multimodal(2, visual_weight=0.5, fusion="bottleneck", modality_dropout=0.5),
        SOME,
    ),
    "MaskedViT, SimMIM": (lambda: MaskedViT(vit(patch_mask=True), 0.5), PADDED),
    "MaskedViT, MAE": (lambda: MaskedViT(vit(None), 0.5, "mae", decoder_depth=1), IMAGES),
    "QuantizeAware": (lambda: quantize_aware(vit(), "int8_static"), IMAGES),
    "QuantizeAware, several modalities": (lambda: quantize_aware(multimodal(), "int8"), BOTH),
    "functional around a ViT": (lambda: around(vit(None), keras.Input((8, 8, 3))), IMAGES),
    "functional around a MultimodalViT": (
        lambda: around(
            multimodal(),
            {
                "image": keras.Input((8, 8, 3), name="image"),
                "text": keras.Input((4,), dtype="int32", name="text"),
            },
        ),
        BOTH,
    ),
    "sequential": (lambda: keras.Sequential([keras.Input((8, 8, 3)), vit(), keras.layers.Dense(2)]), IMAGES),
}
every = pytest.mark.parametrize("kind", MODELS)


@functools.cache
def made(kind):
    """(a model with random weights, its inputs, its answer). No test changes it."""
    make, inputs = MODELS[kind]
    model = make()
    if not kind.startswith("QuantizeAware"):  # whose ranges would be nonsense
        randomize(model)
    return model, inputs, answer(model, inputs)


def answer(model, inputs):
    return [
        np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")))
        for y in keras.tree.flatten(model(inputs, training=False))
    ]


def assert_same(model, inputs, expected, atol=1e-6):
    for given, wanted in zip(answer(model, inputs), expected, strict=True):
        np.testing.assert_allclose(given, wanted, atol=atol)


def shown(model, **options):
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text), line_length=200, **options)
    return "".join(lines)


def test_every_public_model_is_here():
    public = {getattr(models, name) for name in models.__all__} | {QuantizeAware}
    public = {kind for kind in public if inspect.isclass(kind) and issubclass(kind, keras.Model)}
    assert public <= {type(made(kind)[0]) for kind in MODELS}


def test_build_and_compute_output_shape_name_their_arguments_alike():
    """Of every class of the package, public or not, that defines or inherits both."""
    from keras_vit.export.quantization.fake_quant import FakeQuantizer  # noqa: F401  (so that it is among the subclasses)

    kinds, found = [keras.layers.Layer], 0
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("keras_vit.") and "compute_output_shape" in dir(kind):
            ours = kind.compute_output_shape is not keras.layers.Layer.compute_output_shape
            build, shape = (
                list(inspect.signature(f).parameters) for f in (kind.build, kind.compute_output_shape)
            )
            assert not ours or build == shape, kind
            found += ours
    assert found >= 45


@every
def test_it_is_built_once_and_summed_up(kind):
    model, inputs, _ = made(kind)
    assert [part.name for part in model._flatten_layers() if not part.built] == []
    before = [id(w) for w in model.weights]
    shape = keras.tree.map_structure(lambda x: (None, *x.shape[1:]), inputs)
    if type(model).__module__.startswith("keras_vit") or kind == "a subclass of ViT":
        for _ in range(2):
            model.build(shape)
    assert [id(w) for w in model.weights] == before
    count = sum(int(np.prod(w.shape)) for w in model.weights)
    assert model.count_params() == count
    assert re.search(rf"Total params: {count:,}\b", shown(model))
    text = shown(model, expand_nested=True, show_trainable=True)
    assert all(part.name in text for part in model.layers)
    json.dumps(model.get_config())
    assert (
        keras.utils.model_to_dot(model, expand_nested=True, show_shapes=True)
        .to_string()
        .startswith("digraph")
    )


@every
def test_it_is_saved_and_cloned_and_keras_own_quantization_skips_it(kind, tmp_path):
    model, inputs, expected = made(kind)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded, inputs, expected)
    assert [part.name for part in loaded._flatten_layers() if not part.built] == []
    shown(loaded, expand_nested=True)
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    assert_same(clone, inputs, expected)
    if not any(isinstance(part, keras.layers.Dense) for part in model._flatten_layers()):
        with pytest.warns(UserWarning, match="Layer Linear does not have a `quantize` method"):
            clone.quantize("int8")
        assert_same(clone, inputs, expected)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_keras_own_quantization_of_a_model_around_ours(mode, tmp_path):
    model, inputs, expected = made("functional around a ViT")
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    with pytest.warns(UserWarning, match="Layer Linear does not have a `quantize` method"):
        twin.quantize(mode)
    assert twin.layers[-1].quantization_mode == mode
    given = answer(twin, inputs)
    difference = np.abs(given[0] - expected[0]).max() / np.abs(expected[0]).max()
    assert 0 < difference < (0.03 if mode == "int8" else 0.3)
    twin.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras"), inputs, given)


@keras.saving.register_keras_serializable("contract")
class Dense(keras.layers.Layer):
    """In the place of an attention, an MLP or a block: of a layer that Keras quantizes."""

    def __init__(self, config, **options):
        super().__init__(**options)
        self.inner = keras.layers.Dense(config.width, dtype=self.dtype_policy)

    def call(self, tokens):
        return self.inner(tokens)


@keras.saving.register_keras_serializable("contract")
def plain_dense(config, name, dtype):
    return keras.layers.Dense(config.width, name=name, dtype=dtype)


@keras.saving.register_keras_serializable("contract")
class WithDense(ViT):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.last = keras.layers.Dense(3)
        self.last.build((None, self.num_classes))

    def call(self, inputs, training=None):
        return self.last(super().call(inputs, training=training))


@pytest.mark.parametrize(
    ("make", "quantized", "mode"),
    [
        (lambda: vit(attention=Dense, depth=2), 2, "int8"),
        (lambda: vit(mlp=plain_dense), 1, "int4"),
        (lambda: vit(block=Dense, dtype="mixed_bfloat16"), 1, "int8"),
        (lambda: WithDense(CONFIG, image_size=8, num_classes=3), 1, "int8"),
        (lambda: MaskedViT(vit(None, mlp=Dense), 0.5), 1, "int8"),
        (lambda: around(vit(mlp=Dense), keras.Input((8, 8, 3))), 2, "int8"),
    ],
    ids=["attention", "mlp", "block", "subclass", "masked", "functional"],
)
def test_layers_of_the_users_that_keras_has_quantized_are_saved(make, quantized, mode, tmp_path):
    model = randomize(make())
    for part in model._flatten_layers():
        if isinstance(part, keras.layers.Dense):
            part.kernel.assign(3 * random.normal(size=part.kernel.shape))
    before = answer(model, IMAGES)
    model.quantize(mode)
    expected = answer(model, IMAGES)
    assert any((a != b).any() for a, b in zip(before, expected, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    dense = [part for part in loaded._flatten_layers() if isinstance(part, keras.layers.Dense)]
    assert [part.quantization_mode for part in dense] == [mode] * quantized
    assert_same(loaded, IMAGES, expected, atol=0)
    if mode == "int4":  # one will do
        model.save_weights(tmp_path / "model.weights.h5")
        other = make()
        other.load_weights(tmp_path / "model.weights.h5")
        assert_same(other, IMAGES, expected, atol=0)


@pytest.mark.parametrize("kind", ["ViT", "MultimodalViT", "functional around a ViT"])
def test_json_and_pickle(kind):
    model, inputs, expected = made(kind)
    from_json = keras.models.model_from_json(model.to_json())
    from_json.set_weights(model.get_weights())
    assert_same(from_json, inputs, expected)
    assert_same(pickle.loads(pickle.dumps(model)), inputs, expected)


def test_copy_and_deepcopy():
    model, inputs, expected = made("ViT")
    for twin in (copy.copy(model), copy.deepcopy(model)):
        assert_same(twin, inputs, expected)


@every
def test_it_takes_symbolic_inputs(kind):
    model, inputs, _expected = made(kind)
    symbolic = keras.tree.map_structure(
        lambda x: keras.KerasTensor((None, *x.shape[1:]), dtype=x.dtype), inputs
    )
    announced = keras.tree.flatten(model.compute_output_spec(symbolic))
    real = keras.tree.flatten(model(inputs, training=False))
    for spec, value in zip(announced, real, strict=True):
        assert tuple(spec.shape) == (None, *value.shape[1:])
        assert spec.dtype == keras.backend.standardize_dtype(value.dtype)


# Names.


def test_models_get_names_of_their_own():
    keras.backend.clear_session()
    assert [vit().name, vit().name, vit(name="mine").name, vit().name] == ["vit", "vit_1", "mine", "vit_2"]
    assert [multimodal().name, multimodal().name] == ["multimodal_vit", "multimodal_vit_1"]
    assert [MaskedViT(vit(), 0.5).name for _ in range(2)] == ["masked_vit", "masked_vit_1"]
    assert Subclass(CONFIG, image_size=8).name == "subclass"
    # Keras counts on from ours.
    assert keras.layers.Dense(1, name=None).name == "dense"


def test_two_models_in_one(tmp_path):
    entry = keras.Input((8, 8, 3))
    parts = [randomize(vit(), seed) for seed in (1, 2)]
    model = keras.Model(entry, keras.layers.Average()([part(entry) for part in parts]))
    expected = sum(answer(part, IMAGES)[0] for part in parts) / 2
    np.testing.assert_allclose(answer(model, IMAGES)[0], expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(answer(loaded, IMAGES)[0], expected, atol=1e-6)
    shown(loaded, expand_nested=True)
    # Loaded models keep their names; `rebuilt` gives another.
    parts[0].save(tmp_path / "part.keras")
    one, other = (keras.models.load_model(tmp_path / "part.keras") for _ in range(2))
    other = other.rebuilt(name="other")
    keras.Model(entry, keras.layers.Average()([one(entry), other(entry)]))
    assert_same(other, IMAGES, answer(one, IMAGES))


def test_a_model_made_inside_another_knows_its_parts():
    class Outer(keras.Model):
        def build(self, input_shape):
            self.inner = vit(depth=2, merge=(1, 2))

    outer = Outer()
    outer.build((None, 8, 8, 3))
    assert outer.inner.weights[0].path.startswith(f"{outer.name}/{outer.inner.name}/")
    alone = vit(depth=2, merge=(1, 2))
    found, expected = (
        [
            [w.path.split("/", 2 if model is outer.inner else 1)[-1] for w in group]
            for group in models.layer_groups(model)
        ]
        for model in (outer.inner, alone)
    )
    assert found == expected
    assert_same(outer.inner.rebuilt(), IMAGES, answer(outer.inner, IMAGES))


# Export.


@pytest.mark.parametrize(
    ("kind", "present"),
    [
        ("MultimodalViT", False),
        pytest.param("ViT", False, marks=pytest.mark.slow),  # fast: as LiteRT, below
        pytest.param("MultimodalViT with every part", True, marks=pytest.mark.slow),
        pytest.param("ViT of padded pictures", False, marks=pytest.mark.slow),
        pytest.param("functional around a MultimodalViT", False, marks=pytest.mark.slow),
        pytest.param("MaskedViT, MAE", False, marks=pytest.mark.slow),
        pytest.param("QuantizeAware", False, marks=pytest.mark.slow),
        pytest.param("sequential", False, marks=pytest.mark.slow),
    ],
)
def test_keras_exports_it_before_any_call(kind, present, tmp_path):
    import tensorflow as tf

    model, inputs, expected = made(kind)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    options = {"input_signature": loaded.input_signature(present=True)} if present else {}
    loaded.export(tmp_path / "saved", verbose=False, **options)
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    for given, wanted in zip(keras.tree.flatten(saved.serve(inputs)), expected, strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["ViT", pytest.param("MultimodalViT", marks=pytest.mark.slow)])
def test_keras_exports_litert_before_any_call(kind, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model, inputs, expected = made(kind)
    twin = type(model).from_config(model.get_config())
    twin.set_weights(model.get_weights())
    twin.export(tmp_path / "model.tflite", format="litert", verbose=False)
    runner = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()
    names = list(runner.get_input_details())
    feed = inputs if isinstance(inputs, dict) else {names[0]: inputs}
    assert sorted(feed) == sorted(names)
    np.testing.assert_allclose(*runner(**feed).values(), expected[0], atol=1e-4)


# Files in a fresh process.

FRESH = """
import sys, warnings
import {first}
import {second}
import numpy as np

assert not any(name.startswith("keras_vit.models") for name in sys.modules)
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    print(type(model).__name__, model.count_params())
"""


def load_in_a_fresh_process(order, files, backend):
    ran = subprocess.run(
        [sys.executable, "-c", FRESH.format(first=order[0], second=order[1]), *map(str, files)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout.splitlines()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{path: what a process that loads it prints}"""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for kind in MODELS:
        if kind not in ("a subclass of ViT", "ViT with a layer of the user's"):  # classes of this file
            model, _, _ = made(kind)
            path = folder / f"{kind}.keras"
            model.save(path)
            found[path] = f"{type(model).__name__} {model.count_params()}"
    entry = keras.Input((8, 8, 3))
    parts = keras.Model(entry, layers.Pooling("mean")(layers.EncoderBlock(2, 9)(layers.Patches(4, 8)(entry))))
    parts.save(folder / "layers.keras")
    found[folder / "layers.keras"] = f"Functional {parts.count_params()}"
    return found


def test_keras_finds_our_classes_in_files(files):
    plain = {path: line for path, line in files.items() if "Quantize" not in path.name}
    assert load_in_a_fresh_process(("keras", "keras_vit"), plain, "numpy") == list(plain.values())


def test_keras_finds_what_needs_tensorflow(files, tmp_path):
    """Quantization-aware models, and what our training compiles with; and in the other order of imports."""
    from keras_vit.training.metrics import CountedAccuracy
    from keras_vit.training.optimization.optimizer import LayerwiseAdamW

    some = {
        path: line
        for path, line in files.items()
        if path.stem in ("layers", "MultimodalViT", "QuantizeAware")
    }
    model = vit()
    model.compile(
        LayerwiseAdamW(1e-3, scales={w.path: 0.5 for w in model.weights}),
        losses.SmoothedCrossEntropy(),
        metrics=[CountedAccuracy()],
        run_eagerly=True,  # which takes less time than to compile it
    )
    model.fit(IMAGES, np.eye(3)[[0, 1]], verbose=0)
    model.save(tmp_path / "trained.keras")
    some[tmp_path / "trained.keras"] = f"ViT {model.count_params()}"
    assert load_in_a_fresh_process(("keras_vit", "keras"), some, "tensorflow") == list(some.values())


def test_the_list_of_registered_classes_is_complete():
    root = pathlib.Path(keras_vit.__file__).parent
    written = {
        name
        for folder in (root, pathlib.Path(importlib.import_module("keras_vit.export").__file__).parent)
        for path in folder.rglob("*.py")
        for name in re.findall(
            r'^@keras.saving.register_keras_serializable\("keras_vit"\)\nclass (\w+)',
            path.read_text("utf-8"),
            re.M,
        )
    }
    listed = {name: module for module, names in registration.REGISTERED.items() for name in names}
    assert set(listed) == written
    for name, module in listed.items():
        kind = getattr(importlib.import_module(module), name)
        assert keras.saving.get_registered_object(f"keras_vit>{name}") is kind
    assert {name for name in layers.__all__ if inspect.isclass(getattr(layers, name))} <= set(listed)
    assert {name for name in modalities.__all__ if isinstance(getattr(modalities, name), type)} - {
        "Modality",
        "Vocabulary",
    } <= set(listed)


# Training.


def test_the_callbacks_of_keras_together(tmp_path):
    model = randomize(vit())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], run_eagerly=True)  # less time than to compile it
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
        keras.callbacks.TensorBoard(tmp_path / "logs", histogram_freq=1),
    ]
    labels = np.array([0, 1])
    history = model.fit(
        IMAGES, labels, epochs=2, callbacks=callbacks, validation_data=(IMAGES, labels), verbose=0
    ).history
    assert history["val_loss"][1] < history["val_loss"][0]
    best = keras.models.load_model(tmp_path / "best.keras")
    assert_same(best, IMAGES, answer(model, IMAGES))
    other = vit()
    other.load_weights(tmp_path / "2.weights.h5")
    assert_same(other, IMAGES, answer(model, IMAGES))
    assert list((tmp_path / "logs" / "train").iterdir()) and list(
        (tmp_path / "logs" / "validation").iterdir()
    )


def step(kind, **options):
    """(loss, weights) of one step of gradient descent from the weights that `made` gives."""
    model, inputs, _ = made(kind)
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    loss = (
        None if isinstance(model, MaskedViT) else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    twin.compile(keras.optimizers.SGD(0.1), loss, **options)
    history = twin.fit(inputs, np.array([0, 1]), batch_size=2, verbose=0, shuffle=False).history
    return history["loss"], twin.get_weights()


@pytest.mark.parametrize(
    "kind",
    [
        "ViT",
        pytest.param("MultimodalViT", marks=pytest.mark.slow),
        pytest.param("QuantizeAware", marks=pytest.mark.slow),
    ],
)
def test_eager_and_compiled_steps_are_the_same(kind):
    before = made(kind)[0].get_weights()
    expected = step(kind, run_eagerly=True)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, expected[1], strict=True))
    for given, wanted in zip(step(kind, jit_compile=True)[1], expected[1], strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-5)

"""Each published format against the logits of the library that wrote it."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.weights import read_checkpoint

from .conftest import FIXTURES

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
SMALL = {"patch_size": (4, 4), "width": 16, "depth": 2, "num_heads": 2, "mlp_width": 24}
DISTILLED = {"position": "learned", "distilled": True}
EXPECTED = {  # name: (format, image size, config, preprocessing, hints)
    "original": ("original", (24, 24), {**SMALL, "mlp": "gelu_tanh"}, HALF, {}),
    "original_mean": (
        "original",
        (16, 24),
        {"patch_size": (4, 8), "width": 12, "depth": 2, "num_heads": 3, "mlp_width": 12}
        | {"pooling": "mean", "mlp": "gelu_tanh"},
        HALF,
        {"image_size": (16, 24)},
    ),
    "hugging_face_vit_old": (
        "hugging_face",
        (24, 24),
        {**SMALL, "epsilon": 1e-12},
        {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
        {},
    ),
    "hugging_face_vit_new": (
        "hugging_face",
        (8, 24),
        {**SMALL, "patch_size": (4, 8), "mlp": "gelu_tanh", "epsilon": 1e-12},
        HALF,
        {},
    ),
    "hugging_face_deit": (
        "hugging_face",
        (24, 24),
        {**SMALL, "registers": 1, "epsilon": 1e-12},
        IMAGENET,
        {},
    ),
    "hugging_face_deit_teacher": (
        "hugging_face",
        (24, 24),
        {**SMALL, **DISTILLED, "epsilon": 1e-12},
        IMAGENET,
        {},
    ),
    "timm_vit": ("timm", (24, 24), SMALL, HALF, {}),
    "timm_deit": ("timm", (24, 24), {**SMALL, **DISTILLED}, IMAGENET, {}),
    "timm_registers": (
        "timm",
        (12, 24),
        {**SMALL, "mlp_width": 16, "mlp": "swiglu", "registers": 2, "qk_norm": True, "layer_scale": 1e-5},
        IMAGENET,
        {},
    ),
    "timm_mean": ("timm", (24, 24), {**SMALL, "pooling": "mean", "registers": 2}, HALF, {}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_logits_are_the_sources_and_the_config_is_worked_out(name, logits_error):
    kind, size, config, preprocessing, hints = EXPECTED[name]
    checkpoint = read_checkpoint(FIXTURES / name, **hints)
    assert (checkpoint.format, checkpoint.image_size, checkpoint.num_classes) == (kind, size, 5)
    assert checkpoint.config == keras_vit.ViTConfig(**config)
    assert checkpoint.preprocessing == preprocessing
    assert all(tensor.dtype == np.float32 for tensor in checkpoint.tensors.values())
    model = keras_vit.ViT.from_checkpoint(FIXTURES / name, **hints)
    assert logits_error(model, name) < 1e-5
    assert model.preprocessing == preprocessing


@pytest.mark.parametrize("name", ["original", "hugging_face_vit_new", "timm_vit"])
def test_the_fixtures_tell_the_two_gelus_apart(name, logits_error):
    """Else the test above would not see a wrong one."""
    model = keras_vit.ViT.from_checkpoint(FIXTURES / name)
    other = "gelu" if model.config.mlp == "gelu_tanh" else "gelu_tanh"
    assert logits_error(model.rebuilt(mlp=other), name) > 1e-4


@pytest.mark.parametrize("name", ["original", "hugging_face_deit_teacher", "hugging_face_deit", "timm_deit"])
def test_new_classes_get_a_fresh_head_on_the_same_features(name):
    images = np.load(FIXTURES / "images.npy")
    old = keras_vit.ViT.from_checkpoint(FIXTURES / name)
    new = keras_vit.ViT.from_checkpoint(FIXTURES / name, num_classes=3)
    assert new.num_classes == 3
    np.testing.assert_array_equal(new(images), np.zeros((2, 3)))
    features = [np.asarray(model.rebuilt(num_classes=None)(images)) for model in (old, new)]
    np.testing.assert_allclose(*features, atol=1e-6)
    same = keras_vit.ViT.from_checkpoint(FIXTURES / name, num_classes=5)
    np.testing.assert_array_equal(same(images), old(images))


@pytest.mark.parametrize("name", ["original", "timm_deit", "timm_registers"])
def test_another_image_size_resizes_the_positions_of_the_patches_alone(name):
    old = keras_vit.ViT.from_checkpoint(FIXTURES / name)
    new = keras_vit.ViT.from_checkpoint(FIXTURES / name, image_size=(32, 40))
    assert new.image_size == (32, 40)
    assert new(np.zeros((1, 32, 40, 3), "float32")).shape == (1, 5)
    first = old.class_tokens
    tables = [np.asarray(model.positions.table) for model in (old, new)]
    assert tables[1].shape == (1, first + 8 * 10, 16)
    np.testing.assert_allclose(tables[0][:, :first], tables[1][:, :first], atol=1e-6)


# --- what a file cannot tell ----------------------------------------------------------------------


def test_a_bare_timm_file_needs_heads_unless_its_width_is_a_published_one(tmp_path, logits_error):
    bare = shutil.copy(FIXTURES / "timm_vit" / "model.safetensors", tmp_path / "vit.safetensors")
    with pytest.raises(keras_vit.errors.InputError, match=r"width of 16 .* give num_heads=\.\.\."):
        read_checkpoint(bare)
    assert logits_error(keras_vit.ViT.from_checkpoint(bare, num_heads=2), "timm_vit") < 1e-5


@pytest.mark.parametrize("width, num_heads", [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)])
def test_published_widths_tell_the_heads(tmp_path, width, num_heads):
    zeros = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 2, width),
        "patch_embed.proj.weight": (width, 3, 1, 1),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.mlp.fc1.weight": (1, width),
        "blocks.0.mlp.fc1.bias": (1,),
        "blocks.0.mlp.fc2.weight": (width, 1),
    }
    vectors = ["blocks.0.norm1.weight", "blocks.0.norm2.weight", "norm.weight", "blocks.0.mlp.fc2.bias"]
    vectors += ["blocks.0.norm1.bias", "blocks.0.norm2.bias", "norm.bias", "patch_embed.proj.bias"]
    zeros |= dict.fromkeys(vectors, (width,))
    save_file({name: np.zeros(shape, "float16") for name, shape in zeros.items()}, tmp_path / "x.safetensors")
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    assert (checkpoint.config.num_heads, checkpoint.image_size, checkpoint.num_classes) == (
        num_heads,
        (1, 1),
        None,
    )


def test_heads_that_contradict_the_file_are_refused():
    for name in ("original", "hugging_face_vit_old", "timm_registers"):
        with pytest.raises(keras_vit.errors.InputError, match="has 2 attention heads, not num_heads=4"):
            read_checkpoint(FIXTURES / name, num_heads=4)


def test_a_grid_that_is_no_square_needs_the_image_size(tmp_path, logits_error):
    with pytest.raises(keras_vit.errors.InputError, match=r"for 12 patches of 4x8 pixels.*image_size="):
        read_checkpoint(FIXTURES / "original_mean")
    with pytest.raises(keras_vit.errors.InputError, match="for 12 patches"):
        read_checkpoint(FIXTURES / "original_mean", image_size=64)
    bare = shutil.copy(FIXTURES / "timm_registers" / "model.safetensors", tmp_path)
    with pytest.raises(keras_vit.errors.InputError, match="for 15 or 18 patches"):
        read_checkpoint(bare)
    model = keras_vit.ViT.from_checkpoint(bare, image_size=(12, 24))
    assert logits_error(model, "timm_registers") < 1e-5


@pytest.mark.parametrize("grid", [(2, 8), (8, 2), (1, 16), (4, 4)])
def test_a_bare_file_has_the_grid_that_is_given(tmp_path, grid):
    tensors = load_file(FIXTURES / "timm_vit" / "model.safetensors")
    patch, width = tensors["patch_embed.proj.weight"].shape[2:], len(tensors["norm.weight"])
    table = np.random.default_rng(0).normal(size=(1, 17, width)).astype("float32")
    save_file({**tensors, "pos_embed": table}, tmp_path / "bare.safetensors")
    size = (grid[0] * patch[0], grid[1] * patch[1])
    model = keras_vit.ViT.from_checkpoint(tmp_path / "bare.safetensors", image_size=size, num_heads=2)
    assert model.image_size == size
    np.testing.assert_array_equal(model.positions.table, table)  # nothing was resized
    wrong = (2 * patch[0], 7 * patch[1])
    square = f"{4 * patch[0]}x{4 * patch[1]}"
    message = rf"is for images of {square} pixels, not image_size=\({wrong[0]}, {wrong[1]}\)"
    with pytest.raises(keras_vit.errors.InputError, match=message), pytest.warns(keras_vit.errors.Notice):
        read_checkpoint(tmp_path / "bare.safetensors", image_size=wrong, num_heads=2)
    save_file({**tensors, "pos_embed": table[:, :-4]}, tmp_path / "twelve.safetensors")
    message = rf"for 12 or 13 patches .* and image_size=\({wrong[0]}, {wrong[1]}\) has 2x7 = 14"
    with pytest.raises(keras_vit.errors.InputError, match=message):
        keras_vit.ViT.from_checkpoint(tmp_path / "twelve.safetensors", image_size=wrong, num_heads=2)


@pytest.mark.parametrize("name", ["timm_vit", "timm_registers", "hugging_face_vit_new", "hugging_face_deit"])
@pytest.mark.parametrize(
    "prefix", ["timm_model.", "model.", "module.", "_orig_mod.", "encoder.", "module._orig_mod.model."]
)
def test_a_common_prefix_is_taken_off(fixture, edit_tensors, name, prefix):
    folder, before = fixture(name), read_checkpoint(FIXTURES / name).tensors
    edit_tensors(folder, lambda tensors: {prefix + key: x for key, x in tensors.items()})
    after = read_checkpoint(folder).tensors
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


def test_a_prefix_that_not_all_tensors_have_stays(fixture, edit_tensors):
    folder = fixture("timm_vit")
    edit_tensors(folder, lambda t: {("" if k == "norm.bias" else "model.") + k: x for k, x in t.items()})
    with pytest.raises(keras_vit.errors.InputError, match="is no ViT of Hugging Face or timm"):
        read_checkpoint(folder)


def test_a_prefix_in_an_npz_is_taken_off(tmp_path):
    source = FIXTURES / "original"
    file = source if source.is_file() else next(source.glob("*.npz"))
    with np.load(file) as arrays:
        np.savez(tmp_path / "prefixed.npz", **{f"params/{key}": arrays[key] for key in arrays})
    before, after = read_checkpoint(file).tensors, read_checkpoint(tmp_path / "prefixed.npz").tensors
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_and_named(fixture, edit_tensors, bad):
    folder = fixture("timm_vit")

    def spoil(tensors):
        for name in ("blocks.0.attn.qkv.weight", "norm.bias"):
            tensors[name] = tensors[name].copy()
            tensors[name].flat[1] = bad

    edit_tensors(folder, spoil)
    message = r"holds NaN or infinity in 2 tensors \((norm.bias, )?blocks.0.attn.qkv.weight"
    with pytest.raises(keras_vit.errors.InputError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5] * 3, [0.5, 0, 0.5]),
        ([0.5] * 3, [0.5, -1, 0.5]),
        ([0.5] * 3, [0.5, "NaN", 0.5]),
        (["1e400", 0, 0], [0.5] * 3),
        (["NaN", 0, 0], [0.5] * 3),
        (["Infinity", 0, 0], [0.5] * 3),
        ([0.5] * 3, []),
        ([0.5] * 3, "x"),
        ([0.5] * 3, [None] * 3),
        ([True] * 3, [0.5] * 3),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(fixture, mean, std):
    numbers = '"NaN"', '"Infinity"', '"1e400"'
    for name, file, keys in (
        ("hugging_face_vit_old", "preprocessor_config.json", ("image_mean", "image_std")),
        ("timm_vit", "config.json", ("mean", "std")),
    ):
        folder = fixture(name)
        content = json.loads((folder / file).read_text())
        part = content.get("pretrained_cfg", content)
        part.update(zip(keys, (mean, std), strict=True))
        text = json.dumps(content)
        for number in numbers:
            text = text.replace(number, number.strip('"'))
        (folder / file).write_text(text)
        with pytest.raises(keras_vit.errors.InputError, match=rf"{file}"):
            read_checkpoint(folder)


# --- Hugging Face ---------------------------------------------------------------------------------


def test_labels_come_from_id2label_in_order_and_placeholders_are_none():
    assert read_checkpoint(FIXTURES / "hugging_face_vit_old").labels == ["ant", "bee", "cat", "dog", "elk"]
    assert read_checkpoint(FIXTURES / "hugging_face_vit_old", num_classes=3).labels is None
    assert read_checkpoint(FIXTURES / "hugging_face_vit_new").labels is None


@pytest.mark.parametrize("name", ["hugging_face_vit_old", "hugging_face_vit_new", "hugging_face_deit"])
def test_a_bare_backbone_has_no_head(name, fixture, edit_tensors):
    """ViTModel and DeiTModel: no prefix, a pooler and perhaps a mask token, no classifier."""
    folder = fixture(name)
    expected = read_checkpoint(folder).tensors

    def strip(tensors):
        extra = {
            "pooler.dense.weight": (16, 16),
            "pooler.dense.bias": (16,),
            "embeddings.mask_token": (1, 1, 16),
        }
        extra = {name: np.ones(shape, "float32") for name, shape in extra.items()}
        return extra | {k.split(".", 1)[1]: v for k, v in tensors.items() if not k.startswith("classifier")}

    edit_tensors(folder, strip)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.num_classes is None
    assert set(expected) - set(checkpoint.tensors) == {"head/kernel", "head/bias"}
    for key, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(tensor, expected[key])
    model = keras_vit.ViT.from_checkpoint(folder)
    assert model(np.zeros((1, *model.image_size, 3), "float32")).shape == (1, 16)


def test_shards_are_read_as_one(fixture, logits_error):
    folder = fixture("hugging_face_vit_old")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert logits_error(keras_vit.ViT.from_checkpoint(folder), "hugging_face_vit_old") < 1e-5


def test_a_file_inside_its_folder_is_read_with_its_config(logits_error):
    file = FIXTURES / "hugging_face_deit" / "model.safetensors"
    assert logits_error(keras_vit.ViT.from_checkpoint(file), "hugging_face_deit") < 1e-5


def test_pictures_that_are_not_normalised(fixture, edit_json):
    folder = fixture("hugging_face_vit_old")
    edit_json(folder / "preprocessor_config.json", do_normalize=False)
    assert read_checkpoint(folder).preprocessing == {"mean": [0.0] * 3, "std": [1.0] * 3}


# --- original -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "activation"),
    [
        ("multi_label_classification", "sigmoid"),
        ("single_label_classification", "softmax"),
        ("regression", None),
        (None, "softmax"),
    ],
)
def test_what_it_was_trained_for_says_what_its_logits_mean(fixture, edit_json, problem, activation):
    folder = fixture("hugging_face_vit_old")
    edit_json(folder / "config.json", problem_type=problem)
    assert keras_vit.ViT.from_checkpoint(folder).activation == activation
    if problem == "multi_label_classification":
        assert keras_vit.ViT.from_checkpoint(folder, activation=None).activation is None
        edit_json(folder / "config.json", problem_type="segmentation")
        with pytest.raises(ValueError, match="problem_type is 'segmentation'; ViT has single_label_class"):
            keras_vit.ViT.from_checkpoint(folder)


def test_the_tanh_layer_of_2020_is_refused_or_dropped_with_its_head(tmp_path):
    arrays = dict(np.load(FIXTURES / "original" / "vit.npz"))
    arrays |= {"pre_logits/kernel": np.ones((16, 8), "float32"), "pre_logits/bias": np.ones(8, "float32")}
    arrays["head/kernel"] = np.ones((8, 5), "float32")
    np.savez(tmp_path / "vit.npz", **arrays)
    with pytest.raises(keras_vit.errors.InputError, match=r"pre_logits.*give num_classes=N"):
        read_checkpoint(tmp_path / "vit.npz")
    for num_classes in (3, 5):
        checkpoint = read_checkpoint(tmp_path / "vit.npz", num_classes=num_classes)
        assert checkpoint.num_classes is None and "head/kernel" not in checkpoint.tensors
    model = keras_vit.ViT.from_checkpoint(tmp_path / "vit.npz", num_classes=5)
    np.testing.assert_array_equal(model(np.ones((1, 24, 24, 3), "float32")), np.zeros((1, 5)))


def test_a_hybrid_is_refused(tmp_path):
    np.savez(tmp_path / "vit.npz", **{"conv_root/kernel": np.ones((7, 7, 3, 64), "float32")})
    with pytest.raises(keras_vit.errors.InputError, match="hybrid of ResNet and ViT"):
        read_checkpoint(tmp_path / "vit.npz")


# --- timm -----------------------------------------------------------------------------------------


def test_labels_of_timm_old_and_new(fixture, edit_json):
    folder, names = fixture("timm_vit"), ["a", "b", "c", "d", "e"]
    edit_json(folder / "config.json", label_names=names)
    assert read_checkpoint(folder).labels == names
    published = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    flat = {"architecture": "vit_tiny_patch16_224", **published, "labels": names, "mean": [0.1, 0.2, 0.3]}
    (folder / "config.json").write_text(json.dumps(flat))
    checkpoint = read_checkpoint(folder, num_heads=2)
    assert checkpoint.labels == names and checkpoint.preprocessing["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "tensor, meaning",
    [
        ("norm_pre.weight", "a norm before the blocks"),
        ("fc_norm.weight", "a norm after the pooling"),
        ("attn_pool.latent", "attention pooling"),
        ("rope.freqs", "rotary positions"),
        ("blocks.0.attn.rel_pos.relative_position_bias_table", "relative positions"),
    ],
)
def test_parts_that_vit_does_not_have_are_named(fixture, edit_tensors, tensor, meaning):
    folder = fixture("timm_vit")
    edit_tensors(folder, lambda tensors: tensors | {tensor: np.ones(1, "float32")})
    with pytest.raises(keras_vit.errors.InputError, match=f"{meaning}.*{tensor}"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"global_pool": "map"}, "global_pool is 'map'"),
        ({"global_pool": 3}, "global_pool must be of type str, not 3"),
        ({"model_args": {"act_layer": "relu", "num_heads": 2}}, "act_layer is 'relu'"),
        ({"model_args": {"num_heads": "two"}}, "num_heads must be of type int, not 'two'"),
        ({"model_args": {"num_heads": 3}}, "16 is not a multiple of num_heads 3"),
        ({"model_args": []}, "model_args must be of type dict"),
    ],
)
def test_a_config_of_timm_that_vit_cannot_be(fixture, edit_json, values, message):
    folder = fixture("timm_vit")
    edit_json(folder / "config.json", **values)
    with pytest.raises(keras_vit.errors.InputError, match=message):
        read_checkpoint(folder)


# --- numbers --------------------------------------------------------------------------------------


def as_bfloat16(array):
    """float32 -> the uint16 that holds its upper half (truncated)."""
    return (np.ascontiguousarray(array).view("<u4") >> 16).astype("<u2")


@pytest.mark.parametrize("dtype, tolerance", [("F64", 0), ("F16", 1e-3), ("BF16", 1e-2)])
def test_other_widths_of_numbers_become_float32(fixture, dtype, tolerance):
    folder = fixture("timm_vit")
    expected = read_checkpoint(folder).tensors
    tensors = load_file(folder / "model.safetensors")
    convert = {"F64": lambda a: a.astype("<f8"), "F16": lambda a: a.astype("<f2"), "BF16": as_bfloat16}[dtype]
    header, data = {}, b""
    for name, tensor in tensors.items():
        content = convert(tensor).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": tensor.shape,
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    for name, tensor in read_checkpoint(folder).tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor, expected[name], rtol=tolerance, atol=tolerance)


def test_bfloat16_in_an_npz(tmp_path):
    """NumPy has no such type: JAX's arrays arrive as two raw bytes."""
    arrays = dict(np.load(FIXTURES / "original" / "vit.npz"))
    np.savez(tmp_path / "vit.npz", **{name: as_bfloat16(array).view("V2") for name, array in arrays.items()})
    expected = read_checkpoint(FIXTURES / "original" / "vit.npz").tensors
    for name, tensor in read_checkpoint(tmp_path / "vit.npz").tensors.items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-2, atol=1e-2)

"""Make the tiny random checkpoints in fixtures/, each by the library that publishes its format.

The tests read what is made here and never run this. It needs two environments of its own, since
transformers changed the names of its tensors between major versions:

    python3.11 -m venv old && old/bin/python -m pip install torch==2.13.0 transformers==4.44.2
    python3.11 -m venv new && new/bin/python -m pip install torch==2.13.0 transformers==5.23.0 flax==0.12.8
    new/bin/python -m pip install --no-deps timm==1.0.31
    old/bin/python make_fixtures.py hugging_face_old
    new/bin/python make_fixtures.py hugging_face_new original timm

Each folder of fixtures/ holds a checkpoint and `logits.npy`, float32 [2, num_classes]: what the source
answers to the top left corner of images.npy, [2, 24, 24, 3], that has the size that the model takes.
All values are random, norms and biases too, so that a tensor in the wrong place shows.
"""

import enum
import importlib.machinery
import json
import os
import sys
import types
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
CLASSES = 5


def images(height, width):
    """The test batch [2, height, width, 3], cut from one that all fixtures share."""
    path = FIXTURES / "images.npy"
    if not path.exists():
        np.save(path, np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype("float32"))
    return np.load(path)[:, :height, :width]


def random_like(name, shape, seed):
    """Values of a published size for one tensor: around 1 for scales, 0 for the rest."""
    centre = 1.0 if len(shape) == 1 and name.endswith(("weight", "scale", "gamma")) else 0.0
    generator = np.random.default_rng([seed, *name.encode()])
    return (centre + 0.3 * generator.normal(size=shape)).astype("float32")


def folder(name):
    path = FIXTURES / name
    path.mkdir(exist_ok=True)
    return path


# --- original: google-research/vision_transformer, vit_jax/models_vit.py, in flax with its names --


def original():
    make_original(
        "original", patch=(4, 4), size=(24, 24), width=16, num_heads=2, mlp=24, token=True, pre_linen=True
    )
    # What no published file has, but what the code can write: no [CLS], a rectangular patch and grid.
    make_original(
        "original_mean",
        patch=(4, 8),
        size=(16, 24),
        width=12,
        num_heads=3,
        mlp=12,
        token=False,
        pre_linen=False,
    )


def make_original(name, patch, size, width, num_heads, mlp, token, pre_linen):
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict, unflatten_dict

    class AddPositionEmbs(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))

    class MlpBlock(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = nn.gelu(nn.Dense(mlp)(x))  # flax's default: the tanh approximation
            return nn.Dense(x.shape[-1])(hidden)

    class Encoder1DBlock(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=num_heads, deterministic=True)(y, y)
            return x + MlpBlock()(nn.LayerNorm()(x))

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = AddPositionEmbs(name="posembed_input")(x)
            for layer in range(2):
                x = Encoder1DBlock(name=f"encoderblock_{layer}")(x)
            return nn.LayerNorm(name="encoder_norm")(x)

    class VisionTransformer(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(width, kernel_size=patch, strides=patch, padding="VALID", name="embedding")(x)
            x = x.reshape(x.shape[0], -1, width)
            if token:
                cls = self.param("cls", nn.initializers.zeros, (1, 1, width))
                x = jnp.concatenate([jnp.tile(cls, [x.shape[0], 1, 1]), x], axis=1)
            x = Encoder(name="Transformer")(x)
            return nn.Dense(CLASSES, name="head")(x[:, 0] if token else x.mean(axis=1))

    model, batch = VisionTransformer(), images(*size)
    shapes = flatten_dict(model.init(jax.random.key(0), batch)["params"], sep="/")
    params = {key: random_like(key, value.shape, seed=1) for key, value in shapes.items()}
    with jax.default_matmul_precision("highest"):
        logits = model.apply({"params": unflatten_dict(params, sep="/")}, batch)
    if pre_linen:  # the published files were written before flax counted each kind of layer by itself
        numbers = {"MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1"}
        numbers |= {"LayerNorm_1": "LayerNorm_2", "MlpBlock_0": "MlpBlock_3"}
        params = {
            "/".join(numbers.get(part, part) for part in key.split("/")): v for key, v in params.items()
        }
    np.savez(folder(name) / "vit.npz", **params)
    np.save(folder(name) / "logits.npy", np.asarray(logits, "float32"))


# --- Hugging Face transformers --------------------------------------------------------------------


def hugging_face_old():
    make_hugging_face("hugging_face_vit_old", "ViT", "ViTForImageClassification", labels=True)
    make_hugging_face("hugging_face_deit_teacher", "DeiT", "DeiTForImageClassificationWithTeacher")


def hugging_face_new():
    rectangular = {"image_size": [8, 24], "patch_size": [4, 8], "hidden_act": "gelu_new", "qkv_bias": False}
    new_names = {"save_original_format": False}
    make_hugging_face("hugging_face_vit_new", "ViT", "ViTForImageClassification", rectangular, **new_names)
    make_hugging_face("hugging_face_deit", "DeiT", "DeiTForImageClassification", **new_names)


def make_hugging_face(name, family, architecture, options=(), labels=False, **save):
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = {**sizes, "image_size": 24, "patch_size": 4, "num_labels": CLASSES, **dict(options)}
    if labels:
        config["id2label"] = dict(enumerate(["ant", "bee", "cat", "dog", "elk"]))
    model = getattr(transformers, architecture)(getattr(transformers, f"{family}Config")(**config))
    size = config["image_size"] if isinstance(config["image_size"], list) else [config["image_size"]] * 2
    logits = run_torch(model, images(*size), lambda output: output.logits)
    model.save_pretrained(folder(name), **save)
    if labels:
        normal = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
        (folder(name) / "preprocessor_config.json").write_text(json.dumps(normal, indent=2) + "\n")
    np.save(folder(name) / "logits.npy", logits)


def run_torch(model, batch, answer=lambda output: output):
    """Fill a model with random values; its logits for images [2, H, W, 3]."""
    import torch

    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(torch.from_numpy(random_like(key, tuple(value.shape), seed=2)))
        return answer(model.eval()(torch.from_numpy(batch).permute(0, 3, 1, 2))).numpy()


# --- timm -----------------------------------------------------------------------------------------


def timm():
    make_timm("timm_vit", "vit_tiny_patch16_224")
    make_timm("timm_deit", "deit_tiny_distilled_patch16_224")
    # DINOv2 with registers: positions of the patches alone, layer scale, a gated MLP; and qk-norm.
    registers = {"reg_tokens": 2, "qk_norm": True, "img_size": [12, 24], "mlp_ratio": 2.0}
    make_timm("timm_registers", "vit_giant_patch14_reg4_dinov2", num_classes=CLASSES, **registers)
    # The mean of the patches, with a [CLS] that only takes part in attention.
    make_timm("timm_mean", "vit_tiny_patch16_224", global_pool="avg", fc_norm=False, reg_tokens=1)


def make_timm(name, architecture, **options):
    stub_torchvision()
    import timm
    from safetensors.torch import save_file
    from timm.models._hub import save_config_for_hf

    arguments = {
        "img_size": 24,
        "patch_size": 4,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 1.5,
    }
    arguments |= {"num_classes": CLASSES, **options}
    model = timm.create_model(architecture, pretrained=False, **arguments)
    logits = run_torch(model, images(*model.patch_embed.img_size))
    save_file(model.state_dict(), folder(name) / "model.safetensors")
    save_config_for_hf(model, folder(name) / "config.json")
    np.save(folder(name) / "logits.npy", logits)


def stub_torchvision():
    """Stand-ins for torchvision, which timm imports for its data pipeline and no ViT uses."""
    submodules = ("", ".datasets", ".io", ".models", ".models.feature_extraction", ".ops", ".ops.misc")
    submodules += (".transforms", ".transforms.functional", ".transforms.v2", ".utils")
    modes = "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS"
    for name in ("torchvision" + submodule for submodule in submodules):
        module = types.ModuleType(name)
        module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
        module.__getattr__ = stand_in
        module.InterpolationMode = enum.Enum("InterpolationMode", modes)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def stand_in(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {"__init__": lambda self, *_, **__: None})


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    FIXTURES.mkdir(exist_ok=True)
    for maker in sys.argv[1:] or sys.exit(__doc__):
        {f.__name__: f for f in (original, hugging_face_old, hugging_face_new, timm)}[maker]()

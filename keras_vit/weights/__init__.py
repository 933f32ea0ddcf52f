"""Published checkpoints, read without the framework that wrote them, and without ever running their code.

    model, checkpoint = load_model("ViT-B_16.npz")

is what `ViT.from_checkpoint` calls: `read_checkpoint`, a `ViT` of that config, `load_into`. One file per
format: `original` (Google's .npz), `hugging_face` (config.json and safetensors) and `timm` (safetensors, with
or without config.json), for ViT and DeiT.
"""

from keras_vit.weights.checkpoint import Checkpoint
from keras_vit.weights.load import load_into, load_model
from keras_vit.weights.read import read_checkpoint

__all__ = ["Checkpoint", "load_into", "load_model", "read_checkpoint"]

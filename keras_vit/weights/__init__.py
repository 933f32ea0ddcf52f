"""Published checkpoints, read without the framework that wrote them, and without ever running their code.

    checkpoint = read_checkpoint("ViT-B_16.npz")    # its config, tensors and preprocessing

No model is known here: `models.checkpoints` puts a `Checkpoint` into one. One file per format: `original`
(Google's .npz), `hugging_face` (config.json and safetensors) and `timm` (safetensors, with or without
config.json), for ViT and DeiT.
"""

from keras_vit.weights.checkpoint import Checkpoint
from keras_vit.weights.read import read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]

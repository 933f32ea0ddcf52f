"""Pretraining for Sort-of-CLEVR: many questions about a scene at once, and where the objects in question are.

One answer of a few bits says little about the distances that it follows from. So the vision module, the text
module and the first block of the trunk learn first from 48 questions about each scene, and to tell which
object is the closest to the one in question, which the furthest, and where it is.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers import LayerNorm, Linear
from keras_vit.layers.masks import as_bias
from keras_vit.models import MultimodalViT
from keras_vit.scenarios.scenes import draw
from keras_vit.scenarios.sort_of_clevr_questions import (
    LABELS,
    OBJECTS,
    RADIUS,
    SIZE,
    answers,
    extremes,
    questions,
    scenes,
)
from keras_vit.training.optimization.optimizer import warmup_cosine

PRETRAINING: dict[str, Any] = {
    "steps": 3000,
    "batch_size": 64,
    "questions": 48,  # about each scene
    "learning_rate": 1e-3,
    "warmup_steps": 300,
    "weight_decay": 0.02,
}


def pretrain(
    model: MultimodalViT,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    steps: int | None = None,
) -> None:
    """Pretrain the vision module, the text module and the first trunk block of a fresh model, in place.

    Every step has new scenes, none of those of `make`.

    Args:
        model: a `MultimodalViT` with the modalities of `make`.
        callbacks: of Keras' `fit`, which has one epoch.
        steps: None for those of `PRETRAINING`.
    """
    steps, (texts, meaning) = steps or PRETRAINING["steps"], questions()
    pretrained = _pretraining_model(model, model.modalities["text"].encode(texts))
    schedule = warmup_cosine(PRETRAINING["learning_rate"], steps, min(PRETRAINING["warmup_steps"], steps - 1))
    exact = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pretrained.compile(
        keras.optimizers.AdamW(
            schedule, weight_decay=PRETRAINING["weight_decay"], beta_2=0.98, global_clipnorm=1.0
        ),
        loss={"answer": exact, "extremes": exact, "centre": "mean_squared_error"},
        loss_weights={"answer": 1.0, "extremes": 0.5, "centre": 1.0},
    )
    with warnings.catch_warnings():
        # The one query of the visual sentence attends to itself alone: its query and key get no gradient.
        warnings.filterwarnings("ignore", "Gradients do not exist")
        pretrained.fit(
            batches(model, meaning, seed),
            steps_per_epoch=steps,
            callbacks=list(callbacks),
            shuffle=False,
            verbose=0,
        )


def _pretraining_model(model, texts):
    """Parts of `model` as a Keras model: images and the indices of the texts asked -> all three outputs."""
    image, text, block = model.modalities["image"], model.modalities["text"], model.blocks[0]
    patches, tokens = image.tokens, image.tokens + PRETRAINING["questions"]
    # Many questions at once: each attends to the image and to itself, the image to itself.
    bias = as_bias(((np.arange(tokens) < patches) | np.eye(tokens, dtype=bool))[None])

    class Pairs(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.text, self.block, self.norm = text, block, LayerNorm()

        def build(self, seen_shape, chosen_shape):
            self.norm.build(seen_shape)

        def call(self, seen, chosen):
            asked = ops.take(self.text(texts)[0][:, 0], chosen, axis=0)
            x = self.block(ops.concatenate([seen, asked], axis=1), bias=bias)
            return self.norm(x[:, patches:])

    pixels = keras.Input((SIZE, SIZE, 3), name="pixels")
    chosen = keras.Input((PRETRAINING["questions"],), dtype="int32", name="chosen")
    read = Pairs()(image(pixels)[0], chosen)
    outputs = {
        "answer": Linear(len(LABELS))(read),
        # Of the object in question, whatever the question is.
        "extremes": keras.layers.Reshape((-1, 2, OBJECTS))(Linear(2 * OBJECTS)(read)),
        "centre": Linear(2)(read),
    }
    return keras.Model({"pixels": pixels, "chosen": chosen}, outputs)


def batches(
    model: MultimodalViT, meaning: np.ndarray, seed: int
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Endless batches of new scenes, with questions about each and the targets of all three outputs."""
    rng, batch, asked = np.random.default_rng([seed, 2]), PRETRAINING["batch_size"], PRETRAINING["questions"]
    scene = np.arange(batch)[:, None]
    while True:
        world = scenes(rng, batch)
        chosen = rng.integers(len(meaning), size=(batch, asked)).astype(np.int32)
        question_type, colour, _ = np.moveaxis(meaning[chosen], 2, 0)
        pixels = model.modalities["image"].prepare(draw(world, SIZE, RADIUS))
        yield (
            {"pixels": pixels, "chosen": chosen},
            {
                "answer": answers(world)[scene, question_type, colour],
                "extremes": extremes(world).swapaxes(1, 2)[scene, colour],
                "centre": (world.centres[scene, colour] / (SIZE // 2) - 1).astype(np.float32),
            },
        )

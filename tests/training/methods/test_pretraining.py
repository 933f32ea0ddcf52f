"""Masked pretraining by the loop of `train`: no labels, interrupted and continued, then fine-tuned."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from bright_thirds import SIZE
from thirds_data import TINY, silent, thirds, tiny_recipe

from keras_vit import MaskedViT
from keras_vit.errors import InputError
from keras_vit.export.quantization.finetune import load_model
from keras_vit.training import train
from keras_vit.training.imports import load_start
from keras_vit.training.methods.pretraining import pretrain
from keras_vit.training.recipes import PretrainingRecipe, pretraining_recipe, recipe_from


def chosen(**options):
    usual = {"epochs": 2, "batch_size": 16, "warmup_epochs": 0, "learning_rate": 1e-2, "augment": "none"}
    return pretraining_recipe("small", SIZE, variant=dict(TINY), **usual, **options)


class Killed(Exception):
    pass


class KillIn(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 1):
            raise Killed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One that was broken in its second epoch, and went on with other labels: nothing looks at them."""
    folder, data = tmp_path_factory.mktemp("pretraining") / "run", thirds()
    fit = keras.Model.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            keras.Model,
            "fit",
            lambda self, *a, callbacks, **k: fit(self, *a, callbacks=[*callbacks, KillIn()], **k),
        )
        with pytest.raises(Killed):
            pretrain(data, folder, chosen(), silent(), save_seconds=0)
    other = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=data.train.labels[::-1]))
    pretrain(other, folder, chosen(), silent())
    return folder


def test_a_broken_one_ends_like_an_unbroken_one(run, tmp_path):
    history = pretrain(thirds(), tmp_path / "run", chosen(), silent())
    models = [keras.models.load_model(folder / "model.keras") for folder in (run, tmp_path / "run")]
    assert all(isinstance(model, MaskedViT) for model in models)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert set(history[-1]) == {"epoch", "loss", "val_loss"}
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    data = thirds()
    images = models[0].prepare(data.test.images)
    models[0].compile()
    assert float(models[0].evaluate(images, verbose=0)) == pytest.approx(history[-1]["val_loss"], rel=1e-4)


def test_it_leaves_what_others_go_on_with(run, tmp_path):
    names = ["config.json", "curves.png", "history.json", "labels.txt", "model.keras", "reconstructions.png"]
    assert sorted(path.name for path in run.iterdir()) == names
    config = json.loads((run / "config.json").read_text())
    assert recipe_from(config["recipe"]) == chosen()
    encoder, masked = load_start(run), keras.models.load_model(run / "model.keras")
    for a, b in zip(encoder.get_weights(), masked.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Frozen but for its head, the fine-tuned model has the pretrained weights.
    recipe = tiny_recipe(epochs=1, freeze=1, variant=encoder.config.to_dict(), pooling=encoder.config.pooling)
    train(thirds(), tmp_path / "fine", recipe, silent(), start=encoder)
    fine = keras.models.load_model(tmp_path / "fine" / "model.keras")
    kernel = encoder.blocks[0].mlp.expand.kernel
    np.testing.assert_array_equal(np.asarray(fine.blocks[0].mlp.expand.kernel), np.asarray(kernel))
    assert fine.num_classes == 3


def test_what_it_is_no_use_for_is_refused(run):
    with pytest.raises(InputError, match=r"is a run of another kind.*--start"):
        train(thirds(), run, tiny_recipe(), silent())
    with pytest.raises(InputError, match=r"pretrained without labels.*keras-vit train DATA --start"):
        load_model(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mea"}, "unknown mode 'mea'.*Did you mean 'mae'"),
        ({"ratio": 1.0}, "ratio must be between 0 and 1"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 has no meaning without labels"),
        ({"freeze": 2}, "freeze=2 has no meaning without labels"),
        ({"wheels": 4}, "unknown recipe field 'wheels'"),
    ],
)
def test_recipes_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        pretraining_recipe("small", **options)


def test_mae_predicts_by_a_decoder():
    masked = chosen(mode="mae", ratio=0.5, normalise=False).build(None)
    assert masked.decoder is not None and masked.ratio == 0.5
    assert masked.reconstruction.distance == "l2" and not masked.reconstruction.normalise
    assert isinstance(chosen(), PretrainingRecipe)

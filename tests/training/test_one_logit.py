"""Training on the labels 0 and 1 with one logit: targets, loss and accuracy as Keras' own."""

import keras
import numpy as np
import pytest

from keras_vit import ViT, ViTConfig
from keras_vit.data.pipeline import targets
from keras_vit.errors import InputError
from keras_vit.training.metrics import CountedAccuracy
from keras_vit.training.trainer import loss_for

CONFIG = ViTConfig(patch_size=4, width=8, depth=1, num_heads=2, mlp_width=8)
LABELS = np.array([1, 0, 0, 1])
LOGITS = np.float32([[2.0], [-1.0], [0.5], [-0.5]])


def vit(num_classes, activation="auto"):
    return ViT(CONFIG, image_size=8, num_classes=num_classes, activation=activation)


def test_labels_stay_what_they_are():
    np.testing.assert_array_equal(targets(LABELS, vit(1)), [[1], [0], [0], [1]])
    np.testing.assert_array_equal(targets(LABELS, vit(2)), [[0, 1], [1, 0], [1, 0], [0, 1]])


def test_the_loss_is_that_of_the_activation():
    y = np.asarray(targets(LABELS, vit(1)))
    expected = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)(y, LOGITS)
    assert float(loss_for(vit(1), 0.1)(y, LOGITS)) == pytest.approx(float(expected))
    assert isinstance(loss_for(vit(3)), keras.losses.CategoricalCrossentropy)
    assert isinstance(loss_for(vit(3, "sigmoid")), keras.losses.BinaryCrossentropy)
    with pytest.raises(InputError, match=r"plain numbers \(activation=None\), and the data has classes"):
        loss_for(vit(3, None))


def test_accuracy_is_binary_accuracy():
    metric, judge = CountedAccuracy(), keras.metrics.BinaryAccuracy(threshold=0.0)
    y = np.asarray(targets(LABELS, vit(1)))
    metric.update_state(y, LOGITS)
    judge.update_state(y, LOGITS)
    assert float(metric.result()) == float(judge.result()) == 0.5

"""Quantization-aware training under a distribution strategy: the same weights as in one process."""

import os
import subprocess
import sys

PROGRAM = """
import contextlib
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_vit
from keras_vit.export import quantize_aware

random = np.random.default_rng(0)
images, labels = random.normal(size=(64, 8, 8, 3)).astype("float32"), random.integers(0, 2, 64)
images[labels == 1] += 1
pixels = random.integers(0, 256, (8, 8, 8, 3))


def fit(scope, profile):
    keras.utils.set_random_seed(0)
    with scope:
        aware = quantize_aware(keras_vit.ViT("Nano/4", image_size=8, num_classes=2, depth=1), profile, pixels)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        aware.compile(keras.optimizers.SGD(0.1), loss)
    losses = aware.fit(images, labels, batch_size=32, epochs=2, shuffle=False, verbose=0).history["loss"]
    return losses, [np.asarray(variable) for variable in aware.weights]


for profile, most in (("int8", 1e-4), ("int8_static", 0.03)):
    one, weights = fit(contextlib.nullcontext(), profile)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    two, mirrored = fit(strategy.scope(), profile)
    assert one[1] < one[0] - 0.05, "it learns"
    difference = max(np.abs(a - b).max() for a, b in zip(weights, mirrored))
    print(profile, one, two, difference)
    assert difference < most and abs(one[1] - two[1]) < most, (profile, difference)
"""


def test_two_replicas_train_to_the_weights_of_one():
    """Trained ranges are the replicas' mean, each of which sees half a batch: close, not equal."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("int8") == 2

"""How much does augmentation slow the input pipeline down? Images per second of each policy, and as ratios.

    python tests/benchmarks/augmentation.py      # 32 x 32, batch 128: a minute

Each policy works in the pipeline that training uses, on random pictures in memory: shuffle, gather, augment,
normalise. Policies take turns, so that a busy machine slows all of them. Images per second are by the clock;
the ratio is that of the processor time of "none" over that of the policy, the median over the turns, which
depends less on what else the machine does. With `--steps` each step is timed alone, and the crop of "light"
also as it was first written: keras-cv's layer, picture by picture.

Expect on two shared, busy cores: "affine" 0.30x, "light" 0.36x, "crop" 0.40x, "strong" 0.12x, which is 28 ms
of processor time a batch, of which RandAugment takes 11. A training step of ViT-Lite-7/4 on that batch takes
2,300 ms, so that "strong" costs 1.2% of it. The crop of "light" takes 2.4 ms, and 5.4 picture by picture.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from keras_vit import ViT
from keras_vit.data.augment import POLICIES, parts
from keras_vit.data.image_data import Split
from keras_vit.data.pipeline import training_batches
from keras_vit.training.recipes import recipe

BATCHES = 20  # in a turn
PAUSE = (
    0.2  # seconds after a turn, to fill again what is fetched ahead: it belongs to the turn's processor time
)


def policies(options):
    """{name: function that makes one batch} of the whole pipeline with each policy."""
    size, batch = options.image_size, options.batch
    count = 8 * batch
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    split = Split(images, random.integers(0, 10, count).astype("int32"), [""] * count)
    model = ViT("Lite/4", image_size=size, num_classes=10)

    def batches(name):
        chosen = recipe("small", image_size=(size, size), batch_size=batch, augment=name)
        return iter(training_batches(split, model, chosen, 0, 10**6))

    running = {name: batches(name) for name in POLICIES}
    return {name: lambda i=iterator: next(i) for name, iterator in running.items()}


def steps(options):
    """{title: function that augments one batch} of the steps of "strong", and of crop and resize twice."""
    size, batch = options.image_size, options.batch
    images = tf.random.stateless_uniform([batch, size, size, 3], [0, 0], 0.0, 255.0)
    labels = tf.one_hot(tf.range(batch) % 10, 10)
    todo = {"none": lambda images, labels, seed: (images + 0.0, labels)}
    todo |= {"crop, resize by keras-cv": one_by_one(size), **parts("light"), **parts("strong")}
    signature = [
        tf.TensorSpec([None, size, size, 3]),
        tf.TensorSpec([None, 10]),
        tf.TensorSpec([2], tf.int32),
    ]
    seeds = iter(range(10**9))

    def timed(step):
        compiled = tf.function(step, input_signature=signature)
        return lambda: compiled(images, labels, tf.constant([0, next(seeds)]))[0].numpy()

    return {title: timed(step) for title, step in todo.items()}


def one_by_one(size):
    """`crop_and_resize` as it was: each picture through keras-cv's layer."""
    import keras_cv

    from keras_vit.data.augment.geometry import random_boxes

    layer = keras_cv.layers.RandomCropAndResize((size, size), (0.6, 1.0), (3 / 4, 4 / 3))

    def step(images, labels, seed):
        cropped = tf.map_fn(
            lambda pair: layer.augment_image(pair[0], transformation=pair[1][None]),
            (images, random_boxes(tf.shape(images)[0], seed)),
            fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
        )
        return cropped, labels

    return step


def measure(running, turns):
    """[seconds, processor seconds] of a batch, float [turns, 2], for each name."""
    times = {name: [] for name in running}
    for turn in range(turns + 1):
        for name, function in running.items():
            clock, processor = time.perf_counter(), time.process_time()
            for _ in range(BATCHES):
                function()
            clock = time.perf_counter() - clock
            time.sleep(PAUSE)
            if turn:  # the first one compiles
                times[name].append((clock / BATCHES, (time.process_time() - processor) / BATCHES))
    return {name: np.array(seconds) for name, seconds in times.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=10, help=f"timed turns of {BATCHES} batches each")
    parser.add_argument("--steps", action="store_true", help="time each step alone")
    options = parser.parse_args()
    times = measure((steps if options.steps else policies)(options), options.turns)

    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Augmentation at {options.image_size}, batch {options.batch}")
    table.add_column("step" if options.steps else "policy")
    for column in ("images/s", "CPU ms a batch", "speed beside none", "middle half"):
        table.add_column(column, justify="right")
    for name, seconds in times.items():
        clock, processor = np.median(seconds, axis=0)
        ratio = times["none"][:, 1] / seconds[:, 1]
        low, high = np.percentile(ratio, [25, 75])
        table.add_row(
            name,
            f"{options.batch / clock:,.0f}",
            f"{processor * 1e3:.1f}",
            f"{np.median(ratio):.2f}x",
            f"{low:.2f} to {high:.2f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

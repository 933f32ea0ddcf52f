"""Two real worker processes make the batches of one, each its own half: nothing twice, nothing left out."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_vit import ViT
from keras_vit.data import pipeline
from keras_vit.data.image_data import Split
from keras_vit.distributed import launching
from keras_vit.training import recipe

COUNT = 150  # the last of its batches of 64 has 22 examples, and the second worker none of them
CASES = [("none", 64), ("strong", 64), ("light", 40)]  # pieces of 20 cut through groups of 32

# What a worker does: keep what its replica gets, and which examples were picked for it.
WORKER = """
import sys
import numpy as np
from keras_vit.training import strategy

devices = strategy("multiworker")  # before anything else of TensorFlow
sys.path.insert(0, sys.argv[1])
from test_sharding import CASES, made, pictures
from keras_vit.data import pipeline

found = {}
for number, case in enumerate(CASES):
    picked = []
    batches = pipeline.distributed(devices, lambda context: made(case, pictures(picked), context))
    mine = [[devices.experimental_local_results(x)[0].numpy() for x in batch] for batch in batches]
    for name, parts in zip(("images", "labels", "weights"), zip(*mine)):
        found[f"{number}/{name}"] = np.stack(parts)
    found[f"{number}/picked"] = np.concatenate(picked)
np.savez(sys.argv[2], **found)
"""


class Watched:
    """An array that notes which rows are picked."""

    def __init__(self, array, picked):
        self.array, self.picked, self.shape, self.dtype = array, picked, array.shape, array.dtype

    def __getitem__(self, rows):
        self.picked.append(np.array(rows))
        return self.array[rows]


def pictures(picked):
    """Noise, but for the first pixel: (i, 0, 0) in picture i."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    images[:, 0, 0] = 0
    images[:, 0, 0, 0] = np.arange(COUNT)
    return Split(Watched(images, picked), np.arange(COUNT, dtype=np.int32) % 7, list(map(str, range(COUNT))))


def made(case, split, context=None, epochs=(0, 2), skipped=0):
    augment, batch_size = case
    chosen = recipe("thumbnails", image_size=(16, 16), batch_size=batch_size, augment=augment)
    model = ViT("Nano/4", image_size=16, num_classes=7, preprocessing={"mean": [0.0] * 3, "std": [1.0] * 3})
    return pipeline.training_batches(split, model, chosen, *epochs, True, skipped, context)


def alone(case, **options):
    """(images, labels, weights), each of all batches, of one process."""
    return [
        np.stack(parts)
        for parts in zip(*made(case, pictures([]), **options).as_numpy_iterator(), strict=True)
    ]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    places = [f"127.0.0.1:{port}" for port in launching.free_ports(2)]
    running = []
    for i in range(2):
        config = {"cluster": {"worker": places}, "task": {"type": "worker", "index": i}}
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": json.dumps(config)}
        command = [sys.executable, "-c", WORKER, os.path.dirname(__file__), str(folder / f"{i}.npz")]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in running:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error[-2000:]
    return [np.load(folder / f"{i}.npz") for i in range(2)]


def test_every_example_comes_once_an_epoch_in_one_of_the_workers(workers):
    seen = []
    for worker in workers:
        images, weights = worker["0/images"], worker["0/weights"]
        assert images.shape == (6, 32, 16, 16, 3)  # 2 epochs of 3 batches, half of each
        ids = np.round(images[:, :, 0, 0, 0] * 255).astype(int)
        seen.append([ids[epoch][weights[epoch] > 0].tolist() for epoch in (slice(0, 3), slice(3, 6))])
    for first, second in zip(*seen, strict=True):
        assert len(first) == 64 + 22 and len(second) == 64
        assert sorted(first + second) == list(range(COUNT))
    assert seen[0][0] != seen[0][1], "another order in each epoch"


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_pieces_make_up_the_batches_of_one_process(workers, number):
    for name, whole in zip(("images", "labels", "weights"), alone(CASES[number]), strict=True):
        pieces = np.concatenate([worker[f"{number}/{name}"] for worker in workers], axis=1)
        real = np.concatenate([worker[f"{number}/weights"] for worker in workers], axis=1) > 0
        assert pieces.shape == whole.shape
        np.testing.assert_array_equal(pieces[real], whole[real], err_msg=name)
        if name == "weights":
            np.testing.assert_array_equal(pieces, whole)


def test_a_worker_picks_only_what_its_pieces_need(workers):
    for number in (0, 1):
        both = [np.bincount(worker[f"{number}/picked"], minlength=COUNT) for worker in workers]
        # Each example for one worker, in each of 2 epochs; and 1 or 22 for pieces without any real example.
        assert sum(both).min() >= 2
        assert sum(both).sum() == 2 * (COUNT + (1 if number == 0 else 22))


def test_pieces_for_several_replicas_of_a_worker_and_from_the_middle_of_an_epoch():
    case, options = ("light", 80), {"epochs": (1, 3), "skipped": 1}
    whole = alone(case, **options)  # batches of 70, 80 and 70 examples, in pieces of 20
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, num_replicas_in_sync=4)
        parts = alone(case, context=context, **options)
        mine = [a.reshape(3, 4, 20, *a.shape[2:])[:, 2 * worker : 2 * worker + 2] for a in whole]
        mine = [a.reshape(6, 20, *a.shape[3:]) for a in mine]
        np.testing.assert_array_equal(parts[2], mine[2])
        for a, b in zip(mine, parts, strict=True):
            np.testing.assert_array_equal(b[parts[2] > 0], a[parts[2] > 0])

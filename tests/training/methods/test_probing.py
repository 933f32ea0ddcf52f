"""Probes of frozen features, against NumPy."""

import numpy as np
import pytest
from thirds_data import thirds, vit

from keras_vit.errors import InputError
from keras_vit.training.methods import probing
from keras_vit.training.methods.probing import features, probe


@pytest.fixture(scope="module")
def model():
    return vit(pooling="mean")


def test_features_are_what_the_head_sees(model):
    images = thirds().test.images
    found = features(model.rebuilt(num_classes=None), images, batch_size=7)
    logits = found @ np.asarray(model.head.kernel) + np.asarray(model.head.bias)
    np.testing.assert_allclose(logits, np.asarray(model(model.prepare(images))), atol=1e-4)


def test_neighbours_vote_by_their_similarity(model):
    data = thirds()
    train, test = (features(model.rebuilt(num_classes=None), s.images) for s in (data.train, data.test))
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    right = 0
    for x, label in zip(test, data.test.labels, strict=True):
        similar = train @ x
        nearest = np.argsort(-similar)[:5]
        votes = np.bincount(data.train.labels[nearest], np.exp(similar[nearest] / 0.07), minlength=3)
        right += votes.argmax() == label
    assert probe(model, data, ["knn"], k=5) == {"knn": pytest.approx(right / len(data.test))}


def test_one_near_neighbour_outvotes_two_far_ones(model, monkeypatch):
    data = thirds(3, 1)
    data.train.labels[:], data.test.labels[:] = [0, 1, 1], [0]
    made = iter((np.array([[1, 0], [1, 1.5], [1, -1.5]]), np.array([[3, 0.1]])))
    monkeypatch.setattr(probing, "features", lambda encoder, images, progress: next(made))
    assert probe(model, data, ["knn"], k=3) == {"knn": 1.0}


def test_a_linear_probe_scales_each_feature(model, monkeypatch):
    """The label is in features a million times smaller than the one that says nothing."""
    data = thirds()
    labels, random = iter((data.train.labels, data.test.labels)), np.random.default_rng(0)

    def made(encoder, images, progress):
        small = 1e-3 * (np.eye(3)[next(labels)] + random.normal(scale=0.1, size=(len(images), 3)))
        return np.hstack([small, random.normal(scale=1e3, size=(len(images), 1))])

    monkeypatch.setattr(probing, "features", made)
    assert probe(model, data, ["linear"]) == {"linear": 1.0}


def test_bad_input(model):
    with pytest.raises(InputError, match="unknown probe 'forest'"):
        probe(model, thirds(), ["forest"])
    with pytest.raises(InputError, match="k=45 neighbours of 44 training pictures"):
        probe(model, thirds(), ["knn"], k=45)
    with pytest.raises(InputError, match=r"pictures of \[12, 8\] for a model of \[8, 8\]"):
        probe(vit(image_size=(8, 8)), thirds())

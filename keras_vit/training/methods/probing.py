"""How good the features of a frozen encoder are: a linear probe, and k nearest neighbours.

Features are what the encoder pools, before the head. On those of the training pictures

- "linear": logistic regression, each feature scaled to mean 0 and variance 1;
- "knn": the k nearest by cosine similarity s vote with weight exp(s / 0.07) (Wu et al. 2018,
  arXiv:1805.01978; as in DINO, arXiv:2104.14294).
"""

import functools

import numpy as np

from keras_vit.config import integer
from keras_vit.errors import InputError, one_of

METHODS = ("linear", "knn")
TEMPERATURE = 0.07


def probe(model, data, methods=METHODS, k=20, progress=None):
    """Top-1 on held-out pictures of classifiers on the frozen features of `model`.

    Args:
        model: a `ViT`; a head is left aside.
        data: an `ImageData` of its image size.
        methods: some of `METHODS`.
        k: neighbours that vote.
        progress: called as `progress(note, done, total)`.

    Returns:
        {method: top-1 in [0, 1]}.

    Raises:
        InputError: an unknown method, pictures of another size, more neighbours than training pictures.
    """
    for method in methods:
        one_of("probe", method, METHODS)
    if "knn" in methods and integer("k", k, at_least=1) > len(data.train):
        raise InputError(f"k={k} neighbours of {len(data.train)} training pictures: use a smaller k.")
    encoder = model.rebuilt(num_classes=None, **({} if model.config.pooling else {"pooling": "mean"}))
    train, test = (
        features(encoder, split.images, functools.partial(progress, name) if progress else None)
        for name, split in (("training", data.train), ("held out", data.test))
    )
    accuracy = {}
    for method in methods:
        if progress:
            progress(method, 0, 1)
        classifier = _linear() if method == "linear" else _neighbours(k)
        accuracy[method] = float(classifier.fit(train, data.train.labels).score(test, data.test.labels))
    return accuracy


def features(encoder, images, progress=None, batch_size=256):
    """Pooled features float32 [N, width] of pictures uint8 [N, H, W, 3].

    Args:
        encoder: a `ViT` without a head.
        progress: called as `progress(done, total)`.
    """
    if images.shape[1:3] != encoder.image_size:
        raise InputError(
            f"pictures of {list(images.shape[1:3])} for a model of {list(encoder.image_size)}: load them in "
            "its size."
        )
    batches = []
    for start in range(0, len(images), batch_size):
        batch = encoder.prepare(np.asarray(images[start : start + batch_size]))
        batches.append(np.asarray(encoder.predict_on_batch(batch), "float32"))
        if progress:
            progress(min(start + batch_size, len(images)), len(images))
    return np.concatenate(batches)


def _linear():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _neighbours(k):
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(k, metric="cosine", weights=_votes)


def _votes(distances):
    """The weights of neighbours at these cosine distances."""
    return np.exp((1 - distances) / TEMPERATURE)

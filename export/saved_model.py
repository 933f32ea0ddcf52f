"""The SavedModel for TF Serving: `serving_default` for pixels, `serve_bytes` for JPEG and PNG files."""

import functools

import tensorflow as tf

from keras_vit.answers import LOGITS, PROBABILITY
from keras_vit.export.aware import QuantizeAware
from keras_vit.export.graph import fold, from_raw
from keras_vit.export.kinds import quantizable_layers
from keras_vit.export.metadata import labels_for
from keras_vit.modalities import Image
from keras_vit.models import ViT
from keras_vit.models.activation import activate
from keras_vit.training.decoding import picture

TOP = 5  # classes in the short answer


def write_saved_model(model, folder, labels=None):
    """Write `model` to `folder` with two signatures.

    - serving_default: `image` float32 [N, H, W, 3], values 0..255;
    - serve_bytes: `image_bytes` string [N], each a JPEG or PNG file of any size. (TF Serving's
      REST interface takes base64 for inputs whose name ends in _bytes.)

    Those of a `MultimodalViT` take all that its `signature()` lists; clients send what `Modality.encode`
    makes of texts and sounds. It has serve_bytes if one of its modalities is an `Image` in colours; there the
    empty string is a black picture, for examples that have none, as `present` says.

    Both answer, K being 5 or the number of labels if that is smaller:

    - `probability` float32 [N, classes], in the order of `labels`; of one class, that label 1 is right;
    - `label` string [N], the most probable one;
    - `top_labels` string [N, K] and `top_probabilities` float32 [N, K], the most probable first.

    A model with activation=None answers `logits` float32 [N, classes] and nothing else.

    Every output has one row for each image: TF Serving can neither batch requests nor answer
    row by row in JSON with any other.

    Args:
        model: a `ViT` or `MultimodalViT` with a head; or a `QuantizeAware` model, which is written with
            rounded weights and with its activations' fake quantizers as TensorFlow operators, so that it
            answers like the .tflite file of its profile.
        folder: new, or one that holds no SavedModel yet.
        labels: class names; "0", "1", ... by default. Of one class see `metadata.labels_for`.

    Raises:
        InputError: a model of another kind, labels that do not fit.
    """
    model, *quantizers = _servable(model)
    pictures = picture_sizes(model)
    names = labels_for(model, labels)

    def serve(**inputs):
        answer = activate(model(from_raw(inputs, model), training=False), model.activation)
        if model.activation is None:
            return {LOGITS: answer}
        # Of one class, that of its label 0 stands beside it.
        each = tf.concat([1 - answer, answer], axis=1) if model.classes == 1 else answer
        best, index = tf.math.top_k(each, min(TOP, len(names)))
        top = tf.gather(tf.constant(names), index)
        return {
            PROBABILITY: answer,
            "label": top[:, 0],
            "top_labels": top,
            "top_probabilities": best,
        }

    def serve_bytes(**inputs):
        for name, size in pictures.items():
            inputs[name] = tf.map_fn(
                functools.partial(_picture, size=size, optional=not isinstance(model, ViT)),
                inputs.pop(f"{name}_bytes"),
                fn_output_signature=tf.TensorSpec((*size, 3)),
            )
        return serve(**inputs)

    # Keras' own ExportArchive stores every weight twice, as a variable of Keras and as one of TensorFlow.
    module = tf.Module()
    module.weights = [variable.value for layer in (model, *quantizers) for variable in layer.variables]
    specs = {
        name: tf.TensorSpec((None, *signature["shape"]), signature["dtype"], name=name)
        for name, signature in model.signature().items()
    }
    module.serving_default = tf.function(serve, autograph=False).get_concrete_function(**specs)
    signatures = {"serving_default": module.serving_default}
    if pictures:
        files = {f"{name}_bytes": tf.TensorSpec((None,), tf.string, f"{name}_bytes") for name in pictures}
        others = {name: spec for name, spec in specs.items() if name not in pictures}
        traced = tf.function(serve_bytes, autograph=False).get_concrete_function(**files, **others)
        module.serve_bytes = signatures["serve_bytes"] = traced
    tf.saved_model.save(module, str(folder), signatures=signatures)


def picture_sizes(model):
    """{name: (height, width)} of the inputs of a `ViT` or `MultimodalViT` that are pictures in colours."""
    if isinstance(model, ViT):
        return {"image": model.image_size}
    shapes = {name: m.signature()["shape"] for name, m in model.modalities.items() if isinstance(m, Image)}
    return {name: shape[:2] for name, shape in shapes.items() if shape[2] == 3}


def _picture(content, size, optional):
    """A file to float32 [H, W, 3]; if `optional`, zeros for the empty string."""
    if not optional:
        return picture(content, size)
    empty = tf.equal(tf.strings.length(content), 0)
    return tf.cond(empty, lambda: tf.zeros((*size, 3)), lambda: picture(content, size))


def _servable(model):
    """[a model on raw inputs, the fake quantizers that hang in it ...]."""
    if not isinstance(model, QuantizeAware):
        return [fold(model)]
    # Its own weight quantizers store the range that they just saw, in every run: a server shall not write.
    plain, _ = model.deploy()
    for name, layer in quantizable_layers(plain):
        layer.fake_quantize = functools.partial(_round, model.quantizers, name)
    return [plain, *(q for q in model.quantizers.values() if not q.is_of_weights)]


def _round(quantizers, name, role, x):
    """The `fake_quantize` hook of a deployed model, whose weights are rounded already."""
    quantizer = quantizers.get(f"{name}.{role}")
    return x if quantizer is None or quantizer.is_of_weights else quantizer(x, training=False)

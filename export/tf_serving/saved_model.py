"""The SavedModel for TF Serving: `serving_default` for pixels, `serve_bytes` for JPEG and PNG files, and
`serve_bytes_safe`, which answers the good files of a batch and says what is wrong with the others."""

import functools

import tensorflow as tf

from keras_vit.answers import LOGITS, PROBABILITY
from keras_vit.data.tf_decoding import pictures, to_channels
from keras_vit.export.quantization.model import QuantizeAware
from keras_vit.export.quantization.spec import quantizable_layers
from keras_vit.export.tflite.fold import fold, from_raw
from keras_vit.export.tflite.metadata import labels_for
from keras_vit.modalities import Image
from keras_vit.models import ViT
from keras_vit.models.activation import activate

TOP = 5  # classes in the short answer


def write_saved_model(model, folder, labels=None):
    """Write `model` to `folder` with three signatures.

    - serving_default: `image` float32 [N, H, W, C], values 0..255;
    - serve_bytes: `image_bytes` string [N], each a JPEG or PNG file of up to `headers.MAX_PIXELS`; what is
      larger is refused before it is decoded. Of a model of 3 channels, or of 1: their luma. (TF Serving's
      REST interface takes base64 for inputs whose name ends in _bytes.) They are decoded in parallel;
    - serve_bytes_safe: the same, for files from strangers.

    Those of a `MultimodalViT` take all that its `signature()` lists; clients send what `Modality.encode`
    makes of texts and sounds. It has the latter two if one of its modalities is an `Image` of 3 channels or
    of 1; there the empty string is a black picture, for examples that have none, as `present` says.

    All answer, K being 5 or the number of labels if that is smaller:

    - `probability` float32 [N, num_classes], in the order of `labels`; of one class, that label 1 is right;
    - `label` string [N], the most probable one;
    - `top_labels` string [N, K] and `top_probabilities` float32 [N, K], the most probable first.

    A model with activation=None answers `logits` float32 [N, num_classes] and nothing else.

    An item (counted from 0) whose file cannot be decoded, with NaN or infinity among its inputs, or with
    numbers so large that the answer is none, fails the whole request; the message names the first one, as in
    "item 3: no JPEG or PNG". From serve_bytes_safe it gets zeros and empty strings instead, and there are

    - `valid` bool [N], and `error` string [N], what is wrong, or the empty string.

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
    sizes = picture_sizes(model)
    names = labels_for(model, labels)

    def answer_to(inputs):
        answer = activate(model(from_raw(inputs, model), training=False), model.activation)
        if model.activation is None:
            return {LOGITS: answer}
        # Of one class, that of its label 0 stands beside it.
        each = tf.concat([1 - answer, answer], axis=1) if model.num_classes == 1 else answer
        best, index = tf.math.top_k(each, min(TOP, len(names)))
        top = tf.gather(tf.constant(names), index)
        return {
            PROBABILITY: answer,
            "label": top[:, 0],
            "top_labels": top,
            "top_probabilities": best,
        }

    def checked_answer(inputs, errors):
        """The answer, and why an item has none: string [N], "" if it has one."""
        errors = _and_not_finite(errors, inputs, "NaN or infinity in ")
        answers = answer_to(_blank(inputs, errors))
        return answers, _and_not_finite(errors, answers, "numbers too large for an answer: no finite ")

    def serve(**inputs):
        count = tf.shape(next(iter(inputs.values())))[0]
        return _refused(*checked_answer(inputs, tf.fill([count], "")))

    def serve_bytes_safe(**inputs):
        errors = None
        for name, size in sizes.items():
            colours, found = pictures(inputs.pop(f"{name}_bytes"), size, optional=not isinstance(model, ViT))
            inputs[name] = to_channels(colours, model.signature()[name]["shape"][2])
            if len(sizes) > 1:
                found = tf.where(tf.equal(found, ""), found, tf.strings.join([f"{name}_bytes is ", found]))
            errors = found if errors is None else tf.where(tf.equal(errors, ""), found, errors)
        answers, errors = checked_answer(inputs, errors)
        return {**_blank(answers, errors), "valid": tf.equal(errors, ""), "error": errors}

    def serve_bytes(**inputs):
        answers = dict(module.serve_bytes_safe(**inputs))
        del answers["valid"]
        return _refused(answers, answers.pop("error"))

    # Keras' own ExportArchive stores every weight twice, as a variable of Keras and as one of TensorFlow.
    module = tf.Module()
    module.weights = [variable.value for layer in (model, *quantizers) for variable in layer.variables]
    specs = {
        name: tf.TensorSpec((None, *signature["shape"]), signature["dtype"], name=name)
        for name, signature in model.signature().items()
    }
    module.serving_default = tf.function(serve, autograph=False).get_concrete_function(**specs)
    signatures = {"serving_default": module.serving_default}
    if sizes:
        files = {name: tf.TensorSpec((None,), tf.string, name) for name in map("{}_bytes".format, sizes)}
        others = {name: spec for name, spec in specs.items() if name not in sizes}
        for function in (serve_bytes_safe, serve_bytes):  # in this order, as the second calls the first
            traced = tf.function(function, autograph=False).get_concrete_function(**files, **others)
            signatures[function.__name__] = traced
            setattr(module, function.__name__, traced)
    tf.saved_model.save(module, str(folder), signatures=signatures)


def picture_sizes(model):
    """{name: (height, width)} of the inputs of a `ViT` or `MultimodalViT` that files can be of.

    These are pictures in colours, or grey ones.
    """
    parts = {"image": model} if isinstance(model, ViT) else model.modalities
    names = [name for name, part in parts.items() if isinstance(part, ViT | Image)]
    shapes = {name: model.signature()[name]["shape"] for name in names}
    return {name: shape[:2] for name, shape in shapes.items() if shape[2] in (1, 3)}


def _and_not_finite(errors, tensors, text):
    """`errors`, and for the items that have none yet, that a tensor of {name: [N, ...]} is not finite."""
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating:
            is_finite = tf.reduce_all(tf.math.is_finite(tensor), axis=range(1, len(tensor.shape)))
            errors = tf.where(is_finite | tf.not_equal(errors, ""), errors, f"{text}{name}")
    return errors


def _blank(tensors, errors):
    """{name: [N, ...]} with zeros or empty strings for the items that have an error."""
    is_good = tf.equal(errors, "")
    return {
        name: tf.where(tf.reshape(is_good, (-1, *[1] * (len(x.shape) - 1))), x, tf.zeros_like(x))
        for name, x in tensors.items()
    }


def _refused(answers, errors):
    """The answers; if there is an error, the request fails with the first."""
    errors = tf.concat([errors, [""]], axis=0)  # so that there is one, whatever the batch
    bad = tf.not_equal(errors, "")
    item = tf.argmax(bad)
    text = tf.strings.join(["item ", tf.strings.as_string(item), ": ", errors[item]])
    with tf.control_dependencies([tf.debugging.Assert(~tf.reduce_any(bad), [text])]):
        return {name: tf.identity(x) for name, x in answers.items()}


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

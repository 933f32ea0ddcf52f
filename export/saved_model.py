"""The SavedModel for TF Serving: `serving_default` for pixels, `serve_bytes` for JPEG and PNG files."""

import functools

import tensorflow as tf

from keras_vit.errors import InputError
from keras_vit.export.aware import QuantizeAware
from keras_vit.export.graph import fold, from_raw
from keras_vit.export.kinds import quantizable_layers

TOP = 5  # classes in the short answer


def write_saved_model(model, folder, labels=None):
    """Write `model` to `folder` with two signatures.

    - serving_default: `image` float32 [N, H, W, 3], values 0..255;
    - serve_bytes: `image_bytes` string [N], each a JPEG or PNG file of any size. (TF Serving's
      REST interface takes base64 for inputs whose name ends in _bytes.)

    A `MultimodalViT` has the first alone, with all the inputs that its `signature()` lists; clients send
    what `Modality.encode` makes of texts and sounds.

    Both answer, K being 5 or the number of classes if that is smaller:

    - `probability` float32 [N, classes], in the order of `labels`;
    - `label` string [N], the best class;
    - `top_labels` string [N, K] and `top_probabilities` float32 [N, K], the best first.

    Every output has one row for each image: TF Serving can neither batch requests nor answer
    row by row in JSON with any other.

    Args:
        model: a `ViT` or `MultimodalViT` with a head; or a `QuantizeAware` model, which is written with
            rounded weights and with its activations' fake quantizers as TensorFlow operators, so that it
            answers like the .tflite file of its profile.
        folder: new, or one that holds no SavedModel yet.
        labels: class names; "0", "1", ... by default.

    Raises:
        InputError: a model of another kind, labels that do not fit.
    """
    size, classes = getattr(model, "image_size", None), getattr(model, "classes", None)
    model, *quantizers = _servable(model)
    names = [str(label) for label in (range(classes) if labels is None else labels)]
    if isinstance(labels, str) or len(names) != classes:
        given = f"the text {labels!r}" if isinstance(labels, str) else f"{len(names)} labels"
        raise InputError(f"{given} for a model with {classes} classes: give a list of one name for each.")

    def serve(**inputs):
        probability = tf.nn.softmax(model(from_raw(inputs, model), training=False))
        best, index = tf.math.top_k(probability, min(TOP, classes))
        top = tf.gather(tf.constant(names), index)
        return {
            "probability": probability,
            "label": top[:, 0],
            "top_labels": top,
            "top_probabilities": best,
        }

    def serve_bytes(image_bytes):
        image = tf.map_fn(
            lambda content: _picture(content, size),
            image_bytes,
            fn_output_signature=tf.TensorSpec((*size, 3)),
        )
        return serve(image=image)

    # Keras' own ExportArchive stores every weight twice, as a variable of Keras and as one of TensorFlow.
    module = tf.Module()
    module.weights = [variable.value for layer in (model, *quantizers) for variable in layer.variables]
    specs = {
        name: tf.TensorSpec((None, *signature["shape"]), signature["dtype"], name=name)
        for name, signature in model.signature().items()
    }
    module.serving_default = tf.function(serve, autograph=False).get_concrete_function(**specs)
    signatures = {"serving_default": module.serving_default}
    if size:
        files = tf.TensorSpec((None,), tf.string, name="image_bytes")
        module.serve_bytes = tf.function(serve_bytes, input_signature=[files], autograph=False)
        signatures["serve_bytes"] = module.serve_bytes
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _servable(model):
    """[a model on raw inputs, the fake quantizers that hang in it ...]."""
    if not isinstance(model, QuantizeAware):
        return [fold(model)]
    # Its own weight quantizers store the range that they just saw, in every run: a server shall not write.
    plain, _ = model.deploy()
    for name, layer in quantizable_layers(plain):
        layer.quantize = functools.partial(_round, model.quantizers, name)
    return [plain, *(q for q in model.quantizers.values() if not q.is_of_weights)]


def _round(quantizers, name, role, x):
    """The `quantize` hook of a deployed model, whose weights are rounded already."""
    quantizer = quantizers.get(f"{name}.{role}")
    return x if quantizer is None or quantizer.is_of_weights else quantizer(x, training=False)


def _picture(content, size):
    """One file to float32 [H, W, 3] in 0..255, by the rule of `keras_vit.training.images.fit`."""
    image = tf.cond(tf.io.is_jpeg(content), lambda: _jpeg(content), lambda: _png(content))
    shape = tf.cast(tf.shape(image)[:2], tf.float64)  # float64, so that rounding agrees with Python's
    target = tf.constant(size, tf.float64)
    scale = tf.reduce_max(target / shape)
    new = tf.cast(tf.maximum(target, tf.round(shape * scale)), tf.int32)
    image = tf.round(tf.image.resize(image, new, antialias=True))
    top, left = (new[0] - size[0]) // 2, (new[1] - size[1]) // 2
    return tf.ensure_shape(image[top : top + size[0], left : left + size[1]], (*size, 3))


def _jpeg(content):
    # The accurate transform is Pillow's default; TensorFlow's is a faster, coarser one.
    image = tf.cast(tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)
    return _upright(image, _orientation(content))


def _orientation(content):
    """The EXIF orientation of a JPEG, 1 to 8; 1 if it has none. TensorFlow's decoder passes over it.

    The entry is tag 0x0112, type 3 (short), count 1, in the byte order that EXIF names after its
    "Exif" and two zeros. The first such entry is that of the picture; one of a thumbnail comes later.
    """
    head = tf.io.decode_raw(tf.strings.substr(content, 0, 65536), tf.uint8)
    exif = head[_find(head, b"Exif\0\0") :]
    big, little = _find(exif, b"\x01\x12\0\x03\0\0\0\x01\0"), _find(exif, b"\x12\x01\x03\0\x01\0\0\0")
    # One more byte follows the longer pattern. `end` stands for "not found", where a 1 is appended.
    end, is_big = tf.shape(exif)[0], _find(exif, b"Exif\0\0MM") == 0
    at = tf.minimum(tf.where(is_big, big + 9, little + 8), end)
    value = tf.cast(tf.concat([exif, [1]], 0)[at], tf.int32)
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _find(data, pattern):
    """Index of the first `pattern` (bytes) in `data` (uint8 [N]), or N."""
    count = tf.maximum(tf.shape(data)[0] - len(pattern) + 1, 0)
    hits = tf.reduce_all([data[i : i + count] == byte for i, byte in enumerate(pattern)], axis=0)
    found = tf.concat([tf.where(hits)[:, 0], [tf.size(data, tf.int64)]], axis=0)
    return tf.cast(tf.reduce_min(found), tf.int32)


def _upright(image, orientation):
    """Undo an EXIF orientation, as Pillow's exif_transpose does."""
    turn = tf.image.rot90  # counter-clockwise
    across = tf.transpose(image, (1, 0, 2))
    return tf.switch_case(
        orientation - 1,
        [
            lambda: image,
            lambda: image[:, ::-1],
            lambda: turn(image, 2),
            lambda: image[::-1],
            lambda: across,
            lambda: turn(image, 3),
            lambda: turn(across, 2),
            lambda: turn(image, 1),
        ],
    )


def _png(content):
    pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
    header = tf.io.decode_raw(tf.strings.substr(content, 24, 2), tf.uint8)  # bit depth, colour type
    # TensorFlow fills in an alpha of 2^depth - 1, not 255, for grey of fewer than 8 bits.
    opaque = (header[0] < 8) & (header[1] == 0)
    alpha = tf.where(opaque, 1.0, pixels[..., 3:] / 255.0)
    return tf.round(pixels[..., :3] * alpha + 255.0 * (1.0 - alpha))  # on white, as everywhere here

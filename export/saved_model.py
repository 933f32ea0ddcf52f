"""The SavedModel for TF Serving: `serving_default` for pixels, `serve_bytes` for JPEG and PNG files."""

import keras
import tensorflow as tf


def write_saved_model(model, folder):
    """Write `model` to `folder` with two signatures, both answering {"probability": [N, classes]}.

    - serving_default: `image` float32 [N, H, W, 3], values 0..255;
    - serve_bytes: `image_bytes` string [N], each a JPEG or PNG file of any size. (TF Serving's
      REST interface takes base64 for inputs whose name ends in _bytes.)

    Args:
        model: a folded `ViT`, on raw pixels.
    """
    size = model.image_size

    def serve(image):
        return {"probability": tf.nn.softmax(model(image))}

    def serve_bytes(image_bytes):
        image = tf.map_fn(
            lambda content: _picture(content, size),
            image_bytes,
            fn_output_signature=tf.TensorSpec((*size, 3)),
        )
        return serve(image)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default", serve, [tf.TensorSpec((None, *size, 3), tf.float32, name="image")]
    )
    archive.add_endpoint("serve_bytes", serve_bytes, [tf.TensorSpec((None,), tf.string, name="image_bytes")])
    archive.write_out(str(folder), verbose=False)


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
    return tf.cast(tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)


def _png(content):
    pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
    alpha = pixels[..., 3:] / 255.0
    return tf.round(pixels[..., :3] * alpha + 255.0 * (1.0 - alpha))  # on white, as everywhere here

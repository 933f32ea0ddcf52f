"""How many picture files does a SavedModel decode in a second, and what does a batch of them cost?

    python tests/benchmarks/serving.py                     # 640 x 480 to 224, about a minute

The same JPEG files through `decoding.pictures`, which `serve_bytes` and `serve_bytes_safe` use, and through
what they used before: `tf.map_fn` over decode, convert to float, resize, crop. Both in one process, in turns,
one file and a batch; the model is left out. Said are the ratio of the two (the median over the rounds), and
how many times as long as one file the batch takes: with n cores, no less than its size / n if one file keeps
one core busy. Processor time is beside it, since that is what does not depend on what else runs.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import io

import numpy as np
from PIL import Image
from processor import machine


def jpeg(width, height):
    """A smooth picture with some noise, as photographs have."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(pixels + random.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def before(files, size):
    """What serve_bytes did: one file after the other takes its way through float32, whole."""
    import tensorflow as tf

    def find(data, pattern):
        count = tf.maximum(tf.shape(data)[0] - len(pattern) + 1, 0)
        hits = tf.reduce_all([data[i : i + count] == byte for i, byte in enumerate(pattern)], axis=0)
        return tf.cast(
            tf.reduce_min(tf.concat([tf.where(hits)[:, 0], [tf.size(data, tf.int64)]], 0)), tf.int32
        )

    def one(file):
        image = tf.cast(tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)
        head = tf.io.decode_raw(tf.strings.substr(file, 0, 65536), tf.uint8)
        exif = head[find(head, b"Exif\0\0") :]
        patterns = (b"\x01\x12\0\x03\0\0\0\x01\0", b"\x12\x01\x03\0\x01\0\0\0", b"Exif\0\0MM")
        found = tf.reduce_min([find(exif, pattern) for pattern in patterns])
        image = tf.cond(found < tf.size(exif), lambda: tf.image.rot90(image), lambda: image)
        shape, target = tf.cast(tf.shape(image)[:2], tf.float64), tf.constant(size, tf.float64)
        new = tf.cast(tf.maximum(target, tf.round(shape * tf.reduce_max(target / shape))), tf.int32)
        image = tf.round(tf.image.resize(image, new, antialias=True))
        top, left = (new[0] - size[0]) // 2, (new[1] - size[1]) // 2
        return tf.ensure_shape(image[top : top + size[0], left : left + size[1]], (*size, 3))

    return tf.map_fn(one, files, fn_output_signature=tf.TensorSpec((*size, 3)))


def timed(function, files):
    """(seconds, processor seconds) of one call."""
    start, processor = time.perf_counter(), time.process_time()
    function(files)
    return time.perf_counter() - start, time.process_time() - processor


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    import tensorflow as tf

    from keras_vit.data.tf_decoding import pictures

    size = (options.image_size, options.image_size)
    file = jpeg(options.width, options.height)
    spec = [tf.TensorSpec([None], tf.string)]
    ways = {
        "before": tf.function(lambda files: before(files, size), input_signature=spec),
        "now": tf.function(lambda files: pictures(files, size), input_signature=spec),
    }
    batches = {1: tf.constant([file]), options.batch: tf.constant([file] * options.batch)}
    same = np.abs(ways["before"](batches[1]) - ways["now"](batches[1])[0]).max()
    assert same <= 1, f"they differ by {same} of 255"
    times = {(way, n): [] for way in ways for n in batches}
    for _ in range(options.rounds):
        for n, files in batches.items():
            for way, function in ways.items():
                calls = 10 if n == 1 else 1
                times[way, n].append(np.mean([timed(function, files) for _ in range(calls)], axis=0))
    times = {key: np.array(values) for key, values in times.items()}
    print(machine())
    print(f"JPEG {options.width} x {options.height}, {len(file) / 1e3:.0f} kB, to {size[0]} x {size[1]}")
    print(f"{'':8}{'one, ms':>10}{'processor':>11}{'batch, ms':>11}{'processor':>11}{'batch / one':>13}")
    for way in ways:
        one, batch = (np.median(times[way, n], axis=0) * 1e3 for n in batches)
        ratio = np.median(times[way, options.batch][:, 0] / times[way, 1][:, 0])
        print(f"{way:8}{one[0]:10.1f}{one[1]:11.1f}{batch[0]:11.0f}{batch[1]:11.0f}{ratio:12.1f}x")
    for n in batches:
        wall, processor = np.median(times["before", n] / times["now", n], axis=0)
        print(f"{n} at once: {wall:.2f}x as fast as before, {processor:.2f}x less of the processor")


if __name__ == "__main__":
    main()

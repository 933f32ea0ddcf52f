"""Damaged pictures, of which Pillow (`decoding.decode`) and TensorFlow (`tf_decoding`) must say the same."""

import io

import numpy as np
from PIL import Image, features

from fuzz.harness import Difference, OneAlone
from fuzz.mutate import chance, damaged, damaged_jpeg, damaged_png, exif, pick
from keras_vit.data import decoding
from keras_vit.errors import InputError

SIZE = (12, 9)
FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("P",),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("1", "L", "RGB"),
    "DIB": ("L", "RGB"),
    **{kind: ("L", "RGB", "RGBA") for kind, codec in (("JPEG2000", "jpg_2000"),) if features.check(codec)},
    **{kind: ("RGB", "RGBA") for kind, codec in (("AVIF", "avif"),) if features.check(codec)},
}


def sound(kind, mode, random):
    """The bytes of a small picture, saved in one of the ways in which people have them."""
    width, height = (int(n) for n in random.integers(1, 40, 2))
    coarse = random.integers(0, 256, (4, 5, 4), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    options = {}
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (height, width), dtype=np.uint16))
    elif mode == "P":
        image = image.convert("RGB").quantize(int(pick(random, (2, 4, 16, 200))))
        if kind in ("PNG", "GIF") and chance(random, 0.5):
            options["transparency"] = int(random.integers(0, 4))
    else:
        image = image.convert(mode)
    if kind == "JPEG":
        options = {"quality": int(random.integers(5, 101)), "progressive": chance(random, 0.3)}
        options["subsampling"] = int(random.integers(3))
        if chance(random, 0.5):
            options["exif"] = exif(random)
    elif kind == "PNG":
        if mode == "P":
            options["bits"] = int(pick(random, (1, 2, 4, 8)))
            options = options if 2 ** options["bits"] >= len(image.getcolors()) else {}
        elif mode in ("L", "RGB") and chance(random, 0.3):
            options["transparency"] = 7 if mode == "L" else (1, 2, 3)
        if chance(random, 0.3):
            options["exif"] = exif(random)
    elif kind == "TIFF":
        options["compression"] = pick(random, (None, "raw", "tiff_lzw", "packbits", "tiff_adobe_deflate"))
    elif kind == "WEBP":
        options["lossless"] = chance(random, 0.5)
    elif kind == "GIF" and chance(random, 0.3):
        options.update(save_all=True, append_images=[image.rotate(180)])
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class Pictures:
    """Every second input is a PNG or JPEG, which both read."""

    refusals = (InputError,)

    def __init__(self, folder):
        import tensorflow as tf

        from keras_vit.data import tf_decoding

        self._errors = (tf.errors.InvalidArgumentError,)
        spec = [tf.TensorSpec([], tf.string)]
        self._served = tf.function(lambda content: tf_decoding.picture(content, SIZE), input_signature=spec)

    def make(self, random):
        kind = pick(random, ("PNG", "JPEG") if chance(random, 0.6) else FORMATS)
        data = sound(kind, pick(random, FORMATS[kind]), random)
        others = [sound(other, FORMATS[other][0], random) for other in (kind, pick(random, FORMATS))]
        way = random.random()
        if way < 0.1:
            pass
        elif kind == "PNG" and way < 0.6:
            data = damaged_png(data, random, others)
        elif kind == "JPEG" and way < 0.6:
            data = damaged_jpeg(data, random, others)
        else:
            data = damaged(data, random, others)
        return {"picture": data} | ({"sound": b""} if way < 0.1 else {})

    def check(self, files):
        data = files["picture"]
        mine = theirs = None
        try:
            mine = decoding.decode(data, SIZE)
        except InputError as error:
            refused = error
        try:
            theirs = self._served(data).numpy()
        except self._errors as error:
            reason = str(error).splitlines()[0]
        if theirs is not None and not np.isfinite(theirs).all():
            raise Difference("TensorFlow's pixels are not finite")
        if theirs is not None and (theirs.min() < 0 or theirs.max() > 255):
            raise Difference(f"TensorFlow's pixels reach from {theirs.min()} to {theirs.max()}")
        if mine is None and theirs is None:
            raise refused
        fault = Difference if "sound" in files else OneAlone  # `headers` says so
        if mine is None:
            raise fault(f"Pillow refuses what TensorFlow reads: {refused}")
        if theirs is None:
            if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n":
                raise fault(f"TensorFlow refuses what Pillow reads: {reason[:200]}")
            return "accepted"  # TensorFlow reads JPEG and PNG alone
        apart = np.abs(mine.astype("float32") - theirs).max()
        if apart > 1:
            raise Difference(f"they are {apart:.0f} of 255 apart")
        return "accepted"

"""TensorFlow against Pillow and the standards: a server and a data service see a file as `predict` does."""

import functools
import struct
import zlib

import made_pictures as made
import numpy as np
import pytest
import tensorflow as tf
from made_pictures import chunk, content, exif, png, segment, with_segments
from PIL import Image, ImageCms, ImageOps

from keras_vit.data import decoding, headers, tf_decoding, tf_headers
from keras_vit.data.decoding import decode
from keras_vit.errors import InputError

SIZE = (16, 12)
# EXIF 2.32, table 5: orientation -> what turns the stored pixels upright.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


@functools.cache
def batch_decoder(size=SIZE):
    return tf.function(
        lambda files: tf_decoding.pictures(files, size), input_signature=[tf.TensorSpec([None], tf.string)]
    )


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def unresized(file):
    header = tf_decoding.read_header(file, SIZE)
    return tf_decoding.decode(file, header), header.orientation


def served(files, size=SIZE):
    """(float32 [N, H, W, 3], [why not, or ""]) of TensorFlow."""
    pictures, errors = batch_decoder(size)(tf.constant(files, tf.string))
    return pictures.numpy(), [error.decode() for error in errors.numpy()]


def check(files, size=SIZE):
    """All of these are read, and alike: one that is resized up to 1 of 255, the others exactly."""
    pictures, errors = served(files, size)
    assert not any(errors), errors
    expected = np.stack([decode(file, size) for file in files]).astype("float32")
    worst = np.abs(pictures - expected).max(axis=(1, 2, 3))
    assert worst.max() <= 1, f"{len(files)} files, number {worst.argmax()} differs by {worst.max()}"
    for file in files:
        pixels, orientation = unresized(file)
        np.testing.assert_array_equal(UPRIGHT[int(orientation)](pixels.numpy()), decode(file))
    return expected


def photo(size=(60, 40), mode="RGB", seed=5):
    """A smooth picture, different in every corner."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def by_the_standard(samples, depth, colour, palette, key):
    """RGB on white of a PNG's samples, in float: PNG (third edition), 11.2.1, 11.3.1.1, 13.12, 13.16."""
    scaled = samples / (2**depth - 1) * 255
    if depth == 16 and colour != headers.GREY:
        scaled = samples >> 8  # so Pillow has it
    alpha = np.ones((*samples.shape[:2], 1))
    if colour == headers.PALETTE:
        table = np.concatenate([palette, np.zeros((256 - len(palette), 3))])
        scaled = table[samples[..., 0]]
        if key is not None:
            alpha = np.concatenate([key, np.full(256 - len(key), 255)])[samples] / 255
    elif colour in (4, 6):
        scaled, alpha = scaled[..., :-1], scaled[..., -1:] / 255
    elif key is not None:
        alpha = 1.0 - (samples == key).all(axis=-1, keepdims=True)
    return np.broadcast_to(scaled, (*samples.shape[:2], 3)) * alpha + 255 * (1 - alpha)


def test_every_png():
    """Depth x colour type x transparency x interlace x where EXIF lies: 156 kinds, twice."""
    rng = np.random.default_rng(0)
    files, truths = [], []
    kinds = [(colour, depth) for colour, depths in made.DEPTHS.items() for depth in depths]
    kinds = [(*kind, has_key) for kind in kinds for has_key in (False, True) if kind[0] < 4 or not has_key]
    for colour, depth, has_key in 2 * kinds:
        for interlace in (False, True):
            for place in ("nowhere", "before", "after"):
                h, w = rng.integers(1, 30, 2)
                samples = rng.integers(0, 2**depth, (h, w, made.CHANNELS[colour]))
                if rng.random() < 0.5:  # few values, so that a transparent one is met often
                    samples -= samples % max(1, 2**depth // 4)
                around, palette, key = {"before": [], "after": []}, None, None
                if colour == headers.PALETTE:  # with samples that lead outside of it, too
                    palette = rng.integers(0, 256, (rng.integers(1, 2**depth + 1), 3))
                    around["before"].append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
                    if has_key:
                        key = rng.integers(0, 256, rng.integers(1, len(palette) + 1))
                        around["before"].append(chunk(b"tRNS", key.astype(np.uint8).tobytes()))
                elif has_key:
                    key = samples[0, 0]
                    around["before"].append(chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
                orientation = 1
                if place != "nowhere":
                    orientation = int(rng.integers(1, 9))
                    block = exif(orientation, "<>"[rng.integers(2)], rng.integers(1, 4))
                    around[place].append(chunk(b"eXIf", block))
                files.append(png(samples, depth, colour, interlace, **around))
                truths.append(UPRIGHT[orientation](by_the_standard(samples, depth, colour, palette, key)))
    for file, truth in zip(files, truths, strict=True):
        assert np.abs(decode(file) - truth).max() <= 0.51, "rounded to the nearest"
    assert len(files) == 312
    check(files)


def test_a_transparency_that_is_none_is_passed_over():
    """Damaged, of the wrong length, in the wrong place, or the second one: PNG, 11.3.1.1, and libpng."""
    samples = np.arange(60).reshape(6, 10, 1) % 4
    colours, key = chunk(b"PLTE", bytes(range(12))), chunk(b"tRNS", b"\0\1")
    long = chunk(b"tRNS", b"\0\1\0\1\0\1\0\1")
    none = [
        png(samples, 2, 0, before=[long]),
        png(samples, 2, 0, after=[key]),
        png(samples, 2, 0, before=[key[:-1] + b"?"]),  # a wrong check sum
        png(samples, 2, 3, before=[colours, long]),
        png(samples, 2, 3, before=[key, colours]),
        png(samples, 2, 3, before=[colours], after=[key]),
        png(samples, 8, 3, before=[colours, long]),
        png(np.repeat(samples, 3, -1), 8, 2, before=[long]),
    ]
    for file in none:
        plain = png(
            samples if file[25] != 2 else np.repeat(samples, 3, -1), file[24], file[25], before=[colours]
        )
        np.testing.assert_array_equal(decode(file), decode(plain))
    twice = png(samples, 2, 0, before=[key, chunk(b"tRNS", b"\0\2")])
    np.testing.assert_array_equal(decode(twice), decode(png(samples, 2, 0, before=[key])))
    check([*none, twice])


def test_every_jpeg():
    """Colours x coding x subsampling, with and without profiles, restarts and EXIF behind other segments."""
    rng = np.random.default_rng(1)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = []

    def resampled(file, factors):
        """The same blocks under other sampling factors (T.81, B.2.2) that need as many of them."""
        at = max(file.find(b"\xff\xc0"), file.find(b"\xff\xc2"))
        return file[: at + 11] + bytes([factors]) + file[at + 12 :]

    def add(file):
        block = b"Exif\0\0" + exif(int(rng.integers(1, 9)), "<>"[rng.integers(2)], int(rng.integers(1, 5)))
        others = [segment(0xE0 + int(rng.integers(3, 14)), bytes(60000)) for _ in range(rng.integers(4))]
        xmp = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3">')
        files.extend([file, with_segments(file, xmp, *others, segment(0xE1, block), *others)])

    for progressive in (False, True):
        for quality in (30, 95):
            save = functools.partial(content, kind="JPEG", progressive=progressive, quality=quality)
            for sampling in ("4:4:4", "4:2:2", "4:2:0"):
                size = rng.integers(1, 70, 2)
                options = {"icc_profile": profile} if quality == 95 else {"restart_marker_blocks": 2}
                add(save(photo(size, seed=len(files)), subsampling=sampling, **options))
            add(save(photo(rng.integers(1, 70, 2), "L")))
            add(save(photo(rng.integers(1, 70, 2)), keep_rgb=True))
            add(resampled(save(photo((64, 64)), subsampling="4:2:2"), 0x12))  # 4:4:0
            add(resampled(save(photo((64, 64)), subsampling="4:2:0"), 0x41))  # 4:1:1
            inks = Image.merge("CMYK", [photo((50, 41), "L", seed) for seed in range(4)])
            cmyk = save(inks)
            adobe = cmyk.index(b"Adobe")
            add(cmyk)
            add(cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :])  # YCCK
            add(cmyk[: adobe - 4] + cmyk[adobe + 12 :])  # without Adobe's mark: inks are not turned around
    check(files)
    for file in files:
        image = Image.open(file := made.io.BytesIO(file))
        if image.mode != "CMYK" and b"xap" not in file.getvalue():
            # Not with XMP, which Pillow also asks for the orientation.
            np.testing.assert_array_equal(
                decode(file.getvalue()), ImageOps.exif_transpose(image).convert("RGB")
            )
    # Red, once as each of the two conventions has it.
    red = content(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    at = red.index(b"Adobe")
    cyan = red[: at - 4] + red[at + 12 :]
    pictures, _ = served([red, cyan], (16, 16))
    assert np.abs(pictures[0] - [255, 0, 0]).max() <= 3
    assert np.abs(pictures[1] - 0).max() <= 3, "full of black ink, when nothing is turned around"


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_exif_orientation_wherever_it_lies(order):
    """Behind 120 kB of other segments, in a PNG before and after the picture."""
    far = [segment(0xED, bytes(60000))] * 2
    plain = {
        kind: content(photo(), kind, **({"quality": 95} if kind == "JPEG" else {}))
        for kind in ("JPEG", "PNG")
    }
    for orientation in UPRIGHT:
        block = exif(orientation, order, entries=3)
        jpeg = segment(0xE1, b"Exif\0\0" + block)
        end = plain["PNG"].index(b"IDAT") - 4
        turned = [
            with_segments(plain["JPEG"], jpeg),
            with_segments(plain["JPEG"], *far, jpeg),
            plain["PNG"][:end] + chunk(b"eXIf", block) + plain["PNG"][end:],
            plain["PNG"][:-12] + chunk(b"eXIf", block) + plain["PNG"][-12:],
            plain["PNG"][:end] + chunk(b"eXIf", b"Exif\0\0" + block) + plain["PNG"][end:],
        ]
        check(turned)
        for file in turned:
            kind = "PNG" if file.startswith(headers.PNG) else "JPEG"
            np.testing.assert_array_equal(decode(file), UPRIGHT[orientation](decode(plain[kind])))


def test_what_is_no_orientation_is_passed_over():
    good = exif(6)
    blocks = [
        exif(77),
        exif(0),
        good[:4],
        good[:12],
        b"rubbish!" * 4,
        good[:4] + b"\xff\xff\xff\xff" + good[8:],  # a directory beyond the end
        good[:12] + b"\4" + good[13:],  # of another type
        good.replace(b"II*\0", b"II\0*"),
    ]
    plain = content(photo(), "JPEG")
    files = [with_segments(plain, segment(0xE1, b"Exif\0\0" + block)) for block in blocks]
    assert all((check(files) == decode(plain, SIZE)).reshape(-1))


@pytest.mark.parametrize("size", [(9, 33), (121, 77)])
def test_sizes_are_covered_and_cropped_in_the_same_way(size):
    files = [content(photo(shape), "PNG") for shape in ((60, 40), (40, 61), (16, 16), (7, 90))]
    # An odd remainder is cut off on the other side when a picture is turned.
    files += [with_segments(content(photo(), "JPEG"), segment(0xE1, b"Exif\0\0" + exif(o))) for o in UPRIGHT]
    check(files, size)


def header_of(width, height, colour=headers.RGB):
    """A PNG that says it is so large, and holds nearly nothing."""
    file = png(np.zeros((1, 1, made.CHANNELS[colour]), int), 8, colour)
    return (
        made.SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
        + file[33:]
    )


def frame(marker=0xC0, bits=8, height=8, width=8, colours=3):
    """A JPEG that begins with that frame header, and has no picture."""
    head = struct.pack(">BHHB", bits, height, width, colours) + bytes(3 * colours)
    return b"\xff\xd8" + segment(marker, head) + segment(0xDA, bytes(6))


def test_what_is_refused_is_named():
    plain = {kind: content(photo(), kind) for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")}
    cases = [(plain[kind], "no JPEG or PNG") for kind in plain if kind not in ("JPEG", "PNG")]
    cases += [
        (b"", "empty, not a JPEG or PNG"),
        (b"hello", "no JPEG or PNG"),
        (b"\xff\xd8\xff", "damaged or cut short"),
        (made.SIGNATURE, "damaged or cut short"),
        (header_of(8193, 8192), "8192x8193 pixels are more than 67 million"),
        (header_of(2**31 - 1, 2**31 - 1), "2147483647x2147483647 pixels are more than 67 million"),
        (header_of(2**32 - 1, 5), "damaged"),
        (header_of(65_501, 1), "or than 65500 a side"),
        (frame(height=9000, width=9000), "9000x9000 pixels are more than 67 million"),
        (frame(bits=12), "of another depth than 8 bits"),
        (frame(0xC9), "coded arithmetically"),
        (frame(0xCA), "coded arithmetically"),
        (frame(0xC3), "lossless or hierarchical"),
        (frame(colours=2), "neither grey, nor RGB, nor CMYK"),
        (frame(height=0), "damaged"),
        (frame(), "damaged"),
        (b"\xff\xd8\xff" * 20_000, "more than 10000 parts"),
        (made.SIGNATURE + header_of(4, 4)[8:33] + 10_001 * chunk(b"teSt"), "more than 10000 chunks"),
    ]
    for kind in ("JPEG", "PNG"):
        file = plain[kind]
        cases += [(file[: len(file) * i // 8], "damaged or cut short") for i in range(2, 8)]
    images_, errors = served([file for file, _ in cases])
    for (file, text), error in zip(cases, errors, strict=True):
        assert text in error, (file[:40], text, error)
    assert not images_.any()
    with pytest.raises(tf.errors.InvalidArgumentError, match="8192x8193 pixels are more than"):
        tf_decoding.picture(tf.constant(cases[9][0]), SIZE)
    # The same limits in Python.
    for width, height in ((8193, 8192), (65_501, 1)):
        with pytest.raises(InputError, match="more than 67 million pixels, or 65500 a side"):
            decode(header_of(width, height))
    check([plain["JPEG"] + b"more", plain["PNG"] + b"more"])
    # Of an animation the first frame, or the picture that stands for it.
    frames = {"save_all": True, "append_images": [photo(seed=6), photo(seed=7)]}
    check([content(photo(), "PNG", **frames), content(photo(), "PNG", **frames, default_image=True)])


def test_one_bad_file_leaves_the_others_of_a_batch():
    good = content(photo(), "PNG")
    files = [good, good[:-30], good, b"", good]
    pictures, errors = served(files)
    assert [bool(error) for error in errors] == [False, True, False, True, False]
    for i in (0, 2, 4):
        assert np.abs(pictures[i] - decode(good, SIZE)).max() <= 1
    pictures, errors = served([])
    assert pictures.shape == (0, *SIZE, 3) and errors == []
    assert served([b"", b""])[1] == 2 * ["empty, not a JPEG or PNG"]


def test_large_pictures_are_decoded_one_by_one_and_by_bands(monkeypatch):
    rng = np.random.default_rng(3)
    rgba = rng.integers(0, 2**16, (40, 60, 4))
    files = [png(rgba >> 8, 8, 6), png(rgba, 16, 6), content(photo(), "JPEG"), content(photo((10, 9)), "PNG")]
    expected = served(files)[0]
    monkeypatch.setattr(tf_decoding, "LARGE", 1000)
    monkeypatch.setattr(tf_decoding, "BAND", 7 * 60)  # 40 rows are five bands of 7, and 5 rows
    monkeypatch.setattr(tf_headers, "MAX_SCALED_PIXELS", 10_000)  # and those that would be, after scaling
    files.append(header_of(1, 100))
    given, errors = tf.function(lambda files: tf_decoding.pictures(files, SIZE))(tf.constant(files))
    np.testing.assert_array_equal(given[:-1], expected)
    assert errors[-1] == b"a picture of 100x1 is too long and thin to fill 16x12: crop it first"
    monkeypatch.setattr(decoding, "MAX_SCALED_PIXELS", 10_000)
    with pytest.raises(
        InputError, match="a picture of 100x1 is too long and thin to fill 16x12: crop it first"
    ):
        decoding.fit(np.zeros((100, 1, 3), np.uint8), SIZE)


def mutated(rng, file):
    """A damaged file: cut, longer, with other bytes, or with its chunks in another order."""
    kind, is_png = rng.integers(6), file.startswith(headers.PNG)
    at = int(rng.integers(2, len(file)))
    if kind == 0:
        return file[:at]
    if kind == 1:
        return file[:at] + rng.bytes(rng.integers(1, 9)) + file[at:]
    if kind == 2:
        return file[:at] + file[at + rng.integers(1, 9) :]
    chunks, at = [], 8
    while is_png and at < len(file):
        (length,) = struct.unpack_from(">I", file, at)
        chunks.append((file[at + 4 : at + 8], bytearray(file[at + 8 : at + 8 + length])))
        at += 12 + length
    if kind < 5 or not is_png:  # bytes, and of a PNG mostly with the right check sum
        if not is_png or rng.random() < 0.3:
            file = bytearray(file)
            for _ in range(rng.integers(1, 4)):
                file[rng.integers(2, len(file))] = rng.integers(256)
            return bytes(file)
        _, some = chunks[rng.integers(len(chunks) - 1)]
        some[rng.integers(len(some))] = rng.integers(256)
    else:
        i, j = rng.integers(1, len(chunks), 2)
        if rng.random() < 0.5:
            chunks[i], chunks[j] = chunks[j], chunks[i]
        else:
            chunks.insert(i, chunks[j])
    return file[:8] + b"".join(chunk(name, bytes(data)) for name, data in chunks)


def test_damaged_files_are_never_read_as_different_pictures():
    """Each decoder may refuse; where both answer, they answer alike."""
    rng = np.random.default_rng(7)
    good = []
    for colour, depth, key in ((0, 2, 2), (0, 16, 2), (2, 8, 6), (2, 16, 6), (3, 4, 3), (3, 8, 3), (6, 8, 2)):
        samples = rng.integers(0, 2**depth, (9, 13, made.CHANNELS[colour]))
        before = [chunk(b"PLTE", rng.bytes(30))] if colour == headers.PALETTE else []
        before += [chunk(b"tRNS", b"\1".rjust(key, b"\0")), chunk(b"eXIf", exif(6))]
        good.append(png(samples, depth, colour, colour == 2, before))
    for mode, options in (("RGB", {}), ("L", {"progressive": True}), ("CMYK", {})):
        file = content(photo((50, 40), mode), "JPEG", **options)
        good.append(with_segments(file, segment(0xE1, b"Exif\0\0" + exif(6))))
    files = [mutated(rng, good[rng.integers(len(good))]) for _ in range(600)]
    pictures, errors = served(files)
    both = 0
    for file, picture, error in zip(files, pictures, errors, strict=True):
        try:
            expected = decode(file, SIZE)
        except InputError:
            continue
        if not error:
            both += 1
            assert np.abs(picture - expected).max() <= 1
    assert both > 100, "many are sound enough"
    assert decoding.MAX_PIXELS == headers.MAX_PIXELS


def test_damage_outside_of_a_pngs_pixels_does_not_matter():
    samples = np.random.default_rng(3).integers(0, 256, (*SIZE, 3))
    odd = [(b"tRNS", b"\0"), (b"iCCP", b"a\0\x5bxx"), (b"iCCP", b""), (b"fcTL", b"1"), (b"gAMA", b"")]
    files = [png(samples, 8, headers.RGB, before=[chunk(*one)]) for one in odd]
    np.testing.assert_array_equal(check(files), np.stack([samples] * len(odd)))


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_whose_pixels_end_early_is_refused_by_both(interlaced):
    for value in (0, 200):  # Pillow leaves what is missing black, which a picture may be
        whole = png(np.full((8, 8, 1), value), 8, headers.GREY, interlaced)
        assert (decode(whole) == value).all()
        # Of the packed pixels all but the last rows, packed anew: nothing else is wrong.
        packed = zlib.decompress(b"".join(body for kind, body in chunks_of(whole) if kind == b"IDAT"))
        picture = chunk(b"IDAT", zlib.compress(packed[: len(packed) // 2]))
        short = whole[:33] + picture + chunk(b"IEND")
        with pytest.raises(InputError, match="truncated"):
            decode(short)
        assert served([short])[1] != [""]


def chunks_of(file):
    """(kind, content) of a sound PNG."""
    at = 8
    while at < len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        yield kind, file[at + 8 : at + 8 + length]
        at += 12 + length

"""Damaged .zip files of pictures, as `train` reads them."""

import io
import struct
import warnings
import zipfile
import zlib

from fuzz.harness import write
from fuzz.mutate import WIDE, chance, damaged, pick
from fuzz.pictures import sound
from keras_vit.data.image_data import load_data
from keras_vit.errors import InputError

# Where the fields of headers lie, {signature: [(offset, size)]}: local, central, end, and its 64-bit forms.
FIELDS = {
    b"PK\3\4": [(4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)],
    b"PK\1\2": [
        (6, 2),
        (8, 2),
        (10, 2),
        (16, 4),
        (20, 4),
        (24, 4),
        (28, 2),
        (30, 2),
        (32, 2),
        (38, 4),
        (42, 4),
    ],
    b"PK\5\6": [(4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)],
    b"PK\6\6": [(4, 8), (24, 8), (32, 8), (40, 8), (48, 8)],
    b"PK\6\7": [(4, 4), (8, 8), (16, 4)],
}
METHODS = (0, 1, 6, 8, 9, 12, 14, 93, 95, 98, 99)
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
NAMES = (
    "../out.png", "/etc/x.png", "C:\\x.png", "cat\\1.png", "cat/../dog/1.png", "cat//1.png", "./cat/1.png",
    ".png", "cat/.hidden.png", "__MACOSX/cat/1.png", "cat/1.PNG", "Train/cat/1.png", "train/cat/1.png", "cat",
    "test/dog/1.png", "cat/", "cat/1.png", "猫/1.png", "a\nb/1.png", "a\u2028b/1.png", "x" * 300 + "/1.png",
    "cat/1.jfif", "cat/" + "a/" * 100 + "1.png", "cat/1.txt", "nul\0/1.png", "con/1.png", "2/1.png",
    "10/1.png",
)  # fmt: skip


class Archives:
    refusals = (InputError,)

    def __init__(self, folder):
        self.folder = folder

    def make(self, random):
        with warnings.catch_warnings():  # of a name that is there twice
            warnings.simplefilter("ignore")
            data = self._sound(random)
        way = random.random()
        if way < 0.5:
            data = self._edited(data, random)
        elif way < 0.8:
            data = damaged(data, random, [self._plain(random)])
        return {"pictures.zip": data}

    def _sound(self, random):
        names = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(int(random.integers(2, 5)))]
        if chance(random, 0.4):
            names.append(pick(random, NAMES))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                content = sound("PNG", pick(random, ("L", "RGB")), random)
                if chance(random, 0.04):
                    content = damaged(content, random)
                if chance(random, 0.01):
                    content = bytes(5_000_000)  # which packs to nothing
                archive.writestr(zipfile.ZipInfo(name), content, pick(random, PACKED))  # of no date
            archive.comment = random.bytes(int(random.integers(0, 30))) if chance(random, 0.1) else b""
        return file.getvalue()

    def _plain(self, random):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo("cow/1.png"), sound("PNG", "L", random))
        return file.getvalue()

    def _edited(self, data, random):
        """One to four fields of its headers changed, at times in the local and the central one alike."""
        data = bytearray(data)
        for _ in range(int(random.integers(1, 5))):
            signature = pick(random, [key for key in FIELDS if key in data])
            found, at = [], data.find(signature)
            while at >= 0:
                found.append(at)
                at = data.find(signature, at + 4)
            at, (offset, size) = pick(random, found), pick(random, FIELDS[signature])
            value = int(pick(random, (*WIDE, len(data), int(random.integers(2**32)))))
            if (signature, offset) in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
                value = pick(random, METHODS)
            place = slice(at + offset, at + offset + size)
            old, new = bytes(data[place]), struct.pack("<Q", value)[:size]
            data[place] = new
            if chance(random, 0.5) and size == 4 and old.strip(b"\0"):
                data = bytearray(bytes(data).replace(old, new))
        if chance(random, 0.1):
            data += zlib.compress(b"more")
        return bytes(data)

    def check(self, files):
        write(files, self.folder)
        skip_bad = len(files["pictures.zip"]) % 2 == 0
        load_data(self.folder / "pictures.zip", (8, 8), skip_bad=skip_bad)
        return "accepted"

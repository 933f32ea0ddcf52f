"""Tables of every form with hostile cells, as `train` reads them, and the files that they name."""

import io
import shutil
import struct
import wave

import numpy as np

from fuzz.harness import Difference, write
from fuzz.mutate import chance, damaged, pick
from fuzz.pictures import sound
from keras_vit.data.multimodal import load_examples
from keras_vit.errors import InputError

ENCODINGS = (
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "latin-1",
    "cp1252",
    "utf-32",
    "gbk",
)
SEPARATORS = (",", ",", ",", ";", "\t", "|", " ")
COLUMNS = ("label", "text", "image", "audio", "action", "video")
ODD_COLUMNS = (
    "Label", " label ", "LABEL", "labels", "class", "Text", "text", "", "weight", "présent", "label",
    "image\n", "\0", "x" * 300,
)  # fmt: skip
ODD_CELLS = (
    "", " ", "é", "猫", "a,b", "a;b", 'a"b', '"', "a\nb", "a\r\nb", "\0", "\u2028", "'", "=1+1",
    "x" * 200_000, "1e400", "nan", "../table.csv", "/dev/zero", "/etc", "files", "files\\a.png", ".",
    "C:\\a.png", "file:///a.png", "a" * 300, "\ufeff", "files/none.png", "files/a.png ", "2", "10",
)  # fmt: skip


TRACKS, CLIPS = ((3, 2), (1, 2), (5, 2)), ((4, 8, 8, 3), (2, 4, 4, 3), (1, 8, 8, 3))


def array(random, shapes=(*TRACKS, *CLIPS)):
    """The bytes of a .npy file of some type and content, mostly of one of `shapes`."""
    shape = tuple(int(n) for n in random.integers(0, 9, int(random.integers(5))))
    if chance(random, 0.9):
        shape = pick(random, shapes)
    kind = pick(
        random, (*["u1"] * 8, *["f4"] * 4, "f8", "i2", "i8", "?", "c8", "U3", "S2", "M8[s]", "f2", ">f4")
    )
    values = np.abs(random.normal(0, 1, shape)) * float(pick(random, (0.3, 1, 100, 1e30)))
    with np.errstate(all="ignore"):
        values = (values.astype("i8") if kind == "M8[s]" else values).astype(kind)
    if kind in ("f4", "f8") and values.size and chance(random, 0.2):
        values.flat[0] = pick(random, (np.nan, np.inf, -1.0, 256.0))
    file = io.BytesIO()
    np.save(file, np.asfortranarray(values) if chance(random, 0.2) else values)
    return file.getvalue()


def sounds(random):
    """The bytes of a .wav file."""
    file, width = io.BytesIO(), int(pick(random, (1, 2, 2, 2, 3, 4)))
    with wave.open(file, "wb") as out:
        out.setnchannels(int(pick(random, (1, 2))))
        out.setsampwidth(width)
        out.setframerate(int(pick(random, (1, *[8000] * 4, 16000, 44100))))
        out.writeframes(random.bytes(width * 2 * int(random.integers(0, 200))))
    data = file.getvalue()
    if chance(random, 0.05):  # floats, which the module cannot write
        data = data[:20] + struct.pack("<H", 3) + data[22:]
    return data


class Tables:
    refusals = (InputError,)

    def __init__(self, folder):
        import keras_vit.modalities  # which takes longer than any table

        self.folder, self.modalities = folder, keras_vit.modalities

    def make(self, random):
        files = {
            "files/a.png": sound("PNG", "RGB", random),
            "files/b.png": sound("PNG", "L", random),
            "files/a.wav": sounds(random),
            "files/b.wav": sounds(random),
            "files/a.npy": array(random, TRACKS),
            "files/b.npy": array(random, TRACKS),
            "files/c.npy": array(random, CLIPS),
            "files/a.csv": b"1,2\n3,4\n5,6\n",
            "files/b.csv": pick(
                random,
                (b"1,2\n",) * 6 + (b"", b"1\n2,3\n", b"a,b\n", b"1;2\n", b"nan,inf\n1,2\n", b"1,2\n\n3,4\n"),
            ),
            "files/a.gif": sound("GIF", "P", random),
        }
        for name in list(files):
            if chance(random, 0.03):
                files[name] = damaged(files[name], random)
        tables = ("examples.csv",) if chance(random, 0.6) else ("train.csv", "test.csv")
        columns = list(dict.fromkeys(["label", *(pick(random, COLUMNS[1:]) for _ in range(2))]))
        if chance(random, 0.15):
            columns.insert(int(random.integers(len(columns) + 1)), pick(random, ODD_COLUMNS))
        if chance(random, 0.03):
            columns.remove("label")
        random.shuffle(columns)
        form = "utf-8", ",", "\n"
        if chance(random, 0.5):
            form = pick(random, ENCODINGS), pick(random, SEPARATORS), pick(random, ("\n", "\r\n", "\r"))
        for name in tables:
            files[name] = self._table(columns, form, random)
        return files

    def _table(self, columns, form, random):
        encoding, separator, newline = form
        rows = [columns]
        for i in range(int(random.integers(4, 8))):
            row = [self._cell(column, i, random) for column in columns]
            if chance(random, 0.01):
                row = row[:-1] if chance(random, 0.5) else [*row, "more"]
            rows.append(row)
        quoted = chance(random, 0.3)
        if chance(random, 0.95):  # as it should be written; else not quoted where it is needed
            rows = [[self._quoted(cell, separator, quoted) for cell in row] for row in rows]
        text = newline.join(separator.join(row) for row in rows) + pick(random, ("", newline, newline * 2))
        data = text.encode(encoding, errors="replace")
        return damaged(data, random) if chance(random, 0.1) else data

    def _cell(self, column, row, random):
        if chance(random, 0.01):
            return pick(random, ODD_CELLS)
        letter = "ab"[row % 2]
        kinds = {
            "label": letter,
            "text": pick(random, ("a red cat", "a blue dog", "é 猫", "")),
            "image": f"files/{letter}.png",
            "audio": f"files/{letter}.wav",
            "action": f"files/{letter}.{pick(random, ('csv', 'npy'))}",
            "video": pick(random, ("files/c.npy", "files/a.gif")),
        }
        return kinds.get(column.strip().lower(), "1")

    def _quoted(self, cell, separator, always):
        if always or any(mark in cell for mark in (separator, '"', "\n", "\r")):
            return '"' + cell.replace('"', '""') + '"'
        return cell

    def check(self, files):
        shutil.rmtree(self.folder, ignore_errors=True)
        write(files, self.folder)
        data = load_examples(self.folder)
        for part in (data.train, data.test):
            for name, values in part.inputs.items():
                if not np.isfinite(np.asarray(values, "float64")).all():
                    raise Difference(f"what is no number was taken: {name}")
        return "accepted"

"""`Vocabulary`: texts to numbers and back, outside of the model. Pure Python and NumPy."""

import collections
import io
import os
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_vit.config import Tensor, integer
from keras_vit.errors import InputError, Notice
from keras_vit.files import atomic_write, read_regular

PADDING, UNKNOWN = 0, 1
MARKS = ("[PAD]", "[UNK]")  # words never have brackets
MOST = 2**28  # bytes of a file
# Written without spaces: Chinese characters and Japanese kana, each a word.
SPACELESS = (
    (0x3005, 0x3007),
    (0x3041, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class Vocabulary:
    """The words that a model knows: id 0 is padding, 1 an unknown word, 2 the first of `words`.

    A text is brought to Unicode's NFKC (full-width letters and digits become the usual ones) and to lower
    case, and `split`. Immutable; two of equal words are equal.

    Args:
        words: in the order of their ids, each as `split` gives it, none twice.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = tuple(words)
        self._ids: dict[str, int] = {}
        for number, word in enumerate(self.words, start=len(MARKS)):
            if not isinstance(word, str) or split(word) != [word]:
                raise InputError(
                    f"{word!r} is no word of a vocabulary: a word is one run of lower-case letters and "
                    "digits, one Chinese character or one symbol. Vocabulary.from_texts finds them."
                )
            if word in self._ids:
                raise InputError(f"the word {word!r} is in the vocabulary twice.")
            self._ids[word] = number

    @classmethod
    def from_texts(cls, texts: Iterable[str], size: int | None = None) -> "Vocabulary":
        """The words of `texts`, the most frequent first, in the order of the alphabet among equals.

        Args:
            texts: an iterable of strings.
            size: how many ids there may be, padding and unknown included; None: no limit.
        """
        if size is not None:
            integer("size", size, len(MARKS) + 1)
        counts = collections.Counter(word for text in _texts(texts) for word in split(text))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ordered if size is None else ordered[: size - len(MARKS)])

    def __len__(self):
        """How many ids there are, padding and unknown included."""
        return len(MARKS) + len(self.words)

    def __eq__(self, other):
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self):
        return hash(self.words)

    def __repr__(self):
        some = ", ".join(self.words[:3]) + (", ..." if len(self.words) > 3 else "")
        return f"Vocabulary({len(self)} ids: {some})"

    def encode(self, texts: list[str], length: int) -> np.ndarray:
        """int32 [length] for a string, [B, length] for a list: ids, then padding.

        An empty text is all padding.

        Warns:
            once, how many words of how many texts did not fit and were cut.
        """
        integer("length", length, 1)
        if isinstance(texts, str):
            return self._encode([texts], length)[0]
        return self._encode(texts, length)

    def _encode(self, texts, length):
        rows = [[self._ids.get(word, UNKNOWN) for word in split(text)] for text in _texts(texts)]
        cut = [len(row) - length for row in rows if len(row) > length]
        if cut:
            warnings.warn(
                f"{sum(cut)} {'word' if sum(cut) == 1 else 'words'} cut from {len(cut)} of {len(rows)} "
                f"texts: the model takes {length} words, and the longest text has {length + max(cut)}.",
                Notice,
                stacklevel=3,
            )
        ids = np.zeros((len(rows), length), "int32")
        for row, words in zip(ids, rows, strict=True):
            row[: len(words)] = words[:length]
        return ids

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary, each once, in their order."""
        return [word for word in dict.fromkeys(split(text)) if word not in self._ids]

    def decode(self, ids: Tensor) -> str | list[str]:
        """The text of ids [T], or a list of texts for ids [B, T]. Padding is left out, unknown is "[UNK]"."""
        ids = np.asarray(ids)
        if ids.ndim == 2:
            return [str(self.decode(row)) for row in ids]
        if (
            ids.ndim != 1
            or ids.dtype.kind not in "iu"
            or (ids.size and not 0 <= ids.min() <= ids.max() < len(self))
        ):
            raise InputError(
                f"a text is integers [T] from 0 to {len(self) - 1}, not {ids.dtype} {list(ids.shape)}"
                + (f" from {ids.min()} to {ids.max()}." if ids.size else ".")
            )
        words, text, last = (*MARKS, *self.words), "", ""
        for number in ids:
            if number == PADDING:
                continue
            word = words[number]
            glued = not text or (_is_spaceless(last) and _is_spaceless(word))
            text, last = text + ("" if glued else " ") + word, word
        return text

    def save(self, path: str | Path) -> None:
        """Write a UTF-8 text file, one word a line: an id is the number of its line, counted from 0."""
        with atomic_write(path) as temporary:
            temporary.write_text(
                "".join(f"{word}\n" for word in (*MARKS, *self.words)), encoding="utf-8", newline="\n"
            )

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """The vocabulary that `save` wrote."""
        name = os.fspath(path)
        try:
            text = read_regular(path, MOST).decode("utf-8-sig")
            lines = io.StringIO(text, newline=None).read().removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{name!r} is no UTF-8 text: {error}.") from error
        if tuple(lines[: len(MARKS)]) != MARKS:
            raise InputError(
                f"{name!r} is no vocabulary: its first lines must be {' and '.join(MARKS)}, then words."
            )
        try:
            return cls(lines[len(MARKS) :])
        except InputError as error:
            raise InputError(f"{name!r}: {error}") from error


def split(text: str) -> list[str]:
    """The words of a text.

    A word is a run of letters, digits and the marks on them; a Chinese character or a kana; or a symbol, such
    as an emoji or "+". Punctuation and spaces part words and are left out; invisible characters are left out.
    """
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).lower())
    words, run = [], ""
    for character in normal:
        kind = unicodedata.category(character)
        if _is_spaceless(character):
            words += [run, character]
            run = ""
        elif kind[0] in "LN" or (kind[0] == "M" and run):
            run += character
        elif kind[0] != "M":
            # A newer Unicode's emoji are unassigned in this one (Cn).
            words += [run, character if kind[0] == "S" or kind == "Cn" else ""]
            run = ""
    return [word for word in (*words, run) if word]


def _is_spaceless(word):
    return len(word) == 1 and any(first <= ord(word) <= last for first, last in SPACELESS)


def _texts(texts):
    """`texts`, one by one; an InputError at the first that is no string."""
    if isinstance(texts, str):
        raise InputError(f"expected a list of texts, not the single text {texts[:40]!r}: use [text].")
    for text in texts:
        if not isinstance(text, str):
            raise InputError(
                f"a text must be a string, not {type(text).__name__}: use '' where there is none, and "
                "decode bytes first."
            )
        yield text

"""Texts to ids and back: every script, what is left out, the file, mistakes."""

import os
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest

from keras_vit.errors import InputError
from keras_vit.modalities import Vocabulary
from keras_vit.modalities.vocabulary import split


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is the RED ball?", ["what", "is", "the", "red", "ball"]),
        ("don't re-use  it's\tok\n", ["don", "t", "re", "use", "it", "s", "ok"]),
        ("224 pixels, 3d x2", ["224", "pixels", "3d", "x2"]),
        ("红色的球是什么形状？", ["红", "色", "的", "球", "是", "什", "么", "形", "状"]),
        ("这是red球 number３", ["这", "是", "red", "球", "number3"]),
        ("ＦＵＬＬ　ｗｉｄｔｈ！，。", ["full", "width"]),
        ("赤いボール 々", ["赤", "い", "ボ", "ー", "ル", "々"]),
        ("كرة حَمْراء؟", ["كرة", "حَمْراء"]),  # right to left, with marks inside a word
        ("כדור \u200fאדום\u202c", ["כדור", "אדום"]),  # and invisible signs of direction
        ("लाल गेंद", ["लाल", "गेंद"]),
        ("Ωμέγα ΑΣ Straße", ["ωμέγα", "ας", "straße"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("I ❤️ 👩‍👧 2+3=5", ["i", "❤", "👩", "👧", "2", "+", "3", "=", "5"]),
        ("so\u00adft e\u200d\u0301", ["soft", "é"]),
        ("x\u0000y\ud800z\u2028w_v", ["x", "y", "z", "w", "v"]),
        ("", []),
        (" ?!,。 \ufe0f\u0301", []),
    ],
)
def test_a_text_is_split_into_words(text, words):
    assert split(text) == words


def test_a_word_is_split_into_itself():
    """Otherwise `from_texts` would find words that the vocabulary then refuses."""
    random.seed(0)
    for point in (*range(0x32000), *range(0x32000, 0x110000, 37)):
        assert all(split(word) == [word] for word in split(chr(point))), hex(point)
    pools = [
        range(0x20, 0x250),
        range(0x300, 0x370),
        range(0x590, 0xE00),
        range(0x1E00, 0x2000),
        range(0x110000),
    ]
    for _ in range(20000):
        text = "".join(chr(random.choice(random.choice(pools))) for _ in range(6))
        assert all(split(word) == [word] for word in split(text)), ascii(text)


VOCABULARY = Vocabulary(["red", "ball", "球", "红", "❤"])


def test_ids_are_places_and_0_and_1_are_taken():
    assert len(VOCABULARY) == 7
    found = VOCABULARY.encode("A red 红球 ball ❤", 8)
    assert found.dtype == "int32"
    np.testing.assert_array_equal(found, [1, 2, 5, 4, 3, 6, 0, 0])
    found = VOCABULARY.encode(["red", "", "shape 🙂 red"], 3)
    np.testing.assert_array_equal(found, [[2, 0, 0], [0, 0, 0], [1, 1, 2]])
    assert VOCABULARY.encode([], 3).shape == (0, 3)


def test_ids_become_text_again():
    assert VOCABULARY.decode([2, 5, 4, 3, 0, 0]) == "red 红球 ball"
    assert VOCABULARY.decode([[1, 2, 0], [0, 0, 0]]) == ["[UNK] red", ""]
    text = "red 红球 ball ❤"
    assert VOCABULARY.decode(VOCABULARY.encode(text, 9)) == text
    assert VOCABULARY.decode(np.zeros((0,), int)) == ""
    for ids in ([7], [-1], [0.5], 3, [[[1]]]):
        with pytest.raises(InputError, match=r"integers .* from 0 to 6"):
            VOCABULARY.decode(ids)


def test_what_is_cut_is_told_once():
    texts = ["red ball red", "red", "ball ball ball ball ball"]
    with pytest.warns(UserWarning) as record:
        found = VOCABULARY.encode(texts, 2)
    assert [str(w.message) for w in record] == [
        "4 words cut from 2 of 3 texts: the model takes 2 words, and the longest text has 5."
    ]
    assert record[0].filename == __file__
    np.testing.assert_array_equal(found, [[2, 3], [2, 0], [3, 3]])
    with pytest.warns(UserWarning, match="1 word cut from 1 of 1 texts"):
        VOCABULARY.encode("red ball", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VOCABULARY.encode("red ball", 2)


def test_the_most_frequent_words_come_first():
    texts = ["b a c", "B a", "b 球", "d?"]
    assert Vocabulary.from_texts(texts).words == ("b", "a", "c", "d", "球")
    small = Vocabulary.from_texts(iter(texts), size=4)
    assert small.words == ("b", "a") and len(small) == 4
    assert Vocabulary.from_texts([]).words == ()
    assert small == Vocabulary(["b", "a"]) and hash(small) == hash(Vocabulary(["b", "a"]))
    assert small != Vocabulary(["a", "b"]) and small != ("b", "a")
    assert repr(Vocabulary.from_texts(texts)) == "Vocabulary(7 ids: b, a, c, ...)"


def test_the_file_is_one_word_a_line_and_its_lines_are_the_ids(tmp_path):
    path = tmp_path / "folder" / "words.txt"
    VOCABULARY.save(path)
    assert path.read_bytes().decode("utf-8") == "[PAD]\n[UNK]\nred\nball\n球\n红\n❤\n"
    assert path.read_text(encoding="utf-8").splitlines()[VOCABULARY.encode("球", 1)[0]] == "球"
    assert Vocabulary.load(path) == VOCABULARY
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))  # as Windows writes it
    assert Vocabulary.load(str(path)) == VOCABULARY
    Vocabulary([]).save(path)
    assert Vocabulary.load(path) == Vocabulary([])
    assert [file.name for file in path.parent.iterdir()] == ["words.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is no vocabulary: its first lines must be \[PAD\] and \[UNK\]"),
        (b"red\nball\n", "is no vocabulary"),
        (b"[PAD]\n[UNK]\nred\nred\n", "the word 'red' is in the vocabulary twice"),
        (b"[PAD]\n[UNK]\nRed\n", "'Red' is no word"),
        (b"[PAD]\n[UNK]\nred\n\nball\n", "'' is no word"),
        (b"[PAD]\n[UNK]\nred ball\n", "'red ball' is no word"),
        (b"\x89PNG\xff", "is no UTF-8 text"),
    ],
)
def test_another_file_is_refused(tmp_path, content, message):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        Vocabulary.load(path)
    assert str(path) in str(error.value)
    os.mkfifo(tmp_path / "a pipe")
    with pytest.raises(InputError, match="is no regular file, but a named pipe"):
        Vocabulary.load(tmp_path / "a pipe")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Vocabulary.load(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: Vocabulary(["red", 3]), "3 is no word"),
        (lambda: Vocabulary(["[UNK]"]), r"'\[UNK\]' is no word"),
        (
            lambda: Vocabulary.from_texts("red ball"),
            r"expected a list of texts, not the single text 'red ball'",
        ),
        (lambda: Vocabulary.from_texts(["red", None]), "a text must be a string, not NoneType: use ''"),
        (lambda: Vocabulary.from_texts(["red"], size=2), "size must be an integer from 3, not 2"),
        (lambda: VOCABULARY.encode([b"red"], 3), "must be a string, not bytes"),
        (lambda: VOCABULARY.encode("red", 0), "length must be a positive integer, not 0"),
    ],
)
def test_mistakes_are_told(use, message):
    with pytest.raises(InputError, match=message):
        use()


def test_the_modules_of_text_and_sound_import_no_tensorflow():
    code = (
        "import sys; import keras_vit; assert 'keras' not in sys.modules; "
        "import os; os.environ['KERAS_BACKEND'] = 'numpy'; "
        "before = 'tensorflow' in sys.modules; import keras; theirs = 'tensorflow' in sys.modules; "
        "keras_vit.modalities.Vocabulary; assert theirs or 'tensorflow' not in sys.modules; "
        "assert 'scipy.signal' not in sys.modules and 'scipy.io' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

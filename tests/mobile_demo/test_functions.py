"""The page's own arithmetic against Python's: resizing, words, and what a model file says of itself."""

import base64

import numpy as np
import pytest
from PIL import Image

from keras_vit.answers import ranked
from keras_vit.data.decoding import decode, fit
from keras_vit.modalities import Vocabulary
from keras_vit.modalities.vocabulary import split

# height, width -> target; up, down, both, exact, one pixel, odd halves that must round to the even number
SIZES = [
    ((480, 640), (224, 224)),
    ((37, 53), (224, 224)),
    ((300, 1000), (32, 40)),
    ((1000, 31), (32, 40)),
    ((32, 40), (32, 40)),
    ((32, 41), (32, 40)),
    ((1, 1), (8, 8)),
    ((2, 3), (7, 5)),
    ((5, 2), (3, 3)),
    ((1200, 1600), (224, 224)),
    ((64, 80), (32, 40)),
    ((13, 14), (7, 7)),
]


def as_case(rgba, target):
    height, width = rgba.shape[:2]
    encoded = base64.b64encode(rgba.tobytes()).decode()
    return "fit", {"height": height, "width": width, "rgba": encoded, "target": target}


def fitted(answer, target):
    return np.frombuffer(base64.b64decode(answer), np.uint8).reshape(*target, 3)


def pictures():
    """(RGBA, target): noise and sharp edges, opaque, which are the hardest to round alike."""
    random = np.random.default_rng(0)
    for (height, width), target in SIZES:
        rgba = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        rgba[..., 3] = 255
        rgba[height // 2 :, : width // 2, :3] = 255
        yield rgba, target


def test_resizing_equals_pythons_pixel_by_pixel(call):
    cases = list(pictures())
    for (rgba, target), answer in zip(cases, call([as_case(*case) for case in cases]), strict=True):
        expected = fit(np.ascontiguousarray(rgba[..., :3]), target)
        np.testing.assert_array_equal(fitted(answer, target), expected, err_msg=str(rgba.shape))


def test_transparency_shows_white_as_in_python(call, tmp_path):
    random = np.random.default_rng(1)
    rgba = random.integers(0, 256, (50, 70, 4), dtype=np.uint8)
    rgba[:10, :, 3], rgba[10:20, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    for target in ((50, 70), (32, 40)):
        (answer,) = call([as_case(rgba, target)])
        np.testing.assert_array_equal(
            fitted(answer, target), decode(tmp_path / "clear.png", target), err_msg=str(target)
        )


def test_a_picture_that_is_too_long_and_thin_is_refused_where_python_refuses_it(call):
    thin = np.full((1, 5000, 4), 255, np.uint8)
    assert call([as_case(thin, (224, 224))]) == ["too thin"]
    with pytest.raises(ValueError, match="too long and thin"):
        fit(np.ascontiguousarray(thin[..., :3]), (224, 224))


def test_grey_is_pillows(call):
    """On every grey, and on colours that round up and down."""
    random = np.random.default_rng(2)
    rgb = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    rgb[:5, :50] = np.arange(250).reshape(5, 50, 1)
    (answer,) = call([("luma", base64.b64encode(rgb.tobytes()).decode())])
    grey = np.frombuffer(base64.b64decode(answer), np.uint8).reshape(40, 50)
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(rgb).convert("L")))


TEXTS = [
    "",
    "A red circle, isn't it?",
    "红色的圆形在左边。",
    "mixed 中文 and english123 4.5",
    "ＦＵＬＬ width ｔｅｘｔ １２",
    "Straße ΣΊΣΥΦΟΣ İstanbul ǅ ﬁne",
    "e\u0301le\u0300ve \u0301alone a\u0301\u0302b",
    "zero\u200bwidth soft\u00adhyphen \ufeffmark",
    "😀😀 + = € © x²",
    "カタカナ ひらがな 々〆 ｶﾞ",
    "हिन्दी ไทย العربية עִבְרִית",
    "tab\tnew\nline\u3000space _under_ a-b",
    "𠀀 𝒳 \U0001f469\u200d\U0001f469 ½ Ⅷ",
]


def test_words_are_pythons(call):
    assert call([("split", text) for text in TEXTS]) == [split(text) for text in TEXTS]


def test_every_character_makes_the_words_that_it_makes_in_python(call):
    """All planes that have letters, 64 at a time; not the unassigned ones, since Unicode grows."""
    import unicodedata

    texts = []
    for start in [*range(0, 0x30000, 64), *range(0xE0000, 0xE0200, 64)]:
        block = [chr(code) for code in range(start, start + 64)]
        kinds = [unicodedata.category(character) for character in block]
        texts.append(" ".join(c for c, kind in zip(block, kinds, strict=True) if kind not in ("Cn", "Cs")))
    assert call([("split", text) for text in texts]) == [split(text) for text in texts]


def test_ids_are_pythons(call):
    words = ["a", "red", "circle", "红", "圆"]
    vocabulary = Vocabulary(words)
    given = ["a red circle", "A RED 圆 square of square", "红圆红圆红圆", ""]
    cases = [("encode", {"text": text, "words": words, "length": 6}) for text in given]
    answers = call(cases)
    assert [answer["ids"] for answer in answers] == vocabulary.encode(given, 6).tolist()
    assert [answer["unknown"] for answer in answers] == [vocabulary.unknown(text) for text in given]
    (cut,) = call([("encode", {"text": "a red circle", "words": words, "length": 2})])
    assert (cut["ids"], cut["cut"]) == ([2, 3], 1)


def test_a_quantized_output_keeps_its_scale(call, convert, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    path = convert(lambda x: x[:, 0, :, 0] / 256.0, tmp_path / "q.tflite", (8, 8), representative=pixels)
    (layout,) = call([("layout", str(path))])
    assert layout["inputs"][0]["dtype"] == layout["answer"]["dtype"] == "uint8"
    from ai_edge_litert.interpreter import Interpreter

    output = Interpreter(str(path)).get_signature_runner("serving_default").get_output_details()
    scale, zero_point = output["probability"]["quantization"]
    assert layout["answer"]["scale"] == pytest.approx(scale)
    assert layout["answer"]["zeroPoint"] == zero_point


def test_guesses_are_pythons_also_of_one_class(call):
    random = np.random.default_rng(0)
    cases = [
        (random.normal(size=7).tolist(), True, [f"c{i}" for i in range(7)]),
        (random.uniform(size=7).tolist(), False, [f"c{i}" for i in range(7)]),
        ([0.25], False, ["fine", "defect"]),
        ([0.75], False, ["fine", "defect"]),
        ([0.25], False, ["defect"]),
        ([-3.5], True, ["millimetres"]),
    ]
    asked = [
        ("ranked", {"values": values, "logits": logits, "labels": labels, "top": 5})
        for values, logits, labels in cases
    ]
    found = [[(guess["label"], guess["value"]) for guess in answer] for answer in call(asked)]
    assert found == [ranked(values, labels, 5) for values, _, labels in cases]
    assert found[2] == [("fine", 0.75), ("defect", 0.25)] and found[4] == [("defect", 0.25)]
    unnamed = {"values": [0.25], "logits": False, "labels": ["a", "b", "c"], "top": 5}
    (guesses,) = call([("ranked", unnamed)])
    assert guesses == [{"label": "class 0", "value": 0.75}, {"label": "class 1", "value": 0.25}]


def test_what_is_no_model_for_the_page_says_why(call, convert, tmp_path):
    (tmp_path / "text.tflite").write_text("this is no model, whatever its name says")
    (tmp_path / "empty.tflite").write_bytes(b"")
    other = convert(lambda x: x[:, 0, :, 0], tmp_path / "other.tflite", (8, 8), key="classify")
    square = convert(lambda x: x, tmp_path / "square.tflite", (8, 8))
    (tmp_path / "cut.tflite").write_bytes(square.read_bytes()[:200])
    names = [tmp_path / f"{name}.tflite" for name in ("text", "empty", "cut")]
    answers = call([("layout", str(path)) for path in (*names, other, square)])
    assert [answer["code"] for answer in answers] == ["notTflite"] * 3 + ["badSignature"] * 2
    assert answers[3]["details"][1] == "classify"
    assert "probability [1, 8, 8, 3]" in answers[4]["details"][1]

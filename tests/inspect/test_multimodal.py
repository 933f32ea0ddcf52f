"""What a multimodal model looked at: shares against NumPy, and the picture that shows them."""

import numpy as np
import pytest
from PIL import Image as Pillow
from random_weights import randomize

from keras_vit import MultimodalViT
from keras_vit.errors import InputError
from keras_vit.inspect import draw_multimodal_explanation, features, token_shares
from keras_vit.modalities import Image, Text, Vocabulary

WORDS = Vocabulary(["red", "blue", "猫"])


def model(sentence=None, fusion="single_stream"):
    modalities = {"image": Image(8, 4), "text": Text(WORDS, length=3, sentence=sentence)}
    return randomize(MultimodalViT(modalities, width=16, depth=2, num_heads=2, num_classes=3, fusion=fusion))


def raw():
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("float32")
    ids = np.array([[2, 3, 0], [4, 0, 0]], "int32")
    return {"image": image, "text": ids, "present": np.array([[1, 1], [1, 0]], "float32")}


def rollout(whole, inputs):
    """The row of [CLS] of the product of both blocks, [B, N], as whole matrices."""
    maps = features(whole, inputs, [f"block_{i}.attention.probabilities" for i in range(2)])
    first, last = (x.astype("float64").mean(axis=1) for x in maps.values())
    first = first + np.eye(first.shape[-1])
    last = last + np.eye(first.shape[-1])[:1]
    first, last = (x / x.sum(axis=-1, keepdims=True) for x in (first, last))
    return (last @ first)[:, 0]


@pytest.mark.parametrize(("fusion", "before"), [("single_stream", 1), ("bottleneck", 5)])
def test_shares_are_the_rollout_of_the_trunk(fusion, before):
    whole = model(fusion=fusion)
    inputs = whole.prepare(raw())
    shares, expected = token_shares(whole, inputs), rollout(whole, inputs)
    np.testing.assert_allclose(shares["image"], expected[:, before : before + 4], atol=1e-6)
    np.testing.assert_allclose(shares["text"], expected[:, before + 4 :], atol=1e-6)
    assert shares["text"][0, :2].min() > 0 and shares["text"][0, 2] == 0, "padding has no share"
    assert not shares["text"][1].any(), "what is absent has no share"


def test_a_visual_sentence_hands_its_share_to_the_words():
    whole = model(sentence=2)
    inputs = whole.prepare(raw())
    shares, expected = token_shares(whole, inputs), rollout(whole, inputs)
    looks = features(whole, inputs, ["text.decoder_0.cross_attention.probabilities"])
    weights = next(iter(looks.values())).mean(axis=1)[0]  # [2 tokens, 3 words]
    np.testing.assert_allclose(shares["text"][0], expected[0, 5:] @ weights, atol=1e-6)
    np.testing.assert_allclose(shares["text"][0].sum(), expected[0, 5:].sum(), atol=1e-6)


def test_the_picture_shows_it_all(tmp_path):
    whole, example = model(sentence=2), {name: x[:1] for name, x in raw().items()}
    predictions = draw_multimodal_explanation(whole, example, tmp_path / "why.png", ["a", "b", "c"])
    logits = np.asarray(whole(whole.prepare(example)))[0]
    assert [label for label, _ in predictions] == [["a", "b", "c"][i] for i in np.argsort(-logits)]
    np.testing.assert_allclose(sum(p for _, p in predictions), 1, atol=1e-6)
    with Pillow.open(tmp_path / "why.png") as picture:
        assert picture.width > 1500 and len(set(picture.convert("RGB").resize((200, 50)).getdata())) > 100
    with pytest.raises(InputError, match="2 labels for a model of 3 classes"):
        draw_multimodal_explanation(whole, example, tmp_path / "why.png", ["a", "b"])

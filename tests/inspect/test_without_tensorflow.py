"""`keras_vit.inspect` is pure Keras: all of it, on another backend, where TensorFlow cannot be imported."""

import os
import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tf_keras", "keras_cv", "tensorflow_model_optimization"):
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocked())
folder = Path(sys.argv[1])

import keras
import numpy as np
from PIL import Image as Pillow

from keras_vit import MaskedViT, MultimodalViT, ViT, inspect
from keras_vit.modalities import Image, Text, Vocabulary

random = np.random.default_rng(0)
SHAPE = {"width": 8, "depth": 2, "num_heads": 2, "mlp_width": 8}
model = ViT("Nano/4", 8, 3, **SHAPE)
for w in model.weights:
    w.assign(random.normal(size=w.shape))
pixels = random.integers(0, 256, (2, 8, 8, 3)).astype("uint8")
images = model.prepare(pixels)

assert "block_1.attention.probabilities" in inspect.feature_names(model)
maps = inspect.attention_maps(model, images)
np.testing.assert_allclose(inspect.features(model, images, ["block_1.attention.probabilities"])[
    "block_1.attention.probabilities"], maps[1])
# Abnar and Zuidema's formula in NumPy: [CLS] is the first of 5 tokens.
mixed = [m.mean(axis=1) + np.eye(5) for m in maps]
mixed = [m / m.sum(axis=-1, keepdims=True) for m in mixed]
expected = (mixed[1] @ mixed[0])[:, 0, 1:].reshape(2, 2, 2)
np.testing.assert_allclose(inspect.attention_rollout(model, images), expected, atol=1e-6)
table = keras.ops.convert_to_numpy(model.positions.encode())[0].astype("float64")
table /= np.linalg.norm(table, axis=1, keepdims=True)
np.testing.assert_allclose(inspect.position_similarity(model), table @ table.T, atol=1e-6)

names = ["cat", "dog", "owl"]
probabilities = np.exp(keras.ops.convert_to_numpy(model(images[:1]))[0].astype("float64"))
probabilities /= probabilities.sum()
Pillow.fromarray(pixels[0]).save(folder / "image.png")
model.save(folder / "model.keras")
(folder / "labels.txt").write_text("\\n".join(names))
for answer in (
    inspect.draw_explanation(model, pixels[0], folder / "explanation.png", names),
    inspect.explain(folder / "model.keras", folder / "image.png", folder / "explained.png"),
):
    assert [name for name, _ in answer] == [names[i] for i in np.argsort(-probabilities)]
    np.testing.assert_allclose([p for _, p in answer], np.sort(probabilities)[::-1], atol=1e-5)
inspect.draw_position_similarity(model, folder / "similarity.png")
inspect.draw_reconstructions(
    MaskedViT(ViT("Nano/4", 8, None, **SHAPE), 0.5), pixels, folder / "reconstructions.png"
)

parts = {"image": Image(8, 4), "text": Text(Vocabulary.from_texts(["a red cat"]), length=4)}
both = MultimodalViT(parts, width=8, depth=1, num_heads=2, num_classes=3)
(folder / "both").mkdir()
both.save(folder / "both" / "model.keras")
inspect.explain(folder / "both" / "model.keras", folder / "image.png", folder / "both.png", text="a red cat")
shares = inspect.token_shares(both, {"image": images[:1], "text": np.array([[2, 3, 0, 0]], "int32")})
assert shares["image"].shape == (1, 4) and shares["text"].shape == (1, 4)
assert 0 < shares["image"].sum() + shares["text"].sum() < 1 and not shares["text"][0, 2:].any()

assert sorted(inspect.__all__) == sorted([
    "attention_maps", "attention_rollout", "draw_explanation", "draw_multimodal_explanation",
    "draw_position_similarity", "draw_reconstructions", "explain", "feature_names", "features",
    "position_similarity", "token_shares",
])
for name in ("explanation", "explained", "similarity", "reconstructions", "both"):
    assert Pillow.open(folder / f"{name}.png").size[0] > 100
print(keras.backend.backend(), "tensorflow" in sys.modules)
"""


def test_all_of_it_runs_where_tensorflow_cannot_be_imported(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.split() == ["numpy", "False"]

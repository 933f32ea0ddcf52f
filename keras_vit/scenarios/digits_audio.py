"""Digits seen and heard, both badly: what one sense confuses, the other one tells apart.

    keras-vit demo --scenario digits-audio

By the command, one run of 2,000 held-out examples: 97.4% from both, 85.5% from pictures by a model of
pictures alone and 83.8% from sounds by one of sounds alone. Goal: each alone below 90%, both above 97%.
153,418 parameters, 3 minutes on two cores for the three.

The picture is a handwritten 8 x 8 digit with a blot on it and noise. The sound is the key of a telephone: two
tones at once, one for the row and one for the column of the keypad (ITU-T Q.23), in noise louder than they
are, over a line that swallows one of them now and then. The other one leaves three or four digits that it
may have been; what a blot leaves are others.
"""

import numpy as np

from keras_vit.data.examples import Examples, MultimodalData
from keras_vit.errors import InputError
from keras_vit.modalities import Audio, Image
from keras_vit.scenarios.digits import assembled, drawn, grey, handwritten

RATE, SAMPLES = 8000, 4096  # Hz; about half a second
ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz
KEYS = ("123", "456", "789", "*0#")
NOISE = 0.1  # of the sound: standard deviation
QUIET, LOUD = -14.0, -4.0  # dB: power of a tone over that of the noise
LOST = 0.12  # share of the tones that do not arrive
BLOT = 3  # pixels: its side
GRAIN = 0.24  # of the picture: standard deviation of the noise, where ink is 1
TRAIN, TEST = 12000, 2000

ALONE = ("image", "audio")
MODEL = {"width": 64, "depth": 4, "num_heads": 4, "mlp_width": 128, "modality_dropout": 0.2, "dropout": 0.1}
TRAINING = {
    "epochs": 12,
    "batch_size": 128,
    "learning_rate": 2e-3,
    "warmup_epochs": 1,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
}


def make(seed: int = 0) -> MultimodalData:
    """`MultimodalData` with "image" uint8 [N, 8, 8, 3] and "audio" float32 [N, 4096] at 8 kHz."""
    halves = handwritten(seed)
    train, test = [
        _examples(*half, count, np.random.default_rng([seed, i]))
        for i, (half, count) in enumerate(zip(halves, (TRAIN, TEST), strict=True))
    ]
    modalities = {
        "image": Image(8, 2),
        "audio": Audio(SAMPLES, RATE, patch_size=(4, 64), mels=64, window=512, hop=256),
    }
    return assembled(train, test, [str(k) for k in range(10)], modalities, "digits-audio")


def tones(digit: int) -> tuple[int, int]:
    """(row, column) of a telephone's key, in Hz."""
    for keys, row in zip(KEYS, ROWS, strict=True):
        if digit in range(10) and str(digit) in keys:
            return row, COLUMNS[keys.index(str(digit))]
    raise InputError(f"{digit!r} has no key here: give a digit from 0 to 9.")


def sound(digit: int, levels: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """The key of a digit in white noise.

    Args:
        digit: 0 to 9.
        levels: power of the (row, column) tone over that of the noise, in dB; -inf for none.
        rng: a NumPy generator: of phases and noise.

    Returns:
        float32 [SAMPLES] in [-1, 1].
    """
    wave, time = rng.normal(0, NOISE, SAMPLES), np.arange(SAMPLES) / RATE
    for frequency, level in zip(tones(digit), levels, strict=True):
        amplitude = np.sqrt(2) * NOISE * 10 ** (level / 20)
        wave += amplitude * np.sin(2 * np.pi * (frequency * time + rng.random()))
    return np.clip(wave, -1, 1).astype("float32")


def blotted(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures [N, 8, 8] with a square of half-tone at a random place of each, and noise all over."""
    pictures = pictures.copy()
    corners = rng.integers(0, 8 - BLOT + 1, (len(pictures), 2))
    for picture, (top, left) in zip(pictures, corners, strict=True):
        picture[top : top + BLOT, left : left + BLOT] = 0.5
    return pictures + rng.normal(0, GRAIN, pictures.shape)


def _examples(pictures, labels, count, rng):
    rows = drawn(labels, 10, count, rng)
    levels = np.where(rng.random((count, 2)) < LOST, -np.inf, rng.uniform(QUIET, LOUD, (count, 2)))
    return Examples(
        {
            "image": grey(blotted(pictures[rows], rng)),
            "audio": np.stack(
                [sound(labels[row], level, rng) for row, level in zip(rows, levels, strict=True)]
            ),
        },
        labels[rows],
    )

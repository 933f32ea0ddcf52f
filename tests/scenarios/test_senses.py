"""The worlds of sound, motion, gestures and few labels: is in them what their labels say?"""

import numpy as np
import pytest

from keras_vit.errors import InputError
from keras_vit.scenarios import digits, digits_audio, gestures, moving_digits, pretraining

WORLDS = {
    "digits-audio": (digits_audio, {"image": (8, 8, 3), "audio": (4096,)}),
    "moving-digits": (moving_digits, {"video": (9, 24, 24, 3)}),
    "gestures": (gestures, {"action": (32, 4)}),
    "pretraining": (pretraining, {"image": (32, 32, 3)}),
}


@pytest.fixture(params=WORLDS)
def world(request, monkeypatch):
    module, shapes = WORLDS[request.param]
    monkeypatch.setattr(module, "TRAIN", 200)
    monkeypatch.setattr(module, "TEST", 120)
    return module, shapes


def test_examples_are_what_the_modalities_take_balanced_and_made_by_the_seed(world):
    module, shapes = world
    data = module.make(seed=3)
    assert set(data.modalities) == set(shapes)
    for examples, count in ((data.train, 200), (data.test, 120)):
        np.testing.assert_array_equal(
            np.bincount(examples.labels, minlength=len(data.labels)), count // len(data.labels)
        )
        assert examples.labels.dtype == np.int32
        for name, shape in shapes.items():
            values = examples.inputs[name]
            assert values.shape == (count, *shape) and shape == data.modalities[name].signature()["shape"]
            if name in ("image", "video"):
                assert values.dtype == np.uint8 and values.min() < 60 and values.max() > 200
                np.testing.assert_array_equal(values[..., 0], values[..., 2])
            else:
                assert values.dtype == np.float32
                assert name != "audio" or np.abs(values).max() <= 1
    same, other = module.make(seed=3), module.make(seed=4)
    assert same.fingerprint == data.fingerprint != other.fingerprint
    for name in shapes:
        np.testing.assert_array_equal(same.test.inputs[name], data.test.inputs[name])
        assert not np.array_equal(data.train.inputs[name][:120], data.test.inputs[name])


def test_digits_are_split_once_class_by_class():
    (train, train_labels), (test, test_labels) = digits.handwritten(5)
    assert len(train) + len(test) == 1797
    assert not {picture.tobytes() for picture in train} & {picture.tobytes() for picture in test}
    shares = np.bincount(test_labels) / (np.bincount(test_labels) + np.bincount(train_labels))
    np.testing.assert_allclose(shares, 1 / digits.HELD_OUT, atol=0.005)
    assert not np.array_equal(test, digits.handwritten(6)[1][0])


def test_a_draw_uses_every_example_of_a_class_before_one_comes_again():
    labels = np.array([0, 0, 0, 1, 1])
    counts = np.bincount(digits.drawn(labels, 2, 12, np.random.default_rng(0)), minlength=5)
    np.testing.assert_array_equal(counts, [2, 2, 2, 3, 3])


@pytest.mark.parametrize("digit", range(10))
def test_a_fourier_transform_finds_the_tones_of_the_key(digit):
    # ITU-T Q.23, written down once more: the keypad read from left to right, from top to bottom.
    place = 10 if digit == 0 else digit - 1
    expected = {(697, 770, 852, 941)[place // 3], (1209, 1336, 1477)[place % 3]}
    wave = digits_audio.sound(digit, (-4, -4), np.random.default_rng(digit))
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    peaks = []
    for _ in range(2):
        peaks.append(power.argmax() * digits_audio.RATE / digits_audio.SAMPLES)
        power[max(0, power.argmax() - 8) : power.argmax() + 9] = 0
    np.testing.assert_allclose(sorted(peaks), sorted(expected), atol=2)


def test_what_is_no_digit_has_no_tones():
    with pytest.raises(InputError, match="11 has no key"):
        digits_audio.tones(11)


def test_the_level_of_a_tone_is_its_power_over_that_of_the_noise():
    powers = []
    for levels in ((-6, -np.inf), (-np.inf, -np.inf)):
        waves = [digits_audio.sound(5, levels, np.random.default_rng(i)) for i in range(30)]
        powers.append(np.mean(np.square(waves)))
    assert 10 * np.log10((powers[0] - powers[1]) / powers[1]) == pytest.approx(-6, abs=0.3)


def test_the_sound_says_at_most_what_the_line_lets_through():
    """Of 4 recordings about 1 has lost a tone: a listener who knows the code is right in 78% to 88%."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 10
    waves = digits_audio._examples(np.zeros((10, 8, 8)), np.arange(10), 600, rng)
    frequencies = np.array(digits_audio.ROWS + digits_audio.COLUMNS)
    time = np.arange(digits_audio.SAMPLES) / digits_audio.RATE
    power = np.abs(waves.inputs["audio"] @ np.exp(-2j * np.pi * np.outer(time, frequencies))) ** 2
    heard = np.stack([power[:, np.isin(frequencies, digits_audio.tones(k))].sum(axis=1) for k in range(10)])
    assert 0.78 < np.mean(heard.argmax(axis=0) == waves.labels) < 0.88
    assert sorted(waves.labels) == sorted(labels)


def test_a_blot_and_noise_change_a_picture_and_leave_the_original():
    pictures = np.random.default_rng(0).random((500, 8, 8))
    before = pictures.copy()
    blotted = digits_audio.blotted(pictures, np.random.default_rng(1))
    np.testing.assert_array_equal(pictures, before)
    noise = blotted - pictures
    # Outside of the blots only the noise is left: three quarters of the pixels.
    assert np.median(np.abs(noise)) == pytest.approx(0.6745 * digits_audio.GRAIN, rel=0.25)
    assert np.abs(np.mean(blotted - 0.5)) < 0.02


def _centres(clip):
    """Centre of mass of each frame [T, H, W, 3] without the noise: [T, 2]."""
    ink = np.where(clip[..., 0] > 110, clip[..., 0], 0).astype(float)
    rows, columns = np.indices(ink.shape[1:])
    return np.stack([(ink * axis).sum((1, 2)) / ink.sum((1, 2)) for axis in (rows, columns)], axis=1)


def test_the_digit_moves_in_the_direction_of_its_label():
    examples = moving_digits._examples(digits.handwritten()[0][0], 80, np.random.default_rng(0))
    for clip, label in zip(examples.inputs["video"], examples.labels, strict=True):
        steps = np.diff(_centres(clip).reshape(3, 3, 2), axis=1)  # within the sweeps
        name = list(moving_digits.DIRECTIONS)[label]
        along, sign = {"left": (1, -1), "right": (1, 1), "up": (0, -1), "down": (0, 1)}[name]
        np.testing.assert_allclose(steps[..., 1 - along], 0, atol=1)
        assert (steps[..., along] * sign > 2).all()


def test_without_their_order_the_frames_are_the_same_for_every_direction():
    sets = set()
    for name in moving_digits.DIRECTIONS:
        track = moving_digits.places(name, (4, 5), (1, 2), np.random.default_rng(0))
        assert len(track) == moving_digits.FRAMES
        sets.add(tuple(sorted(map(tuple, track.tolist()))))
    assert sets == {tuple((1 + 4 * i, 2 + 5 * j) for i in range(3) for j in range(3))}


def test_controls_take_time_away_and_nothing_else():
    examples = moving_digits._examples(digits.handwritten()[0][0], 20, np.random.default_rng(0))
    clips = examples.inputs["video"]
    still = moving_digits.one_frame(examples, seed=1)
    mixed = moving_digits.shuffled(examples, seed=1)
    np.testing.assert_array_equal(still.labels, examples.labels)
    assert len({frames[0].tobytes() for frames in still.inputs["video"]}) == 20
    moved = 0
    for clip, frozen, other in zip(clips, still.inputs["video"], mixed.inputs["video"], strict=True):
        assert (frozen == frozen[0]).all() and any((frozen[0] == frame).all() for frame in clip)
        assert sorted(f.tobytes() for f in other) == sorted(f.tobytes() for f in clip)
        moved += not np.array_equal(clip, other)
    assert moved == 20


def _turning(points):
    """How often a track winds around its middle, counter-clockwise positive."""
    angles = np.unwrap(np.arctan2(*(points - points.mean(axis=0)).T[::-1]))
    return (angles[-1] - angles[0]) / (2 * np.pi)


def _distances(points, middle):
    return np.hypot(*(points - middle).T)


@pytest.mark.parametrize("seed", range(10))
def test_gestures_have_the_geometry_of_their_names(seed):
    tracks = {
        name: gestures.track(name, np.random.default_rng([seed, i]), tremble=0.0)[:, :2].astype(float)
        for i, name in enumerate(gestures.GESTURES)
    }
    assert _turning(tracks["circle clockwise"]) == pytest.approx(-1, abs=0.1)
    assert _turning(tracks["circle counter-clockwise"]) == pytest.approx(1, abs=0.1)
    for name in ("circle clockwise", "square", "triangle", "figure eight"):  # closed
        assert _distances(tracks[name][:1], tracks[name][-1]) == pytest.approx([0], abs=1e-6)
    for name, corners in {"swipe": 0, "tick": 1, "zigzag": 3, "triangle": 2, "square": 3}.items():
        steps = np.diff(tracks[name], axis=0)
        headings = np.arctan2(*steps.T)
        turns = np.abs((np.diff(headings) + np.pi) % (2 * np.pi) - np.pi) > 0.05
        # A corner that falls between two points bends the track at both of them.
        assert (np.diff(np.flatnonzero(turns)) > 1).sum() + bool(turns.any()) == corners, name
    inwards, outwards = tracks["spiral inwards"], tracks["spiral outwards"]
    assert (np.diff(_distances(inwards, inwards[-1])) < 0).all()
    assert (np.diff(_distances(outwards, outwards[0])) > 0).all()


def test_tracks_vary_in_length_and_padding_is_no_step():
    rng = np.random.default_rng(0)
    tracks = [gestures.track("swipe", rng) for _ in range(200)]
    lengths = {len(track) for track in tracks}
    assert min(lengths) == gestures.SHORTEST and max(lengths) == gestures.STEPS
    for track in tracks:
        assert (track[:, :2] != 0).any(axis=1).all()
        np.testing.assert_allclose(
            np.cumsum(track[:, 2:], axis=0) / gestures.RATE, track[:, :2] - track[0, :2], atol=1e-5
        )
    with pytest.raises(InputError, match=r"unknown gesture 'swype'.*Did you mean 'swipe'"):
        gestures.track("swype", rng)


def test_a_digit_is_placed_where_and_as_large_as_was_said():
    picture = np.ones((3, 8, 8), "float32")
    canvas = pretraining.placed(
        picture,
        np.array([16.0, 8.0, 16.0]),
        np.array([0, 0, np.pi / 2]),
        np.array([[4, 9], [0, 24], [4, 9.0]]),
    )
    np.testing.assert_allclose(canvas.sum(axis=(1, 2)), [16**2, 8**2, 16**2], rtol=0.15)
    for image, middle in zip(canvas, ([12, 17], [4, 28], [12, 17]), strict=True):
        rows, columns = np.indices(image.shape) + 0.5
        centre = [(image * axis).sum() / image.sum() for axis in (rows, columns)]
        np.testing.assert_allclose(centre, middle, atol=0.3)
    np.testing.assert_allclose(canvas[0], canvas[2], atol=1e-6)  # a square turned by a right angle
    upright, turned = pretraining.placed(
        np.repeat(np.eye(8)[None] * np.arange(8), 2, axis=0),
        np.array([8.0, 8.0]),
        np.array([0, np.pi / 2]),
        np.full((2, 2), 12.0),
    )
    np.testing.assert_allclose(turned[12:20, 12:20], np.rot90(upright[12:20, 12:20], -1), atol=1e-6)


def test_a_tenth_of_each_class_is_labelled(monkeypatch):
    monkeypatch.setattr(pretraining, "TRAIN", 300)
    monkeypatch.setattr(pretraining, "TEST", 10)
    train = pretraining.make().train
    np.testing.assert_array_equal(np.bincount(train.labels[train.groups["labelled"]]), 3)

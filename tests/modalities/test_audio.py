"""Sound: the log-mel spectrogram against NumPy and SciPy in float64; all that people call a sound."""

import os
import wave

import numpy as np
import pytest
from harness import array, values
from scipy.io import wavfile
from scipy.signal import get_window, resample_poly

from keras_vit.errors import InputError
from keras_vit.modalities import Audio, LogMel, load_audio, prepare_audio
from keras_vit.modalities.logmel import hertz, mel, mel_filters


def reference(x, sample_rate, mels, window, hop, frames):
    """By the docstring of `LogMel`: frame by frame, NumPy's rfft, a triangle after the other; float64."""
    x, hann = x.astype("float64"), get_window("hann", window)
    corners = [float(hertz(mel(sample_rate / 2) * i / (mels + 1))) for i in range(mels + 2)]
    frequencies = np.fft.rfftfreq(window, 1 / sample_rate)
    result = np.zeros((len(x), frames, mels))
    for f in range(frames):
        start = f * hop - (window - hop) // 2
        inside = [n for n in range(window) if 0 <= start + n < x.shape[1]]
        frame = np.zeros((len(x), window))
        frame[:, inside] = x[:, [start + n for n in inside]]
        power = np.abs(np.fft.rfft(frame * hann) * 2 / hann.sum()) ** 2
        for band in range(mels):
            triangle = np.interp(frequencies, corners[band : band + 3], [0, 1, 0])
            result[:, f, band] = (10 * np.log10(np.maximum(power @ triangle, 1e-8)) + 40) / 40
    return result


@pytest.mark.parametrize(
    ("samples", "rate", "options", "frames"),
    [
        (1600, 16000, {}, 10),
        (1601, 16000, {"multiple": 4}, 12),
        (900, 4000, {"mels": 16, "window": 60, "hop": 60}, 15),
        (50, 8000, {"mels": 20, "window": 201, "hop": 80, "multiple": 3}, 3),
        (1000, 8000, {"mels": 20, "window": 160, "hop": 33}, 31),
    ],
)
def test_log_mel_is_what_numpy_says(samples, rate, options, frames):
    layer = LogMel(rate, **options)
    x = np.random.default_rng(0).uniform(-1, 1, (2, samples)).astype("float32")
    x[1] = 0.001 * np.sin(np.arange(samples) * 0.3)
    found = values(layer, x)
    config = layer.get_config()
    if not options:
        assert (config["mels"], config["window"], config["hop"]) == (64, 400, 160)
    expected = reference(x, rate, config["mels"], config["window"], config["hop"], frames)
    assert found.shape == expected.shape and layer.frames(samples) == frames
    np.testing.assert_allclose(found, expected, atol=2e-4)  # of 40 dB: 0.01 dB
    assert not layer.weights


def test_silence_is_minus_1_and_a_full_tone_about_1():
    layer = LogMel(16000)
    np.testing.assert_allclose(values(layer, np.zeros((1, 4000), "float32")), -1.0, atol=1e-6)
    time = np.arange(4000) / 16000
    for frequency in (440, 1000, 3000):
        picture = values(layer, np.sin(2 * np.pi * frequency * time)[None].astype("float32"))[0]
        middle = picture[5:-5]
        assert (middle.max(axis=1) > 0.9).all() and (middle.max(axis=1) < 1.06).all()
        band = middle.mean(axis=0).argmax()
        corners = hertz(np.linspace(0, mel(8000), 66))
        assert corners[band] < frequency < corners[band + 2]
    soft = values(layer, 0.1 * np.sin(2 * np.pi * 1000 * time)[None].astype("float32"))[0]
    loud = values(layer, np.sin(2 * np.pi * 1000 * time)[None].astype("float32"))[0]
    np.testing.assert_allclose((loud - soft)[5:-5].max(), 0.5, atol=1e-3)  # 20 dB


def test_slaneys_mel_scale():
    """The numbers in the documentation of librosa, hz_to_mel and mel_to_hz."""
    np.testing.assert_allclose(mel([60, 110, 220, 440]), [0.9, 1.65, 3.3, 6.6])
    np.testing.assert_allclose(hertz([1, 2, 3, 4, 5]), [66.667, 133.333, 200.0, 266.667, 333.333], atol=1e-3)
    np.testing.assert_allclose([mel(1000), mel(6400), hertz(42)], [15, 42, 6400])
    frequencies = np.linspace(0, 12000, 999)
    np.testing.assert_allclose(hertz(mel(frequencies)), frequencies, atol=1e-9)
    filters = mel_filters(16000, 400, 64)
    assert filters.shape == (201, 64) and filters.max() <= 1 and filters.min() == 0
    # Neighbouring triangles cross so that between their tops they add up to 1.
    inside = (np.arange(201) * 40 > hertz(mel(8000) / 65)) & (
        np.arange(201) * 40 < hertz(mel(8000) * 64 / 65)
    )
    np.testing.assert_allclose(filters.sum(axis=1)[inside], 1, atol=1e-12)


def test_the_whole_sound_is_heard_and_later_sound_changes_only_later_tokens():
    layer = Audio(1600, 8000, patch_size=(4, 8), mels=16, width=6)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 1600)).astype("float32")
    before = array(layer(x)[0]).reshape(*layer.grid, 6)
    assert layer.grid == (5, 2)
    for at in (0, 799, 1599):
        changed = x.copy()
        changed[0, at : at + 1] += 0.5
        moved = np.abs(array(layer(changed)[0]).reshape(*layer.grid, 6) - before).max(axis=(1, 2))
        assert moved.max() > 1e-4 and moved.argmax() == at * 5 // 1600
        assert (moved > 0).sum() <= 2


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "float32", "float64"])
def test_wav_files_of_every_kind(tmp_path, dtype):
    exact = np.sin(np.arange(800) * 0.05) * 0.9
    full = {"int16": 2**15, "int32": 2**31, "uint8": 2**7}.get(dtype, 1)
    stored = (exact * full + (128 if dtype == "uint8" else 0)).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 8000, stored)
    found = load_audio(tmp_path / "a.wav", 8000)
    assert found.dtype == "float32" and found.shape == (800,)
    np.testing.assert_allclose(found, exact, atol=1.01 / full if full > 1 else 1e-6)
    wavfile.write(tmp_path / "s.wav", 8000, np.stack([stored, stored[::-1]], axis=1))
    stereo = load_audio(str(tmp_path / "s.wav"), 8000)
    np.testing.assert_allclose(stereo, (exact + exact[::-1]) / 2, atol=1.01 / full if full > 1 else 1e-6)


def test_a_wav_file_of_the_standard_library(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)  # 24 bits
        file.setframerate(8000)
        file.writeframes(b"\x00\x00\x40" * 10)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav", 8000), np.full(10, 0.5), atol=1e-6)


def test_another_sample_rate_is_resampled():
    def tone(rate, seconds=0.5):
        return np.sin(2 * np.pi * 300 * np.arange(int(rate * seconds)) / rate)

    for rate in (8000, 44100, 22050, 16001):
        found = load_audio(tone(rate), 16000, rate)
        assert abs(len(found) - 8000) <= 1
        n = min(len(found), 8000)
        np.testing.assert_allclose(found[200 : n - 200], tone(16000)[200 : n - 200], atol=5e-3)
    np.testing.assert_allclose(
        load_audio(tone(8000), 16000, 8000), resample_poly(tone(8000), 2, 1), atol=1e-6
    )


def test_a_sound_is_padded_cut_and_mixed():
    np.testing.assert_array_equal(prepare_audio(np.ones(3), 8000, 5, 8000), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(prepare_audio(np.arange(6) / 10, 8000, 2, 8000), np.float32([0, 0.1]))
    stereo = np.array([[1, 0, 1], [0, 0, 1]])
    for given in (stereo.astype(float), stereo.T.astype(float)):
        np.testing.assert_array_equal(prepare_audio(given, 8000, 4, 8000), [0.5, 0, 1, 0])
    assert len(prepare_audio(np.ones(100), 8000, 50, 16000)) == 50


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.array([0, np.nan, 1]), "NaN or infinity, first at sample 1: cut it out"),
        (np.array([[0, 1, np.inf, 0], [0, 0, 0, 0]]), "first at sample 2"),
        (np.array([0, 12000.0]), r"lie in \[-1, 1\], and this one has 12000: divide it by its full scale"),
        (np.zeros(0), r"a sound is numbers \[n\] or \[n, channels\], not float64 \[0\]"),
        (np.zeros((2, 2, 2)), r"not float64 \[2, 2, 2\]"),
        (np.array(["a"]), "a sound is numbers"),
        (np.zeros(4, complex), "not complex128"),
        (3, r"not int64 \[\]"),
    ],
)
def test_what_is_no_sound_is_refused(sound, message):
    with pytest.raises(InputError, match=message):
        prepare_audio(sound, 8000, 5, 8000)
    with pytest.raises(InputError, match=message):
        Audio(5, 8000).encode([sound])


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.wav' cannot be read: No such file"):
        load_audio(tmp_path / "none.wav", 8000)
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    wavfile.write(tmp_path / "cut.wav", 8000, np.zeros(800, "int16"))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:30])
    for name in ("text", "empty", "cut"):
        with pytest.raises(InputError, match=rf"{name}.wav' is no .wav file that can be read"):
            load_audio(tmp_path / f"{name}.wav", 8000)
    with pytest.raises(InputError, match="cannot be read"):
        load_audio(tmp_path, 8000)
    for rates in ((0, 8000), (8000, 0), (8000.0, 8000), (8000, 7.5)):
        with pytest.raises(InputError, match="rate must be a positive integer"):
            load_audio(np.zeros(9), *rates)


def test_channels_of_a_file_are_channels_also_when_it_is_short(tmp_path):
    for frames, channels in ((1, 3), (2, 3), (3, 2), (1, 1)):
        stored = np.arange(frames * channels, dtype="int16").reshape(frames, channels)
        wavfile.write(tmp_path / "a.wav", 8000, stored)
        expected = stored.mean(axis=1) / 2**15
        np.testing.assert_allclose(load_audio(tmp_path / "a.wav", 8000), expected, atol=1e-7)
    assert load_audio(np.zeros((1, 3), "int16"), 8000).shape == (1,), "one frame"
    assert load_audio(np.zeros((1, 900)), 8000).shape == (900,), "one channel"


def test_sounds_without_end_are_refused(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, np.zeros(1000, "int16"))
    raw = bytearray((tmp_path / "a.wav").read_bytes())
    for rate in (0, 10**9, 10**7):
        raw[24:32] = rate.to_bytes(4, "little") + (2 * rate % 2**32).to_bytes(4, "little")
        (tmp_path / "b.wav").write_bytes(raw)
        with pytest.raises(
            InputError, match=rf"b.wav' says that it has {rate} samples a second: put that right"
        ):
            load_audio(tmp_path / "b.wav", 8000)
    raw[24:32] = (1).to_bytes(4, "little") + (2).to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(raw)
    with pytest.raises(
        InputError, match="a sound of 1000 samples, 1 a second, is too long at 1000000 a second"
    ):
        load_audio(tmp_path / "b.wav", 10**6)
    raw[40:44] = b"\xff\xff\xff\xff"  # the length of the samples
    (tmp_path / "b.wav").write_bytes(raw)
    assert len(load_audio(tmp_path / "b.wav", 1)) == 1000, "all that is there"
    os.mkfifo(tmp_path / "c.wav")
    with pytest.raises(InputError, match=r"c.wav' is no regular file, but a named pipe"):
        load_audio(tmp_path / "c.wav", 8000)


def test_sounds_of_all_kinds_become_one_array(tmp_path):
    layer = Audio(400, 8000, mels=16, width=8)
    wavfile.write(tmp_path / "a.wav", 16000, np.zeros((100, 2), "int16"))
    silence = np.zeros(100)
    found = layer.encode([tmp_path / "a.wav", silence, np.ones((300, 2))])
    assert found.shape == (3, 400) and found.dtype == "float32"
    np.testing.assert_array_equal(found[2], np.arange(400) < 300)
    assert layer.encode(str(tmp_path / "a.wav")).shape == layer.encode(silence).shape == (1, 400)
    assert layer.encode(np.zeros((2, 400))).shape == (2, 400)
    with pytest.warns(
        UserWarning, match=r"2 sounds cut to 0.05 s, which is what Audio.*longest has 0.1 s"
    ) as w:
        layer.encode([np.zeros(500), np.zeros(800), silence])
    assert len(w) == 1
    assert layer.encode([np.zeros(40)], rate=1000).shape == (1, 400)
    assert np.isfinite(array(layer(layer.encode([silence]))[0])).all()


def test_mixed_precision_hears_the_waveform_in_float32():
    """A tone 60 dB below another: 8 bits of a sample are too few for it."""
    time = np.arange(1600) / 16000
    x = (0.9 * np.sin(2 * np.pi * 500 * time) + 0.0009 * np.sin(2 * np.pi * 4000 * time))[None].astype(
        "float32"
    )
    exact = values(LogMel(16000), x)
    half = LogMel(16000, dtype="mixed_bfloat16")(x)
    np.testing.assert_allclose(array(half), exact, atol=5e-3)
    layers = [Audio(1600, 16000, width=8, dtype=dtype) for dtype in ("float32", "mixed_bfloat16")]
    for layer in layers:
        layer.build((None, 1600))
    layers[1].set_weights(layers[0].get_weights())
    a, b = (array(layer(x)[0]) for layer in layers)
    np.testing.assert_allclose(b, a, atol=0.05)

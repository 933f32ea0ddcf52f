"""Tables of examples: what is read, what stands for nothing, what is refused."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from keras_vit.errors import InputError, Notice
from keras_vit.training.multimodal_data import Options, is_multimodal, load_examples, one_example


def write(folder, name, rows):
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def grey(folder, name, value, size=(16, 16)):
    Image.fromarray(np.full((*size, 3), value, "uint8")).save(folder / name)
    return name


def sound(folder, name, samples, rate=8000):
    wave = np.sin(np.arange(samples) * 2 * np.pi * 440 / rate)
    wavfile.write(folder / name, rate, (wave * 32767).astype("int16"))
    return name


@pytest.fixture
def folder(tmp_path):
    rows = [
        {
            "label": ["cat", "dog"][i % 2],
            "image": grey(tmp_path, f"{i}.png", 10 * i),
            "text": ["a red cat", "", "猫 here"][i % 3],
            "audio": "" if i == 5 else sound(tmp_path, f"{i}.wav", 400 + i),
        }
        for i in range(8)
    ]
    write(tmp_path, "train.csv", rows[:6])
    write(tmp_path, "test.csv", rows[6:])
    return tmp_path


def test_a_table_becomes_arrays(folder):
    assert is_multimodal(folder) and not is_multimodal(folder / "0.png")
    data = load_examples(folder)
    assert data.labels == ["cat", "dog"] and list(data.modalities) == ["image", "text", "audio"]
    assert data.train.labels.tolist() == [0, 1] * 3 and data.test.labels.tolist() == [0, 1]
    images = data.train.inputs["image"]
    assert images.dtype == np.uint8 and images.shape == (6, 16, 16, 3)
    assert [int(x[0, 0, 0]) for x in images] == [0, 10, 20, 30, 40, 50]
    words = data.modalities["text"].vocabulary
    assert words.decode(data.train.inputs["text"]) == ["a red cat", "", "猫 here"] * 2
    present = data.train.inputs["present"]
    np.testing.assert_array_equal(present[:, 1], [1, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(present[:, 2], [1, 1, 1, 1, 1, 0])
    audio = data.train.inputs["audio"]
    assert audio.shape == (6, 404) and data.modalities["audio"].sample_rate == 8000  # the longest to train on
    assert not audio[5].any() and not audio[0, 400:].any() and audio[0, :400].std() > 0.5


def test_a_folder_without_a_test_table_is_divided_by_class(folder):
    (folder / "test.csv").unlink()
    (folder / "train.csv").rename(folder / "examples.csv")
    data, again = load_examples(folder, seed=1), load_examples(folder, seed=1)
    assert sorted(data.test.labels.tolist()) == [0, 1] and len(data.train) == 4
    assert data.fingerprint == again.fingerprint
    np.testing.assert_array_equal(data.test.inputs["image"], again.test.inputs["image"])


def test_a_models_own_form_is_kept(folder):
    modalities = load_examples(folder, Options(image_size=(8, 8), length=2)).modalities
    data = load_examples(folder, modalities=modalities)
    assert data.train.inputs["image"].shape[1:] == (8, 8, 3)
    with pytest.warns(UserWarning, match="cut"):
        assert load_examples(folder, modalities=modalities).train.inputs["text"].shape == (6, 2)


def test_clips_and_tracks(tmp_path):
    rows = []
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.full((4 + i, 8, 8, 3), 20 * i, "uint8"))
        np.savetxt(tmp_path / f"{i}.csv", np.full((3 + i, 2), i), delimiter=",")
        rows.append({"label": str(i % 2), "video": f"{i}.npy", "action": f"{i}.csv"})
    frames = [Image.fromarray(np.full((8, 8, 3), v, "uint8")) for v in (0, 60, 120, 180)]
    frames[0].save(tmp_path / "0.gif", save_all=True, append_images=frames[1:])
    rows[0]["video"] = "0.gif"
    write(tmp_path, "train.csv", rows)
    write(tmp_path, "test.csv", rows[:2])
    data = load_examples(tmp_path)
    clips, tracks = data.train.inputs["video"], data.train.inputs["action"]
    assert clips.shape == (4, 4, 8, 8, 3) and [int(c[0, 0, 0, 0]) for c in clips] == [0, 20, 40, 60]
    assert clips[0, :, 0, 0, 0].tolist() == [0, 60, 120, 180]
    assert tracks.shape == (4, 6, 2) and tracks[1].tolist() == [[1, 1]] * 4 + [[0, 0]] * 2


def test_one_example_says_what_is_absent(folder):
    modalities = load_examples(folder).modalities
    given = one_example(modalities, {"image": folder / "3.png", "text": "a cat"})
    assert given["present"].tolist() == [[1, 1, 0]] and int(given["image"][0, 0, 0, 0]) == 30
    with pytest.raises(InputError, match="takes image, text, audio, not video"):
        one_example(modalities, {"video": "a.npy"})


def test_words_that_say_nothing_are_named(folder):
    modalities = load_examples(folder).modalities
    with pytest.warns(Notice, match=r"some words are not in the model's vocabulary: 'zzz', '🙂'\.$"):
        one_example(modalities, {"text": "a zzz 🙂 cat zzz"})
    with pytest.warns(Notice, match="no word of the text is in the model's vocabulary: 'שלום'"):
        given = one_example(modalities, {"text": "שלום"})
    assert given["text"][0, 0] == 1 and not given["text"][0, 1:].any()
    with pytest.warns(Notice, match="'  ' has no words: it counts as absent"):
        one_example(modalities, {"image": folder / "3.png", "text": "  "})
    with pytest.raises(InputError, match="has no words, and nothing else is given"):
        one_example(modalities, {"text": ", !"})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": "a", "smell": "x"}], r"has a column 'smell': the modalities are image, text, audio"),
        ([{"label": "a"}], r"has labels and nothing else"),
        ([{"text": "a"}], r"has no column `label`: its columns are 'text'"),
        ([{"label": "", "text": "a"}], r"train.csv, line 2: it has no label"),
        (
            [{"label": "a", "image": "gone.png"}, {"label": "b", "image": "gone.png"}],
            r"gone.png is not there: the column 'image' names a file",
        ),
        (
            [{"label": "a", "audio": "broken.wav"}, {"label": "b", "audio": "broken.wav"}],
            r"broken.wav' is no .wav file that can be read",
        ),
        (
            [{"label": "a", "video": "broken.wav"}, {"label": "b", "video": "broken.wav"}],
            r"broken.wav' is no .npy file that can be read",
        ),
        ([{"label": "a", "text": ""}, {"label": "b", "text": ""}], r"the column 'text' .* is empty"),
        ([{"label": "a", "text": "x"}] * 2, r"has only one class, 'a'"),
    ],
)
def test_bad_tables(tmp_path, rows, message):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    write(tmp_path, "train.csv", rows)
    write(tmp_path, "test.csv", rows)
    with pytest.raises(InputError, match=message):
        load_examples(tmp_path)


def test_tables_that_do_not_fit(tmp_path):
    write(tmp_path, "train.csv", [{"label": "a", "text": "x"}, {"label": "b", "text": "y"}])
    with pytest.raises(InputError, match=r"has train\.csv: expected a folder with train.csv and test.csv"):
        load_examples(tmp_path)
    write(tmp_path, "test.csv", [{"label": "a", "text": "x"}])
    with pytest.raises(InputError, match=r"class 'b' .* has no test examples"):
        load_examples(tmp_path)
    write(tmp_path, "test.csv", [{"label": "a", "image": "x"}])
    with pytest.raises(InputError, match="have other columns"):
        load_examples(tmp_path)

"""Tables of examples: what is read, what stands for nothing, what is refused."""

import csv
import os

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from keras_vit.data import cell_readers
from keras_vit.data.cell_readers import READERS, Options
from keras_vit.data.example_tables import is_multimodal
from keras_vit.data.multimodal import load_examples, one_example
from keras_vit.errors import InputError, Notice


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


@pytest.mark.parametrize("name", ["val.csv", "Validation.csv"])
def test_a_table_to_choose_by(tmp_path, name):
    rows = [{"label": "ab"[i % 2], "text": f"word{i}"} for i in range(9)]
    write(tmp_path, "train.csv", rows[:4])
    write(tmp_path, name, rows[4:7])
    alone = load_examples(tmp_path)
    assert len(alone.test) == 3 and alone.val is None and alone.choosing is alone.test
    write(tmp_path, "test.csv", rows[7:])
    data = load_examples(tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [4, 3, 2]
    assert data.val.labels.tolist() == [0, 1, 0] and data.choosing is data.val
    assert data.only(["text"]).val.inputs.keys() == {"text"}
    (tmp_path / "train.csv").unlink()
    with pytest.raises(InputError, match="expected a folder with train"):
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


# Rows that cannot be used


def test_bad_rows_are_named_or_left_out(folder):
    with open(folder / "train.csv", "a", encoding="utf-8") as file:
        file.write("cat,gone.png,a cat,\n,1.png,no label,\ncat,1.png,too,many.wav,cells\ndog,,,\n")
        file.write("dog,broken.png,x,\ndog,1.png,,broken.wav\n")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(InputError) as error:
        load_examples(folder)
    said = str(error.value)
    assert said.startswith(f"6 of 14 rows in '{folder}' cannot be used: train.csv, line 8: ")
    for reason in ("gone.png is not there", "has no label", "more cells than columns", "only empty cells"):
        assert reason in said
    assert "; and 1 more. Mend or delete them; --skip-bad" in said and "\n" not in said
    data = load_examples(folder, skip_bad=True)
    assert data.skipped == [f"train.csv, line {line}" for line in range(8, 14)]
    assert [int(x[0, 0, 0]) for x in data.train.inputs["image"]] == [0, 10, 20, 30, 40, 50]
    assert (len(data.train), len(data.test)) == (6, 2)


def test_what_is_left_stays_in_its_part(tmp_path):
    rows = [{"label": "ab"[i % 2], "image": grey(tmp_path, f"{i}.png", i)} for i in range(20)]
    write(tmp_path, "examples.csv", rows)
    before = load_examples(tmp_path)
    (tmp_path / "4.png").unlink()
    (tmp_path / "7.png").write_bytes(b"")
    after = load_examples(tmp_path, skip_bad=True)
    assert after.skipped == ["examples.csv, line 6", "examples.csv, line 9"]
    for one, other in ((before.train, after.train), (before.test, after.test)):
        values = one.inputs["image"][:, 0, 0, 0]
        kept = ~np.isin(values, (4, 7))
        np.testing.assert_array_equal(other.inputs["image"], one.inputs["image"][kept])
        np.testing.assert_array_equal(other.labels, one.labels[kept])


def test_a_class_that_loses_all_its_rows(tmp_path):
    rows = [{"label": "ab"[i % 2], "image": grey(tmp_path, f"{i}.png", i)} for i in range(8)]
    write(tmp_path, "train.csv", rows[:4])
    write(tmp_path, "test.csv", rows[4:])
    for i in (1, 3):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(InputError, match=r"class 'b' of .* has no train rows left without the bad ones"):
        load_examples(tmp_path, skip_bad=True)


def test_tables_of_excel(tmp_path):
    """Semicolons, other cases, Windows' paths, and names of files in any case."""
    (tmp_path / "p").mkdir()
    for i in range(4):
        grey(tmp_path, f"p/{i}.png", 10 * i)
    lines = ["Label; Image ;TEXT", *[f"{'ab'[i % 2]};p\\{i}.png;Hund, {i}" for i in range(4)], ";;"]
    for name in ("Train.csv", "TEST.CSV"):
        (tmp_path / name).write_text("\r\n".join(lines), encoding="utf-16")
    assert is_multimodal(tmp_path)
    data = load_examples(tmp_path)
    assert data.labels == ["a", "b"]
    np.testing.assert_array_equal(data.train.inputs["image"][:, 0, 0, 0], [0, 10, 20, 30])
    words = data.modalities["text"].vocabulary
    assert words.decode(data.test.inputs["text"]) == ["hund 0", "hund 1", "hund 2", "hund 3"]
    (tmp_path / "train.csv").write_text("label,text\na,b\n")
    with pytest.raises(InputError, match=r"has 'Train.csv' and 'train.csv': delete or rename one"):
        load_examples(tmp_path)


@pytest.mark.parametrize("label", ["two\nlines", "a\u2028b", "\u202egpj", "\x1b[2J"])
def test_labels_that_cannot_be_written_down(tmp_path, label):
    write(tmp_path, "examples.csv", [{"label": name, "text": "x"} for name in ("a", label, "a", label)])
    with pytest.raises(InputError, match=r"has a class .*Rename it"):
        load_examples(tmp_path)


def test_a_label_of_very_many_digits(tmp_path):
    write(
        tmp_path,
        "examples.csv",
        [{"label": name, "text": "x"} for name in ("1" * 5000, "2", "2", "1" * 5000)],
    )
    assert load_examples(tmp_path).labels == ["2", "1" * 5000]


# Clips, tracks and sounds that are none


CLIP = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3))
TRACK = np.array([[1.5, -2], [3, 4], [5, 6]])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", ">u2", "float16", "float32", "float64"])
def test_numbers_of_every_kind_are_the_same_clip_and_track(tmp_path, dtype):
    np.save(tmp_path / "clip.npy", CLIP.astype(dtype))
    found = READERS["video"](tmp_path, "clip.npy", Options())
    np.testing.assert_array_equal(found, CLIP.astype("uint8"))
    assert getattr(found, "_mmap", None) is None, "holds no file open"
    np.save(tmp_path / "track.npy", TRACK.astype(dtype) if dtype[0] in "if" else np.abs(TRACK).astype(dtype))
    found = READERS["action"](tmp_path, "track.npy", Options())
    np.testing.assert_array_equal(
        found, TRACK.astype(dtype) if dtype[0] in "if" else np.abs(TRACK).astype(dtype)
    )
    assert found.dtype == "float32" and getattr(found, "_mmap", None) is None


def test_a_clip_with_fractions_is_rounded(tmp_path):
    columns = np.reshape([0.4, 254.6, 200], (1, 1, 3, 1))
    np.save(tmp_path / "x.npy", np.broadcast_to(columns, (2, 8, 3, 3)))
    clip = READERS["video"](tmp_path, "x.npy", Options())
    assert clip.dtype == np.uint8 and clip[0, 0, :, 0].tolist() == [0, 255, 200]


BAD_CLIPS = {
    "in 0..1": (CLIP / 255, r"run from 0 to 1, but pixels run over 0\.\.255: leave out their normalisation"),
    "a mask": ((CLIP > 100).astype("uint8"), r"run from 0 to 1, but pixels run over 0\.\.255"),
    "in -1..1": (CLIP / 127.5 - 1, "run from -1 to 1, but"),
    "normalised": ((CLIP - 120) / 60, "run from -2 to 2.2"),
    "above 255": (CLIP * 2, "run from 0 to 510"),
    "negative": (CLIP - 200, "run from -2"),
    "NaN": (np.where(CLIP > 250, np.nan, CLIP), "contain NaN or infinity"),
    "infinity": (np.where(CLIP > 250, np.inf, CLIP), "contain NaN or infinity"),
    "bool": (CLIP > 9, r"is bool \[3, 8, 8, 3\], not a clip"),
    "complex": (CLIP + 1j, "is complex128"),
    "times": (CLIP.astype("M8[s]"), "is datetime64"),
    "texts": (CLIP.astype(str), "is <U"),
    "bytes": (CLIP.astype("S3"), r"is \|S3"),
    "a record": (np.zeros((2, 8, 8, 3), [("r", "u1")]), "not a clip"),
    "objects": (CLIP.astype(object), r"no \.npy file that can be read"),
    "nothing": (CLIP[:0], r"\[0, 8, 8, 3\], not a clip"),
    "no height": (CLIP[:, :0], r"\[3, 0, 8, 3\], not a clip"),
    "grey": (CLIP[..., 0], "not a clip"),
    "four channels": (CLIP.repeat(2, axis=-1)[..., :4], "not a clip"),
}


@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_what_is_no_clip(tmp_path, kind):
    clip, message = BAD_CLIPS[kind]
    np.save(tmp_path / "x.npy", clip)
    with pytest.raises(InputError, match=message):
        READERS["video"](tmp_path, "x.npy", Options())


BAD_TRACKS = {
    "NaN": (np.where(TRACK > 4, np.nan, TRACK), "has NaN, infinity or .* first in step 2: leave"),
    "infinity": (np.where(TRACK > 4, -np.inf, TRACK), "first in step 2"),
    "more than float32": (TRACK * 1e300, "a number that float32 cannot hold, first in step 0"),
    "bool": (TRACK > 3, r"is bool \[3, 2\], not a track of numbers \[steps, features\]"),
    "complex": (TRACK + 9j, "is complex128"),
    "times": (TRACK.astype(int).astype("M8[s]"), "is datetime64"),
    "durations": (TRACK.astype(int).astype("m8[s]"), "is timedelta64"),
    "texts": (TRACK.astype(str), "is <U"),
    "objects": (TRACK.astype(object), r"no \.npy file"),
    "no steps": (TRACK[:0], r"is float64 \[0, 2\]"),
    "no features": (TRACK[:, :0], r"is float64 \[3, 0\]"),
    "one axis": (TRACK[0], r"is float64 \[2\]"),
}


@pytest.mark.parametrize("kind", BAD_TRACKS)
def test_what_is_no_track(tmp_path, kind):
    track, message = BAD_TRACKS[kind]
    np.save(tmp_path / "x.npy", track)
    with pytest.raises(InputError, match=message):
        READERS["action"](tmp_path, "x.npy", Options())


@pytest.mark.parametrize(
    ("text", "message"),
    [("1,nan\n", "has NaN"), ("1,2\n-inf,1\n", "first in step 1"), ("1e999,0", "has NaN")],
)
def test_what_is_no_track_in_a_csv(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        READERS["action"](tmp_path, "x.csv", Options())


def test_tracks_of_another_width_are_bad_rows(tmp_path):
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", np.ones((3, 3 if i == 2 else 2)))
    write(tmp_path, "train.csv", [{"label": "ab"[i % 2], "action": f"{i}.npy"} for i in range(4)])
    write(tmp_path, "test.csv", [{"label": "ab"[i % 2], "action": f"{i}.npy"} for i in range(4, 6)])
    with pytest.raises(InputError, match=r"train.csv, line 4: its track has 3 features, and others have 2"):
        load_examples(tmp_path)
    assert load_examples(tmp_path, skip_bad=True).train.inputs["action"].shape == (3, 3, 2)


@pytest.mark.parametrize("shape", [(10**6, 10**4, 10**4, 3), (2**62, 2**62, 8, 3), (-1, 8, 8, 3), (3, 8, 8)])
def test_what_the_head_of_a_npy_file_claims_is_not_believed(tmp_path, shape):
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.write(bytes(100))
    for kind in ("video", "action"):
        with pytest.raises(InputError, match=r"x\.npy' is no \.npy file that can be read"):
            READERS[kind](tmp_path, "x.npy", Options())


def test_long_clips_are_refused_before_they_are_read(tmp_path, monkeypatch):
    with open(tmp_path / "x.npy", "wb") as file:
        head = {"descr": "|u1", "fortran_order": False, "shape": (2000, 512, 512, 3)}
        np.lib.format.write_array_header_1_0(file, head)
        file.truncate(file.tell() + 2000 * 512 * 512 * 3)  # takes no room on the disk
    with pytest.raises(
        InputError, match=r"2000 frames or more of 512x512, and a clip has up to 134 million pixels"
    ):
        READERS["video"](tmp_path, "x.npy", Options())
    monkeypatch.setattr(cell_readers, "MAX_CLIP", 8 * 64 * 64)
    frames = [Image.new("L", (64, 64), 20 * i) for i in range(12)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="9 frames or more of 64x64"):
        READERS["video"](tmp_path, "x.gif", Options())


def test_a_npz_file_by_another_name_and_pipes(tmp_path):
    np.savez(tmp_path / "x", CLIP)
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    for kind in ("video", "action"):
        with pytest.raises(InputError, match=r"no \.npy file"):
            READERS[kind](tmp_path, "x.npy", Options())
    files = {"image": "y.png", "audio": "y.wav", "video": ("y.npy", "y.gif"), "action": ("y.npy", "y.csv")}
    for kind, names in files.items():
        for name in (names,) if isinstance(names, str) else names:
            os.mkfifo(tmp_path / name)
            with pytest.raises(InputError, match=f"{name}' is no regular file, but a named pipe"):
                READERS[kind](tmp_path, name, Options())
            (tmp_path / name).unlink()
            (tmp_path / name).symlink_to("/dev/zero")
            with pytest.raises(InputError, match=f"{name}' is no regular file, but a device"):
                READERS[kind](tmp_path, name, Options())
            (tmp_path / name).unlink()
    with pytest.raises(InputError, match="is not there"):
        READERS["image"](tmp_path, "x" * 5000, Options())


def test_a_table_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "train.csv")
    os.mkfifo(tmp_path / "test.csv")
    assert is_multimodal(tmp_path)
    with pytest.raises(InputError, match=r"train.csv' is no regular file, but a named pipe"):
        load_examples(tmp_path)


def test_sounds_that_are_none_are_bad_rows(tmp_path):
    wavfile.write(tmp_path / "nan.wav", 8000, np.array([0, np.nan], "float32"))
    wavfile.write(tmp_path / "loud.wav", 8000, np.array([0, 3000], "float32"))
    for name in ("nan", "loud"):
        with pytest.raises(InputError, match=rf"{name}\.wav': (the sound has NaN|a sound's numbers lie in)"):
            READERS["audio"](tmp_path, f"{name}.wav", Options())

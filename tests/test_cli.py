"""The command line as a person types it: exit codes, one-line errors, and the whole way on small pictures."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import command_line
import numpy as np
import pytest
from mutations import mutations
from PIL import Image

from keras_vit.errors import InputError


def run(capsys, *words):
    """(exit code, standard output, lines of standard error) of `keras-vit WORDS`, in this process."""
    code, out, err = command_line.run(capsys, *words)
    return code, out, err.splitlines()


def picture(path, bright=0, size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(path.name.encode()))
    pixels = np.clip(random.normal(60 + bright, 20, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, dark and light, in many sizes and modes."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    for label, bright in (("dark", 0), ("light", 130)):
        for i in range(20):
            picture(root / label / f"{i}.png", bright)
        picture(root / label / "wide.jpg", bright, size=(31, 9))
        picture(root / label / "clear.png", bright, mode="RGBA")
        picture(root / label / "grey.png", bright, mode="L")
        picture(root / label / "print.jpg", bright, mode="CMYK")
        deep = np.full((9, 9), (60 + bright) * 257, np.uint16)
        Image.fromarray(deep).save(root / label / "deep.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        picture(root / label / "turned.jpg", bright, size=(12, 8), exif=exif)
    return root


TINY = ["--variant", "Nano/4", "--image-size", "8", "--epochs", "6", "--batch-size", "8", "--augment", "none"]


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run and its export, made by the commands."""
    base = tmp_path_factory.mktemp("made")
    for words in (
        ["train", folder, "--out", base / "run", *TINY],
        ["quantize", base / "run", "--profile", "int8_static", "--epochs", "1"],
        ["export", base / "run", "--out", base / "export"],
    ):
        result = subprocess.run(
            [sys.executable, "-m", "keras_vit.cli", *map(str, words)], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert "Could not find cuda" not in result.stderr, "TensorFlow's own lines are kept away"
    return base


def test_help_needs_neither_keras_nor_tensorflow():
    code = (
        "import sys; from keras_vit import cli; sys.argv = ['keras-vit', '--help']\n"
        "try: cli.main()\nexcept SystemExit as stop: assert not stop.code\n"
        "print([m for m in ('keras', 'tensorflow', 'numpy', 'sklearn') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
    for command in ("import", "train", "quantize", "export", "evaluate", "predict", "explain", "demo"):
        assert command in output


def test_the_whole_way(trained, folder, capsys):
    history = json.loads((trained / "run" / "history.json").read_text())
    assert len(history) == 6
    assert history[-1]["val_accuracy"] == 1.0
    assert (trained / "run" / "quantized" / "int8_static" / "model.keras").exists()

    code, out, _ = run(capsys, "evaluate", trained / "export", folder, "--seconds", "0.05")
    assert code == 0
    assert out.splitlines()[-1] == str(trained / "export" / "report.html")
    report = json.loads((trained / "export" / "report.json").read_text())
    rows = {row["name"]: row for row in report["artifacts"]}
    assert set(rows) == {
        *(f"keras/{p}.keras" for p in ("float32", "int8", "int8_static")),
        *(f"{p}.tflite" for p in ("float32", "int8", "int8_static")),
        "saved_model/1",
    }
    assert all(row["error"] is None and row["top1"] == 1.0 for row in rows.values())
    assert all(name in out for name in rows)
    assert "int8_static.tflite" in (trained / "export" / "report.html").read_text()


@pytest.mark.parametrize("model", ["run/model.keras", "export/int8_static.tflite", "export/saved_model"])
def test_predict_with_each_kind_of_model(trained, folder, capsys, model):
    images = folder / "dark" / "turned.jpg", folder / "light" / "deep.png"
    code, out, _ = run(capsys, "predict", trained / model, *images, "--json")
    assert code == 0
    answers = json.loads(out)
    assert [a["predictions"][0]["label"] for a in answers] == ["dark", "light"]
    assert [a["image"] for a in answers] == [str(path) for path in images]
    assert sum(p["probability"] for p in answers[0]["predictions"]) == pytest.approx(1, abs=1e-3)
    code, out, _ = run(capsys, "predict", trained / model, images[0], "--top", "1")
    assert code == 0
    assert out.splitlines()[0] == str(images[0])
    assert out.splitlines()[1].split()[1] == "dark"


def test_predict_reads_folders(trained, folder, tmp_path, capsys):
    model = trained / "export" / "int8.tflite"
    pictures = tmp_path / "pictures"
    for name in ("10.png", "2.png", "below/1.jpg"):
        picture(pictures / name, bright=130)
    (pictures / "notes.txt").write_text("")
    single = folder / "dark" / "1.png"
    code, out, err = run(capsys, "predict", model, single, pictures, "--json")
    assert code == 0 and err == ["1 files passed over (no pictures that are read): 1 .txt"]
    answers = json.loads(out)
    files = [single, *(pictures / name for name in ("2.png", "10.png", "below/1.jpg"))]
    assert [a["image"] for a in answers] == [str(path) for path in files]
    assert [a["predictions"][0]["label"] for a in answers] == ["dark", "light", "light", "light"]
    for path, answer in zip(files, answers, strict=True):
        assert json.loads(run(capsys, "predict", model, path, "--json")[1]) == [answer]
    for i in range(6):
        (pictures / f"bad{i}.png").write_bytes(b"no picture")
    message = (
        r"6 of 9 pictures cannot be used: '.*bad0.png' is not a picture.*; and 1 more\. Mend or delete them"
    )
    check_error(capsys, message, "predict", model, pictures)
    (tmp_path / "empty").mkdir()
    check_error(
        capsys, r"empty has no pictures \(\.jpg .*\): name a folder", "predict", model, tmp_path / "empty"
    )


def test_predicting_with_a_tflite_file_needs_no_tensorflow(trained, folder):
    code = (
        "import sys; from keras_vit import cli\n"
        f"sys.argv = ['keras-vit', 'predict', {str(trained / 'export' / 'int8.tflite')!r}, "
        f"{str(folder / 'dark' / '1.png')!r}]\ntry: cli.main()\nexcept SystemExit: pass\n"
        "print([m for m in ('keras', 'tensorflow') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_a_copy_that_is_not_what_was_exported_is_refused_and_the_others_are_shown(
    trained, folder, tmp_path, capsys
):
    copy = tmp_path / "export"
    shutil.copytree(trained / "export", copy)
    (copy / "int8.tflite").write_bytes(b"\0\0\0\0TFL3" + b"\0" * 100)
    (copy / "saved_model" / "1" / "more").write_text("more")
    with open(copy / "keras" / "int8_static.keras", "ab") as file:
        file.write(b"\0")
    code, out, err = run(capsys, "evaluate", copy, folder, "--limit", "4", "--seconds", "0.02")
    assert code == 2
    names = "keras/int8_static.keras, int8.tflite, saved_model/1"
    reason = "keras/int8_static.keras is not the file that was exported: its SHA-256 is"
    assert err[-1].startswith(f"error: refused {names} of {copy}: {reason}")
    rows = {row["name"]: row for row in json.loads((copy / "report.json").read_text())["artifacts"]}
    refused = {name for name, row in rows.items() if row["refused"]}
    assert refused == {"int8.tflite", "saved_model/1", "keras/int8_static.keras"}
    assert "not the file that was exported" in rows["int8.tflite"]["error"]
    assert "not the folder that was exported" in rows["saved_model/1"]["error"]
    for name in set(rows) - refused:
        assert rows[name]["error"] is None and rows[name]["top1"] == 1.0
    assert "int8.tflite" in out


def break_data(tmp_path, folder, what):
    data = tmp_path / "data"
    if what == "missing":
        return data
    data.mkdir()
    if what == "no images in a class":
        shutil.copytree(folder / "dark", data / "dark")
        shutil.copytree(folder / "light", data / "light")
        (data / "nothing").mkdir()
        (data / "nothing" / "notes.txt").write_text("later")
    if what == "one class":
        shutil.copytree(folder / "dark", data / "dark")
    if what in ("truncated", "text"):
        shutil.copytree(folder, data, dirs_exist_ok=True)
        whole = (folder / "dark" / "wide.jpg").read_bytes()
        bad = whole[: len(whole) // 2] if what == "truncated" else b"I am no picture"
        (data / "dark" / "bad.jpg").write_bytes(bad)
    if what == "cut zip":
        path = tmp_path / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(folder / "dark" / "1.png", "dark/1.png")
        path.write_bytes(path.read_bytes()[:-30])
        return path
    return data


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"there is no '.*data': expected a folder .*built-in name: digits, cifar10"),
        ("empty", r"has no class folders: expected a folder"),
        ("no images in a class", r"no pictures .*'nothing'.*Add pictures or delete the folder"),
        ("one class", r"has only one class, 'dark': a classifier needs two or more"),
        ("truncated", r"dark/bad.jpg.*truncated.*--skip-bad"),
        ("text", r"dark/bad.jpg.*--skip-bad"),
        ("cut zip", r"is not a sound .zip"),
    ],
)
def test_bad_data_is_one_line_and_exit_code_2(tmp_path, folder, capsys, what, message):
    data = break_data(tmp_path, folder, what)
    check_error(capsys, message, "train", data, "--out", tmp_path / "run", *TINY)
    assert not (tmp_path / "run").exists()


def check_error(capsys, message, *words):
    import re

    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    errors = [line for line in err if line.startswith("error: ")]
    assert len(errors) == 1
    assert err[-1] == errors[0], "the error is the last line"
    assert re.search(message, errors[0]), errors[0]
    assert "Traceback" not in "\n".join(err)


def test_skip_bad_leaves_them_out_and_counts_them(tmp_path, folder, capsys):
    data = break_data(tmp_path, folder, "truncated")
    words = ["train", data, "--out", tmp_path / "run", *TINY, "--epochs", "1"]
    code, _, err = run(capsys, *words, "--skip-bad")
    assert code == 0
    assert any(line.startswith("1 bad pictures left out: dark/bad.jpg") for line in err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variant", "Ti/16", "--image-size", "100"], r"100x100 is not a multiple of the patch 16x16"),
        (["--variant", "Tini/16"], r"unknown variant 'Tini/16': the known ones are .*Ti/PATCH"),
        (["--pooling", "max"], r"unknown pooling 'max': the known ones are cls, mean"),
        (["--recipe", "huge"], r"unknown recipe 'huge': the known ones are thumbnails, small, compact"),
        (["--augment", "wild"], r"unknown augmentation 'wild'"),
        (["--image-size", "big"], r"--image-size is a number of pixels such as 224 or 64x96"),
        (["--epochs", "0"], r"epochs must be at least 1"),
    ],
)
def test_bad_options_for_train(tmp_path, folder, capsys, words, message):
    check_error(capsys, message, "train", folder, "--out", tmp_path / "run", *words)


def test_a_run_of_another_dataset_is_refused(trained, folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "dark" / "1.png").unlink()
    before = (trained / "run" / "model.keras").read_bytes()
    check_error(
        capsys, r"belongs to another dataset .*--out", "train", other, "--out", trained / "run", *TINY
    )
    check_error(
        capsys, r"has other content", "quantize", trained / "run", "--profile", "int8", "--data", other
    )
    assert (trained / "run" / "model.keras").read_bytes() == before


def test_bad_input_for_the_other_commands(trained, folder, tmp_path, capsys):
    run_, export = trained / "run", trained / "export"
    known = "the known ones are int8, int8_mixed, int4, int4_block, int8_static"
    check_error(capsys, f"unknown profile 'int9': {known}", "quantize", run_, "--profile", "int9")
    check_error(capsys, "does not exist: `keras-vit train", "quantize", tmp_path / "no", "--profile", "int8")
    check_error(capsys, "no config.json, so it is no run", "export", folder, "--out", tmp_path / "out")
    words = "export", run_, "--out", tmp_path / "out", "--profiles"
    check_error(capsys, "unknown profile 'int3': the known ones are float32", *words, "float32,int3")
    check_error(capsys, "was not made by an export", "export", run_, "--out", folder)
    check_error(capsys, "holds no manifest.json", "evaluate", folder, folder)
    check_error(capsys, r"has the classes 0, 1, 2.*the model dark, light", "evaluate", export, "digits")
    assert not (tmp_path / "out").exists()


def test_bad_input_for_predict(trained, folder, tmp_path, capsys):
    good = trained / "export" / "int8.tflite"
    fake = tmp_path / "fake.tflite"
    fake.write_bytes(b"hello")
    bad = tmp_path / "bad.jpg"
    bad.write_text("hello")
    image = folder / "dark" / "1.png"
    check_error(capsys, r"fake.tflite is not a TFLite file", "predict", fake, image)
    check_error(capsys, r"there is no .*none.keras", "predict", tmp_path / "none.keras", image)
    check_error(capsys, r"unknown suffix '.jpg'", "predict", bad, image)
    check_error(capsys, r"bad.jpg", "predict", good, bad)
    check_error(capsys, r"nothing.png", "predict", good, tmp_path / "nothing.png")


def test_a_full_disk_keeps_the_old_model(trained, folder, tmp_path):
    """The size of any file is limited to 1 kB, so that the kernel refuses to write a model."""
    copy = tmp_path / "run"
    shutil.copytree(trained / "run", copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    code = (
        "import resource, signal, sys; from keras_vit import cli\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import keras_vit.export.quantization.finetune\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"sys.argv = ['keras-vit', 'quantize', {str(copy)!r}, '--profile', 'int8', '--epochs', '1']\n"
        "cli.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert result.returncode == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert last.endswith(
        "What was there before is unchanged: make room, or give another --out, and run it again."
    )
    assert "Traceback" not in result.stderr
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert not [path for path in after if path.name.startswith(".writing")]
    assert not (copy / "quantized" / "int8").exists() or not list(
        (copy / "quantized" / "int8").glob("model*")
    )


@pytest.mark.slow
def test_quantizing_again_does_nothing_unless_an_option_changed(trained, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained / "run", copy)
    model = copy / "quantized" / "int8_static" / "model.keras"
    before = model.read_bytes()
    words = ["quantize", copy, "--profile", "int8_static", "--epochs", "1"]
    code, _, err = run(capsys, *words)
    assert code == 0
    assert any("is finished: 1 epochs" in line for line in err)
    assert model.read_bytes() == before
    code, _, err = run(capsys, *words, "--learning-rate", "1e-5")
    assert code == 0
    assert not any("is finished" in line for line in err)
    assert model.read_bytes() != before


@pytest.mark.slow
def test_distillation_is_a_training_of_its_own(trained, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained / "run", copy)
    folder = copy / "quantized" / "int8_static"
    before = (folder / "model.keras").read_bytes()
    words = ["quantize", copy, "--profile", "int8_static", "--epochs", "1", "--distill", "2"]
    code, _, err = run(capsys, *words)
    assert code == 0
    assert not any("is finished" in line for line in err)
    assert "(post-training quantization 1.0000, float 1.0000)" in err[-1]
    assert (folder / "model.keras").read_bytes() != before
    assert json.loads((folder / "config.json").read_text())["distill"] == 2.0
    top1 = json.loads((folder / "comparison.json").read_text())
    assert top1 == {"float": 1.0, "post_training": 1.0, "trained": 1.0, "kept": "trained"}
    code, _, err = run(capsys, *words)
    assert code == 0
    assert any("is finished" in line for line in err)


def manifest_of(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    return manifest, {row["name"]: row for row in manifest["artifacts"]}


def test_the_manifest_says_what_the_files_came_from(trained):
    import hashlib

    manifest, rows = manifest_of(trained / "export")
    sha256 = {
        key: hashlib.sha256((trained / "run" / path).read_bytes()).hexdigest()
        for key, path in (("float", "model.keras"), ("static", "quantized/int8_static/model.keras"))
    }
    assert manifest["data"]["model_sha256"] == sha256["float"]
    assert list(manifest["data"]["quantized"]) == ["int8_static"]
    noted = manifest["data"]["quantized"]["int8_static"]
    assert noted["model_sha256"] == sha256["static"]
    assert noted["distill"] == 0.0 and noted["top1"]["trained"] == 1.0
    assert rows["int8_static.tflite"]["trained"] and not rows["int8.tflite"]["trained"]


@pytest.mark.slow
def test_a_trained_profile_is_quantized_without_its_training_on_demand(trained, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["export", trained / "run", "--out", out, "--profiles", "int8_static", "--calibrate", "10"]
    words += ["--calibration-method", "minmax", "--seed", "3"]
    code, _, _ = run(capsys, *words)
    manifest, rows = manifest_of(out)
    assert code == 0 and rows["int8_static.tflite"]["trained"], "the fine-tuned model wins"
    code, shown, err = run(capsys, *words, "--post-training", "--max-drop", "0.5", "--sample", "6")
    assert code == 0
    assert "block_0.mlp" in shown and "points lost" in shown
    assert any(
        "int8_static: keep nothing in float: 0 points of top-1 are lost; measured on 6 held" in line
        for line in err
    )
    after, rows = manifest_of(out)
    row = rows["int8_static.tflite"]
    assert (row["trained"], row["protect"]) == (False, [])
    assert {k: row["calibration"][k] for k in ("images", "seed", "method")} == {
        "images": 10,
        "seed": 3,
        "method": "minmax",
    }
    assert "quantized" not in after["data"]
    assert after["ranges"]["int8_static"] != manifest["ranges"]["int8_static"]


def test_parts_are_protected_by_hand(trained, tmp_path, capsys):
    words = ["export", trained / "run", "--out", tmp_path / "out", "--profiles", "int8,int8_static"]
    code, _, err = run(capsys, *words, "--protect", "block_0.mlp, head")
    assert code == 0
    _, rows = manifest_of(tmp_path / "out")
    assert rows["int8.tflite"]["protect"] == ["block_0.mlp", "head"]
    assert rows["int8_static.tflite"]["protect"] == [], "it was trained without"
    assert "int8: post-training quantization but for block_0.mlp, head" in err


def test_bad_input_for_quantizing(trained, tmp_path, capsys):
    run_ = trained / "run"
    check_error(capsys, "--distill is the weight", "quantize", run_, "--profile", "int8", "--distill", "-1")
    check_error(capsys, "--distill is the weight", "quantize", run_, "--profile", "int8", "--distill", "nan")
    words = "export", run_, "--out", tmp_path / "out"
    check_error(capsys, "calibration images must be an integer from 1 on, not 0", *words, "--calibrate", "0")
    check_error(capsys, "calibration seed must be an integer from 0 on, not -1", *words, "--seed", "-1")
    method = "--calibration-method"
    check_error(capsys, "unknown calibration method 'max': .* Did you mean 'minmax'", *words, method, "max")
    check_error(capsys, "--max-drop is a number of points .* not -1", *words, "--max-drop", "-1")
    check_error(capsys, "--max-drop is a number of points .* not nan", *words, "--max-drop", "nan")
    check_error(capsys, "--sample must be an integer from 1 on", *words, "--max-drop", "1", "--sample", "0")
    check_error(capsys, "give one of the two", *words, "--max-drop", "1", "--protect", "head")
    check_error(capsys, "no layer 'block_99' to protect", *words, "--protect", "block_99")
    static = [*words, "--profiles", "float32,int8_static"]
    message = "--max-drop is for profiles .* none of float32, int8_static is"
    check_error(capsys, message, *static, "--max-drop", "1")
    check_error(capsys, "--protect is for profiles", *static, "--protect", "head")
    broken = shutil.copytree(trained / "export", tmp_path / "broken")
    (broken / "manifest.json").write_text((broken / "manifest.json").read_text()[:-100])
    check_error(capsys, "manifest.json is not valid JSON", "evaluate", broken, "digits")
    assert not (tmp_path / "out").exists()


CHECKPOINTS = Path(__file__).parent / "weights" / "fixtures"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run of a tiny checkpoint with a fresh head for the classes of `folder`."""
    base = tmp_path_factory.mktemp("imported")
    (base / "names.txt").write_text("dark\nlight\n")
    words = ["import", CHECKPOINTS / "timm_vit", "--out", base / "run", "--labels", base / "names.txt"]
    result = subprocess.run(
        [sys.executable, "-m", "keras_vit.cli", *map(str, words)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "timm" in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].endswith("2 classes")
    return base / "run"


def test_an_imported_run_keeps_the_checkpoints_head_and_answers_like_it(tmp_path, capsys):
    import keras

    code, _, err = run(capsys, "import", CHECKPOINTS / "hugging_face_vit_old", "--out", tmp_path / "run")
    assert code == 0
    assert "hugging_face" in err[-1]
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    logits = np.load(CHECKPOINTS / "hugging_face_vit_old" / "logits.npy")
    height, width = model.image_size
    images = np.load(CHECKPOINTS / "images.npy")[:, :height, :width]
    np.testing.assert_allclose(np.asarray(model(images)), logits, atol=1e-4)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["checkpoint"]["format"] == "hugging_face"
    assert len(config["labels"]) == logits.shape[1]


@pytest.mark.slow
def test_an_imported_run_is_a_run(imported, folder, tmp_path, capsys):
    imported = shutil.copytree(imported, tmp_path / "run")
    code, _, _ = run(
        capsys, "quantize", imported, "--profile", "int8_static", "--data", folder, "--epochs", "1"
    )
    assert code == 0
    code, _, _ = run(
        capsys, "export", imported, "--out", tmp_path / "export", "--profiles", "float32,int8_static"
    )
    assert code == 0
    code, out, _ = run(
        capsys, "predict", tmp_path / "export" / "int8_static.tflite", folder / "dark" / "1.png"
    )
    assert code == 0
    assert {line.split()[-1] for line in out.splitlines()[1:]} == {"dark", "light"}


def test_training_starts_from_an_imported_run(imported, folder, tmp_path, capsys):
    words = [
        "--epochs",
        "4",
        "--batch-size",
        "8",
        "--augment",
        "none",
        "--layer-decay",
        "0.8",
        "--freeze",
        "1",
    ]
    code, _, err = run(
        capsys,
        "train",
        folder,
        "--start",
        imported,
        "--out",
        tmp_path / "run",
        "--learning-rate",
        "0.01",
        *words,
    )
    assert code == 0, err
    import keras

    old, new = (keras.models.load_model(place / "model.keras") for place in (imported, tmp_path / "run"))
    np.testing.assert_array_equal(np.asarray(new.cls), np.asarray(old.cls), "frozen")
    assert (
        np.abs(np.asarray(new.blocks[-1].mlp.expand.kernel) - old.blocks[-1].mlp.expand.kernel).max() > 1e-4
    )
    assert new.preprocessing == old.preprocessing, "the weights expect pictures prepared like this"
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history[-1]["val_accuracy"] > 0.8


def test_explain_draws_a_picture(trained, folder, tmp_path, capsys):
    code, out, _ = run(
        capsys, "explain", trained / "run", folder / "dark" / "turned.jpg", "--out", tmp_path / "why.png"
    )
    assert code == 0
    assert out.splitlines()[0].split()[-1] == "dark"
    with Image.open(tmp_path / "why.png") as picture_:
        assert picture_.width > 2 * picture_.height


def test_bad_input_for_import_start_and_explain(trained, imported, folder, tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    stored = CHECKPOINTS / "timm_vit"
    evil = tmp_path / "model.safetensors"
    evil.write_bytes(b"\x80\x04\x95" + b"\0" * 100)
    check_error(capsys, r"none.npz does not exist", "import", tmp_path / "none.npz", *out)
    check_error(capsys, r"pickle", "import", evil, *out)
    check_error(capsys, r"exists and is not empty: give another --out", "import", stored, "--out", imported)
    check_error(capsys, r"classes must be a positive integer", "import", stored, "--num-classes", "0", *out)
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    words = "--labels", names, "--num-classes", "3"
    check_error(capsys, r"names 2 classes, and the model has 3", "import", stored, *words, *out)
    check_error(capsys, r"none.txt cannot be read", "import", stored, "--labels", tmp_path / "none.txt", *out)
    check_error(
        capsys,
        r"--variant Ti/16 with --start",
        "train",
        folder,
        "--start",
        imported,
        "--variant",
        "Ti/16",
        *out,
    )
    check_error(capsys, r"--layer-decay must be between", "train", folder, "--layer-decay", "2", *out)
    check_error(capsys, r"has no data of its own: say --data", "export", imported, *out)
    check_error(
        capsys,
        r"was imported with the classes dark, light",
        "quantize",
        imported,
        "--profile",
        "int8",
        "--data",
        "digits",
    )
    image = folder / "dark" / "1.png"
    picture_ = ["--out", tmp_path / "out.png"]
    tflite = trained / "export" / "int8.tflite"
    check_error(capsys, r"explain looks inside the Keras model", "explain", tflite, image, *picture_)
    check_error(capsys, r"there is no picture", "explain", trained / "run", tmp_path / "no.png", *picture_)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.png").exists()


def test_explain_needs_a_place_for_its_picture(trained, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "explain", trained / "run", folder / "dark" / "turned.jpg")
    assert code == 2 and "--out" in "".join(err) and not list(tmp_path.iterdir())


def test_a_scenario_of_more_than_one_model_is_for_the_demo(tmp_path, capsys):
    check_error(
        capsys, "`keras-vit demo --scenario pretraining`", "train", "pretraining", "--out", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


def readers_of(base, monkeypatch):
    """{a JSON file of a RUN, an export or a packed set: what the commands do with it}, but for training."""
    from keras_vit.commands import common
    from keras_vit.commands.quantize import quantize
    from keras_vit.data import packed as packed_sets
    from keras_vit.export import ownership
    from keras_vit.export.quantization import finetune
    from keras_vit.export.verification import benchmark, manifest
    from keras_vit.mobile_demo import site
    from keras_vit.training import callbacks, curves, recipes, runs

    run_folder, directory, packed = base / "run", base / "export", base / "packed"
    quantized = run_folder / "quantized" / "int8_static"
    trained_on = json.loads((run_folder / "config.json").read_text())["data"]
    loaded = SimpleNamespace(labels=("dark", "light"), **trained_on)
    monkeypatch.setattr(common, "load_images", lambda *arguments, **options: loaded)
    monkeypatch.setattr(curves, "save", lambda figure, path, **options: None)
    monkeypatch.setattr(finetune, "finetune", lambda *arguments: [{"epoch": 1, "val_accuracy": 0.5}])
    kept = json.loads((quantized / "config.json").read_text())

    def of_run():
        config = runs.read_run(run_folder)
        chosen = recipes.recipe_from(config["recipe"])
        chosen.to_dict()
        chosen.model_config()
        "\n".join(config["labels"])
        finetune.about_run(run_folder, config, ["int8_static"])
        common.load_data_of_run(run_folder, None, False)
        runs.check_same_data(config, loaded, run_folder)
        runs.open_run(run_folder, {**config, "recipe": chosen.to_dict()})

    def of_history():
        for keep, patience in (("last", 0), ("last", 2), ("best", 0)):
            checkpoint = callbacks.RunCheckpoint(run_folder, keep, epochs=6, steps=5, patience=patience)
            checkpoint.restore_history()
            if checkpoint.finished:
                assert 0 <= checkpoint.best_epoch < len(checkpoint.history)
                curves.draw_curves(checkpoint.history, run_folder / "curves.png")
                json.dumps({"event": "end", **checkpoint.history[-1]}, allow_nan=False)

    def of_quantized():
        finetune.about_run(run_folder, {"data": {}}, ["int8_static"])
        finetune._start_again_if_changed(quantized, kept)
        if (quantized / "comparison.json").exists():  # else it begins anew
            quantize(run_folder, "int8_static", data=None, epochs=None, learning_rate=None)

    def of_export():
        ownership.check_ours(directory)
        site.check_export(directory)
        manifest.check_listed(benchmark._models(directory)[-1][0])
        found = manifest.read_manifest(directory)
        height, width = found["image_size"]
        assert all(isinstance(label, str) for label in found["labels"])
        np.zeros((1, height, width, 3), bool)

    def of_packed():
        packed_sets.open_packed(packed)

    return {
        run_folder / "config.json": of_run,
        run_folder / "history.json": of_history,
        quantized / "config.json": of_quantized,
        quantized / "comparison.json": of_quantized,
        directory / "manifest.json": of_export,
        packed / "dataset.json": of_packed,
    }


def test_any_json_file_is_read_or_refused_in_a_line(trained, folder, tmp_path, monkeypatch, capsys):
    base = shutil.copytree(trained, tmp_path / "base")
    code, _, _ = run(capsys, "pack", folder, "--out", base / "packed", "--shards", "1")
    assert code == 0
    for file, read in readers_of(base, monkeypatch).items():
        content, refused = file.read_text(), 0
        read()
        neighbours = {path: path.read_bytes() for path in file.parent.glob("*.json")}
        for what, text in mutations(json.loads(content)):
            file.write_text(text)
            try:
                read()
            except InputError as error:
                refused += 1
                assert str(error).isprintable(), (file.name, what)
            except Exception as error:
                raise AssertionError(f"{file.name} with {what}: {error!r}") from error
            for path, data in neighbours.items():  # _start_again_if_changed removes what is of another time
                path.write_bytes(data)
        assert refused > 50, file
    capsys.readouterr()


def test_predict_refuses_what_is_not_what_was_exported(trained, folder, tmp_path, capsys):
    copy, image = shutil.copytree(trained / "export", tmp_path / "export"), folder / "dark" / "1.png"
    for name in ("int8.tflite", "keras/float32.keras", "saved_model/1/fingerprint.pb"):
        with open(copy / name, "ab") as file:
            file.write(b"x")
    for model in ("int8.tflite", "keras/float32.keras", "saved_model", "saved_model/1"):
        message = "is not the (file|folder) that was exported: .*[Cc]opy it again, or export the model again"
        check_error(capsys, message, "predict", copy / model, image)
    words = ["explain", copy / "keras/float32.keras", image, "--out", tmp_path / "a.png"]
    check_error(capsys, "is not the file that", *words)
    assert run(capsys, "predict", copy / "float32.tflite", image)[0] == 0
    (copy / "int8.tflite").rename(tmp_path / "int8.tflite")
    (tmp_path / "manifest.json").write_text('{"name": "that of a web page"}')
    assert run(capsys, "predict", tmp_path / "int8.tflite", image)[0] == 0
    (copy / "manifest.json").write_text("{")
    check_error(capsys, "manifest.json is not valid JSON", "predict", copy / "float32.tflite", image)


@pytest.mark.parametrize("text", ["{}", "null", "[]", '{"format": 1}', "[1]"])
def test_a_run_of_another_shape_is_refused_with_a_way_out(trained, tmp_path, capsys, text):
    copy = shutil.copytree(trained / "run", tmp_path / "run")
    (copy / "config.json").write_text(text)
    for words in (["quantize", copy, "--profile", "int8"], ["export", copy, "--out", tmp_path / "out"]):
        check_error(capsys, "config.json is damaged .*: restore it, or train into another --out", *words)
    assert not (tmp_path / "out").exists()


def test_debug_shows_where_an_error_arose(capsys, monkeypatch, tmp_path):
    words = "train", "digits", "--out", tmp_path / "run", "--recipe", "smal"
    code, out, err = command_line.run(capsys, *words)
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err
    code, debug_out, debug = command_line.run(capsys, "--debug", *words)
    assert (code, debug_out) == (2, out)
    assert debug.startswith("Traceback (most recent call last)") and 'errors.py", line ' in debug
    assert debug.endswith(err), "the line of the error stands last"
    assert command_line.run(capsys, *words)[2] == err, "it is for one run"

    def broken():
        raise ZeroDivisionError("a fault of our own")

    module = importlib.import_module("keras_vit.commands.recipes")
    monkeypatch.setattr(module, "wide_console", broken)
    code, _, err = command_line.run(capsys, "recipes")
    assert (code, err.count("\n")) == (1, 1)
    assert "ZeroDivisionError: a fault of our own (keras-vit --debug recipes ... shows where)" in err
    code, _, err = command_line.run(capsys, "--debug", "recipes")
    assert code == 1 and ", in broken" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("train", "digits", "--out"),
        ("pretrain", "digits", "--out"),
        ("pack", "digits", "--out"),
        ("demo", "--out"),
        ("export", "runs/here", "--out"),
        ("import", "model.npz", "--out"),
        ("show", "digits", "--out"),
    ],
)
def test_nothing_is_written_below_a_file(capsys, monkeypatch, tmp_path, words):
    (tmp_path / "FILE").write_text("mine")
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # it is said before that is imported
    code, _, err = command_line.run(capsys, *words, tmp_path / "FILE" / "a" / "b")
    assert (
        code == 2
        and f"{tmp_path / 'FILE'} is no folder" in err
        and err.strip().endswith("use another --out.")
    )
    assert (tmp_path / "FILE").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1

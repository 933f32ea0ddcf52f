"""The manifest is believed only as far as the files agree with it."""

import hashlib
import json
import os
import shutil
from types import SimpleNamespace

import pytest

from keras_vit.errors import InputError
from keras_vit.export.verification.manifest import (
    Refused,
    check_listed,
    checked_file,
    digest,
    entries,
    read_manifest,
)
from keras_vit.export.verification.raw_inputs import raw_inputs
from keras_vit.modalities import Action


@pytest.fixture
def copy(directory, tmp_path):
    return shutil.copytree(directory, tmp_path / "copy")


def refusals(folder):
    found = {}
    for entry in entries(read_manifest(folder)):
        try:
            checked_file(folder, entry)
        except Refused as refused:
            found[entry["name"]] = str(refused)
    return found


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path):
    def sha(content):
        return hashlib.sha256(content).hexdigest()

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"one")
    (tmp_path / "a").write_bytes(b"two")
    expected = sha(f"{sha(b'two')} a\n{sha(b'one')} b/x\n".encode())
    assert digest(tmp_path) == expected
    assert digest(tmp_path / "a") == sha(b"two")
    (tmp_path / "a").rename(tmp_path / "c")
    assert digest(tmp_path) != expected


def test_a_link_to_a_changed_file_is_refused_too(tmp_path):
    (tmp_path / "dist").mkdir()
    file, link = tmp_path / "dist" / "int8.tflite", tmp_path / "link.tflite"
    file.write_bytes(b"exported")
    entry = {"name": file.name, "source": file.name, "sha256": digest(file)}
    manifest = {"format": 1, "labels": ["a", "b"], "image_size": [8, 8], "sources": [entry]}
    manifest["artifacts"] = [entry]
    (tmp_path / "dist" / "manifest.json").write_text(json.dumps(manifest))
    link.symlink_to(file)
    check_listed(link)
    file.write_bytes(b"changed!")
    for path in (file, link):
        with pytest.raises(InputError, match="is not the file that was exported"):
            check_listed(path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", b"{", b'{"format": 1, "artifacts": []}'])
def test_a_manifest_that_says_nothing_is_refused(tmp_path, content):
    (tmp_path / "int8.tflite").write_bytes(b"exported")
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json .*export the model again"):
        check_listed(tmp_path / "int8.tflite")
    (tmp_path / "manifest.json").write_bytes(b'{"name": "of a web page", "icons": []}')
    check_listed(tmp_path / "int8.tflite")
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(InputError, match=r"manifest\.json"):
        check_listed(tmp_path / "int8.tflite")


@pytest.mark.parametrize("name", ["text", "text\n", "/"])
def test_a_manifest_of_other_modalities_does_not_fit(tmp_path, name):
    runner = SimpleNamespace(
        inputs={"image": ((8, 8, 3), "float32")},
        path=tmp_path / "int8.tflite",
        model=SimpleNamespace(modalities={name: Action(4, 2)}),
    )
    with pytest.raises(InputError, match=r"int8.tflite and its manifest.json do not fit"):
        raw_inputs(runner, {})


def test_untouched_files_are_taken(copy):
    assert list(refusals(copy)) == ["changed.tflite"]  # which has another hash from the start


def test_a_changed_keras_file_and_a_changed_folder_are_refused(copy):
    with open(copy / "keras" / "int8.keras", "ab") as file:
        file.write(b"\0")
    weights = copy / "saved_model" / "1" / "variables" / "variables.index"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    found = refusals(copy)
    assert set(found) == {"changed.tflite", "keras/int8.keras", "saved_model/1"}
    assert "keras/int8.keras is not the file that was exported: its SHA-256 is" in found["keras/int8.keras"]
    assert "saved_model/1 is not the folder that was exported" in found["saved_model/1"]


def test_a_file_more_in_a_folder_one_missing_and_one_without_a_hash_are_refused(copy):
    (copy / "saved_model" / "1" / "assets.extra").mkdir()
    (copy / "saved_model" / "1" / "assets.extra" / "more").write_text("more")
    (copy / "float32.tflite").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["sources"][0]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    found = refusals(copy)
    assert set(found) == {"changed.tflite", "keras/float32.keras", "saved_model/1", "float32.tflite"}
    assert found["float32.tflite"] == "float32.tflite is missing: export the model again"
    assert "has no SHA-256 of it" in found["keras/float32.keras"]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: "",
        lambda m: "{",
        lambda m: "[" * 100_000,
        lambda m: "[]",
        lambda m: "\x00\xff",
        lambda m: {**m, "format": 2},
        lambda m: {**m, "labels": []},
        lambda m: {**m, "labels": 5},
        lambda m: {**m, "labels": [1, 2]},
        lambda m: {**m, "image_size": [8]},
        lambda m: {**m, "image_size": [8, "8"]},
        lambda m: {**m, "artifacts": {}},
        lambda m: {**m, "artifacts": [{"name": "int8.tflite"}]},
        lambda m: {**m, "artifacts": [{"name": "../int8.tflite", "source": "keras/int8.keras"}]},
        lambda m: {**m, "artifacts": [{"name": "/etc/passwd", "source": "keras/int8.keras"}]},
        lambda m: {**m, "sources": 7},
        lambda m: {**m, "classes": 0},
        lambda m: {**m, "classes": 2},  # with three labels
        lambda m: {**m, "activation": "relu"},
        lambda m: {key: value for key, value in m.items() if key != "artifacts"},
    ],
)
def test_a_damaged_manifest_is_one_clear_line(directory, tmp_path, change):
    changed = change(json.loads((directory / "manifest.json").read_text()))
    text = changed if isinstance(changed, str) else json.dumps(changed)
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"manifest.json (is|was) .*export the model again"):
        read_manifest(tmp_path)

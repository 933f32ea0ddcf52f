"""Atomic writing: the old content survives every failure, a full disk included."""

import errno
import os
import subprocess

import pytest

from keras_vit.errors import InputError
from keras_vit.files import atomic_directory, atomic_write, find_labels, write_json


def test_a_finished_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    write_json(path, {"x": 2})
    assert path.read_text() == '{\n  "x": 2\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError) as error, atomic_write(path) as temporary:
        temporary.symlink_to("/dev/full")  # the kernel's own full disk
        temporary.write_text("new" * 10000)
    assert error.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_not_a_number_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), atomic_directory(target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    for content in ("one", "two"):
        with atomic_directory(target) as folder:
            (folder / content).write_text(content)
            assert not (target / content).exists()
    assert os.listdir(target) == ["two"]
    assert os.listdir(tmp_path) == ["out"]


def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_cleared(tmp_path):
    dead, path = dead_process(), tmp_path / "a.json"
    (tmp_path / f".writing-{dead}-a.json").write_text("half")
    (tmp_path / f".writing-{os.getppid()}-a.json").write_text("somebody is at it")
    (tmp_path / f".writing-{dead}-b.json").write_text("another file's")
    write_json(path, 1)
    kept = {f".writing-{os.getppid()}-a.json", f".writing-{dead}-b.json", "a.json"}
    assert set(os.listdir(tmp_path)) == kept


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path):
    target = tmp_path / "out"
    old = tmp_path / f".replaced-{dead_process()}-out"
    old.mkdir()
    (old / "precious").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(target):
        raise RuntimeError
    assert (target / "precious").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    """The new content arrives in one rename: there is no moment at which the file is half written."""
    path = tmp_path / "a.json"
    write_json(path, "old")
    with open(path) as reader:
        write_json(path, "new")
        assert reader.read() == '"old"\n'
    assert path.read_text() == '"new"\n'


def test_labels_in_another_encoding(tmp_path):
    (tmp_path / "labels.txt").write_bytes("Käse\nBrot\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"labels.txt is no text in UTF-8 .*save it as UTF-8"):
        find_labels(tmp_path / "model.tflite", 2)
    (tmp_path / "labels.txt").write_text("Käse\nBrot\n", encoding="utf-8")
    assert find_labels(tmp_path / "model.tflite", 2) == ["Käse", "Brot"]


def test_a_link_to_a_device_is_no_labels_txt(tmp_path):
    os.symlink("/dev/zero", tmp_path / "labels.txt")
    assert find_labels(tmp_path / "model.tflite", 2) is None


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError("1000 requested and 400 written"), errno.ENOSPC),  # of NumPy
        (OSError("Can't write data (file write failed: errno = 28, error message = 'No ...')"), errno.ENOSPC),
    ],
)
def test_a_full_disk_names_the_file_whatever_library_met_it(tmp_path, error, number):
    for writer in (atomic_write, atomic_directory):
        with pytest.raises(OSError) as caught, writer(tmp_path / "model"):
            try:
                raise error
            finally:
                raise ValueError("cannot close the file")  # as Keras says then
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "model"))
        assert os.listdir(tmp_path) == []


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()
    assert caught.value.filename == str(tmp_path / "missing")
    with pytest.raises(KeyError), atomic_write(tmp_path / "a"):
        raise KeyError("a")


def test_nan_in_json_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.json cannot be written: a number in it is not finite"):
        write_json(tmp_path / "a.json", {"x": [float("nan")]})
    assert os.listdir(tmp_path) == []

"""Files that are wrong or hostile: an `InputError` that says why, and nothing is run or allocated."""

import contextlib
import io
import json
import os
import pickle
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_vit.errors import InputError
from keras_vit.weights import npz_file, read_checkpoint

from .conftest import FIXTURES


class Bomb:
    """A pickle that creates a folder when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def refused(path, message):
    """Reading must fail with that message and without taking memory for what the file claims."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as caught:
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


# --- pickles --------------------------------------------------------------------------------------


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["a.bin", "a.ckpt", "a.pkl", "a.pt", "a.pth", "a.safetensors", "a.npz", "a"])
def test_a_pickle_is_refused_and_never_executed(tmp_path, name, protocol):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark"), protocol))
    refused(tmp_path / name, "pickle|no safetensors|damaged|checkpoints end in")
    assert not (tmp_path / "mark").exists()


def test_the_message_tells_how_to_convert_a_pickle(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    refused(tmp_path / "model.safetensors", r"is a pickle: .* safetensors\.torch\.save_file")


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.pt"])
def test_a_file_of_torch_save_is_refused_and_never_executed(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(tmp_path / "mark")))
        archive.writestr("archive/data/0", b"1234")
    refused(tmp_path / name, "pickle|no safetensors file")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["extra", "head/kernel"])
def test_an_object_array_hidden_in_an_npz_is_refused_and_never_executed(tmp_path, name):
    arrays = dict(np.load(FIXTURES / "original" / "vit.npz"))
    arrays[name] = np.array([Bomb(tmp_path / "mark")], dtype=object)
    np.savez(tmp_path / "vit.npz", **arrays)
    with pytest.raises(FileExistsError), np.load(tmp_path / "vit.npz", allow_pickle=True) as archive:
        (tmp_path / "mark").mkdir()
        archive[name]
    (tmp_path / "mark").rmdir()
    refused(tmp_path / "vit.npz", f"{name}.npy holds Python objects")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("pickled", ["pytorch_model.bin", "model.pth"])
def test_a_folder_with_nothing_but_a_pickle(fixture, pickled):
    folder = fixture("hugging_face_vit_old")
    (folder / "model.safetensors").rename(folder / pickled)
    refused(folder, rf"only as a pickle, {pickled}: .*save_file")


# --- safetensors ----------------------------------------------------------------------------------

ONE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def entry(**changes):
    return {"a": {**ONE, **changes}}


@pytest.mark.parametrize(
    "header, message",
    [
        (entry(shape=[2**40, 2**20]), "overflow computing buffer size"),
        (entry(shape=[10**4000]), "number out of range"),
        (entry(shape=[2**62] * 1000), "overflow computing buffer size"),
        (entry(shape=[-2, -2]), "integer `-2`"),
        (entry(shape=[2.0, 2]), "floating point `2.0`"),
        (entry(shape=[True, 4]), "boolean `true`"),
        (entry(shape=["2", 2]), 'string "2"'),
        (entry(shape=3), "expected a sequence"),
        (entry(shape=[2, 2, 2]), "invalid shape, data type, or offset"),
        (entry(dtype="F64"), "invalid shape, data type, or offset"),
        (entry(dtype="F31"), "unknown variant `F31`.*`F16`"),
        (entry(dtype=["F32"]), "expected string or map"),
        (entry(data_offsets=[16, 0]), "invalid offset for tensor `a`"),
        (entry(data_offsets=[-16, 0]), "integer `-16`"),
        (entry(data_offsets=[0]), "invalid length 1"),
        (entry(data_offsets=[16, 32]), "invalid offset for tensor `a`"),
        (entry(data_offsets=[10**12, 10**12 + 16]), "invalid offset for tensor `a`"),
        (entry(shape=[2**20, 2**20], data_offsets=[0, 2**42]), "truncated.*file not fully covered"),
        ({"a": ONE, "b": ONE}, "invalid offset for tensor `[ab]`"),
        ({"a": ONE, "b": {**ONE, "data_offsets": [8, 24]}}, "invalid offset for tensor `b`"),
        ({"a": "F32"}, 'string "F32"'),
        ({"a": {"dtype": "F32"}}, "missing field `shape`"),
        ([ONE], "invalid JSON.*sequence"),
        (b'{"a": ', "EOF while parsing"),
        (b'{"a": ' + b"[" * 10**5, "recursion limit"),
        (b'{"a": 1, "a": 2}', "integer `1`, expected struct TensorInfo"),
        (b"\xff\xfe\xfd", "invalid UTF-8"),
        ({}, "truncated.*file not fully covered"),
    ],
)
def test_a_safetensors_header_that_is_not_true(tmp_path, header, message):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    refused(tmp_path / "a.safetensors", message)


@pytest.mark.parametrize("length", [17, 10**6, 10**8 + 1, 2**63, 2**64 - 1])
def test_a_safetensors_header_longer_than_the_file(tmp_path, length):
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + bytes(16))
    refused(tmp_path / "a.safetensors", "no safetensors file.*(header too large|invalid header length)")


def test_float8_is_refused(tmp_path, fixture):
    """Neither NumPy nor the library's NumPy reader has it; the shape is known all the same."""
    content = (fixture("timm_vit") / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    end = header["norm.bias"]["data_offsets"][1]
    later = {k: v for k, v in header.items() if k != "__metadata__" and v["data_offsets"][0] >= end}
    assert header["norm.bias"]["dtype"] == "F32"
    for entry in [header["norm.bias"], *later.values()]:  # a quarter of the bytes: what follows moves up
        begin, stop = entry["data_offsets"]
        entry["data_offsets"] = [begin - 48 * (entry is not header["norm.bias"]), stop - 48]
    header["norm.bias"]["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + content[8 + int.from_bytes(content[:8], "little") + 48 :]
    )
    with pytest.raises(InputError, match=r"norm\.bias is of type F8_E4M3; BF16, F16, F32, F64 can be read"):
        read_checkpoint(tmp_path / "a.safetensors", num_heads=2)


def test_whole_numbers_are_no_weights(fixture, edit_tensors):
    folder = fixture("timm_vit")
    edit_tensors(folder, lambda tensors: tensors | {"norm.bias": np.ones(16, "int64")})
    refused(folder, "norm.bias is of type I64; BF16, F16, F32, F64 can be read")


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "a.bin", ".."]
)
def test_shards_cannot_leave_their_folder(fixture, shard):
    folder = fixture("hugging_face_vit_old")
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(folder, "no name of a .safetensors file in the same folder")


@pytest.mark.parametrize(
    "index, message",
    [
        ({}, "weight_map must map"),
        ({"weight_map": {"a": 1}}, "weight_map must map"),
        ({"weight_map": {"a": "absent.safetensors"}}, r"absent.safetensors does not exist"),
        ({"weight_map": {"a": "part.safetensors"}}, "names 1 tensors that no shard has: a"),
    ],
)
def test_an_index_of_shards_that_is_wrong(fixture, index, message):
    folder = fixture("hugging_face_vit_old")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, message)


def test_a_header_length_that_looks_like_a_pickle(tmp_path, fixture):
    """Header lengths 640, 1024 + 128, ... begin with the bytes of a pickle's protocol."""
    content = (fixture("timm_vit") / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    padded = next(n for n in range(length, length + 2**16) if n % 2**16 in (0x280, 0x380, 0x480, 0x580))
    header = content[8 : 8 + length].ljust(padded)
    (tmp_path / "a.safetensors").write_bytes(padded.to_bytes(8, "little") + header + content[8 + length :])
    assert read_checkpoint(tmp_path / "a.safetensors", num_heads=2).num_classes == 5


# --- npz ------------------------------------------------------------------------------------------


def npy(shape, data=bytes(16), descr="<f4"):
    """A .npy file that claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize("shape", [(10**12,), (2**40, 2**40), (-4,), (-2, -2), (5,), (3,), ()])
def test_an_npy_header_that_claims_another_shape(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "vit.npz", "w") as archive:
        archive.writestr("embedding/kernel.npy", npy(shape))
    refused(tmp_path / "vit.npz", "embedding/kernel.npy claims shape")


def test_a_zip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_file, "ALWAYS_FINE", 10**6)
    with zipfile.ZipFile(tmp_path / "vit.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy((2**20,), bytes(2**22)))
    refused(tmp_path / "vit.npz", "would unpack from .* to 4,194,4.* bytes")


def test_npz_members_that_are_no_arrays(tmp_path):
    for name, content, message in [
        ("readme.txt", b"hello", "holds 'readme.txt', no array"),
        ("a.npy", b"hello", "damaged"),
        ("a.npy", npy((4,)).replace(b"\x01\x00", b"\x09\x00", 1), "version"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': __import", "damaged"),
    ]:
        with zipfile.ZipFile(tmp_path / "vit.npz", "w") as archive:
            archive.writestr(name, content)
        refused(tmp_path / "vit.npz", message)
    arrays = dict(np.load(FIXTURES / "original" / "vit.npz"))
    np.savez(tmp_path / "vit.npz", **{**arrays, "head/bias": np.array(["a", "b", "c", "d", "e"])})
    refused(tmp_path / "vit.npz", "head/bias holds <U1, not floating point")


# --- damage ---------------------------------------------------------------------------------------

FILES = {"npz": FIXTURES / "original" / "vit.npz", "safetensors": FIXTURES / "timm_vit" / "model.safetensors"}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("kept", [0, 4, 8, 9, 500, 0.5, -1])
def test_a_truncated_file(tmp_path, kind, kept):
    content = FILES[kind].read_bytes()
    kept = int(len(content) * kept) if isinstance(kept, float) else kept
    (tmp_path / f"a.{kind}").write_bytes(content[:kept])
    refused(tmp_path / f"a.{kind}", "damaged|truncated|no safetensors file")


@pytest.mark.parametrize("kind", FILES)
def test_random_damage_is_read_or_refused_but_never_a_crash(tmp_path, kind):
    content = FILES[kind].read_bytes()
    generator = np.random.default_rng(0)
    refusals = 0
    for _ in range(100):
        damaged = bytearray(content)
        # Most bytes are numbers, where nothing can go wrong: aim at the headers, at both ends.
        for place in generator.integers(0, 3000, size=3):
            damaged[place if generator.random() < 0.5 else -place - 1] = generator.integers(256)
        (tmp_path / f"a.{kind}").write_bytes(damaged)
        try:
            read_checkpoint(tmp_path / f"a.{kind}", num_heads=2)
        except InputError:
            refusals += 1
    assert refusals > 20


# --- folders and tensors --------------------------------------------------------------------------


def test_paths_that_are_no_checkpoints(tmp_path):
    refused(tmp_path / "absent.npz", "does not exist")
    refused("google/vit-base-patch16-224", "does not exist: give a checkpoint file or a folder")
    refused(tmp_path, "has no weights")
    (tmp_path / "a.h5").write_bytes(b"1234")
    refused(tmp_path / "a.h5", "checkpoints end in .npz or .safetensors")
    for name in ("a", "b"):
        (tmp_path / f"{name}.npz").write_bytes(FILES["npz"].read_bytes())
    refused(tmp_path, "has several: a.npz, b.npz weights")


def test_a_hugging_face_folder_without_its_config(fixture):
    folder = fixture("hugging_face_vit_old")
    (folder / "config.json").unlink()
    refused(folder, "from Hugging Face: .*config.json, which belongs to it, is missing")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model_type": "dinov2"}, "model_type is 'dinov2'; vit and deit can be read"),
        ({"model_type": ["vit"]}, "model_type"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_attention_heads": 3}, "width 16 is not a multiple of num_heads 3"),
        ({"num_attention_heads": 0}, "heads must be"),
        ({"num_hidden_layers": 10**9}, "has 2 blocks, but .*config.json says 1000000000"),
        ({"hidden_size": 10**9}, "of another shape"),
        ({"hidden_size": "16"}, "hidden_size must be of type int, not '16'"),
        ({"intermediate_size": 10**12}, "of another shape"),
        ({"image_size": 10**9}, "of another shape"),
        ({"image_size": "big"}, "image_size must be"),
        ({"image_size": 2}, "of another shape"),
        ({"layer_norm_eps": -1.0}, "epsilon must be a number above 0"),
    ],
)
def test_a_config_of_hugging_face_that_is_wrong(fixture, edit_json, values, message):
    folder = fixture("hugging_face_vit_old")
    edit_json(folder / "config.json", **values)
    refused(folder, message)


@pytest.mark.parametrize("name", ["hugging_face_deit_teacher", "timm_registers"])
def test_any_value_in_a_config_is_read_or_refused_but_never_a_crash(fixture, name):
    file = fixture(name) / "config.json"
    content = json.loads(file.read_text())
    parts = [(), *((key,) for key, value in content.items() if isinstance(value, dict))]
    for keys in ((*part, key) for part in parts for key in (content[part[0]] if part else content)):
        for value in (
            None,
            -1,
            0,
            10**30,
            1e308 * 10,
            True,
            "x",
            [],
            [1, 2, 3],
            [1e308 * 10, 4],
            {},
            {"a": 1},
        ):
            changed = json.loads(file.read_text())
            (changed[keys[0]] if len(keys) == 2 else changed)[keys[-1]] = value
            other = file.with_name("changed")
            other.mkdir(exist_ok=True)
            (other / "config.json").write_text(json.dumps(changed))
            (other / "model.safetensors").write_bytes((file.parent / "model.safetensors").read_bytes())
            with contextlib.suppress(InputError):
                read_checkpoint(other)


@pytest.mark.parametrize(
    "text, message",
    [("", "damaged"), ("[1]", "must hold a JSON object, not list"), ("{" + "[" * 10**5, "damaged")],
)
def test_a_config_that_is_no_json(fixture, text, message):
    folder = fixture("hugging_face_vit_old")
    (folder / "config.json").write_text(text)
    refused(folder, f"config.json.*{message}")


@pytest.mark.parametrize("name", ["hugging_face_vit_old", "timm_deit"])
def test_missing_unknown_and_wrong_tensors_are_named_five_and_a_count(fixture, edit_tensors, name):
    folder = fixture(name)

    def spoil(tensors):
        biases = [key for key in tensors if "norm" in key and key.endswith("bias") and "." in key]
        wrong = next(key for key in tensors if key.endswith(("classifier.bias", "head.bias")))
        kept = {key: value for key, value in tensors.items() if key not in biases}
        extra = {f"extra_{i}": np.ones(1, "float32") for i in range(7)}
        return kept | extra | {wrong: np.ones(9, "float32")}

    edit_tensors(folder, spoil)
    listed = r"\(\S+, \S+, \S+, \S+, \S+\)"
    refused(
        folder,
        rf"5 missing {listed}; 7 unknown \((extra_\d, ){{5}}\.\.\.\); 1 of another shape \(.*bias \[9\]",
    )


def test_the_same_for_an_npz(tmp_path):
    arrays = dict(np.load(FILES["npz"]))
    arrays["Transformer/encoder_norm/scale"] = np.ones(7, "float32")
    del arrays["head/bias"]
    np.savez(tmp_path / "vit.npz", **arrays, extra=np.ones(1, "float32"))
    refused(
        tmp_path / "vit.npz",
        r"1 missing \(head/bias\); 1 unknown \(extra\); 1 of another shape "
        r"\(Transformer/encoder_norm/scale \[7\] instead of \[16\]\)",
    )


def test_a_block_that_is_missing_or_absurd(fixture, edit_tensors):
    folder = fixture("timm_vit")
    edit_tensors(folder, lambda tensors: tensors | {"blocks.999999999999.x": np.ones(1, "float32")})
    refused(folder, "block 2 is missing among 3")
    edit_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("blocks.0")})
    refused(folder, r"it has no tensor blocks\.0\.")


def test_a_safetensors_file_of_another_model(tmp_path, fixture, edit_tensors):
    folder = fixture("timm_vit")
    edit_tensors(folder, lambda tensors: {f"visual.{k}": v for k, v in tensors.items()})
    refused(folder, "no ViT of Hugging Face or timm: its 32 tensors are visual.")


@pytest.mark.parametrize(
    "values", [{"num_heads": 0}, {"num_heads": "two"}, {"num_classes": 0}, {"image_size": -1}]
)
def test_hints_out_of_range(values):
    name = "original_mean" if "image_size" in values else "timm_vit"
    with pytest.raises(InputError, match=next(iter(values))):
        read_checkpoint(FIXTURES / name, **values)


@pytest.mark.parametrize(
    "name", ["vit.npz", "vit.safetensors", "folder/config.json", "folder/model.safetensors"]
)
def test_pipes_and_devices_are_no_files(tmp_path, fixture, name):
    shutil.copytree(fixture("timm_vit"), tmp_path / "folder")
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        (tmp_path / name).unlink(missing_ok=True)
        make(tmp_path / name)
        given = (tmp_path / name).parent if "/" in name else tmp_path / name
        refused(given, "no regular file|holds no|does not tell how many")

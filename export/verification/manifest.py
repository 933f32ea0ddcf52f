"""manifest.json: what an export directory holds, and whether it still does.

    {"format", "model", "image_size", "preprocessing", "labels", "versions",     (of a multimodal model
                 "inputs": {name: {"shape", "dtype"}} and "modalities" instead of "image_size")
     "classes", "activation": how many numbers an answer has, and what they mean (see `keras_vit.answers`)
     "data":      the pictures, the run and the checkpoint that the model came from
     "sources":   [{"name": "keras/int8_static.keras", "profile", "bytes", "sha256", "trained",
                    "calibration": {"images", "seed", "sha256", "method"} or null, "protect"}]
     "artifacts": [{"name": "int8_static.tflite", "source": "keras/int8_static.keras", and the same}]
     "ranges":    {"int8_static": {"block_0.attention.query.input": [low, high]}}}

`trained`, `calibration` and `protect` are of quantized ones alone. A .tflite has "resizable", too: whether
LiteRT takes another batch than its 1 (`tflite.batch_size`). The hash of a folder is that of its files' names
and contents.
"""

import hashlib
import json
from pathlib import Path

from keras_vit.errors import InputError
from keras_vit.export.verification.workers import Failure

FORMAT = 1
REFERENCE = "keras/float32.keras"


class Refused(Failure):
    """A file or folder that is not what the manifest says."""


def digest(path):
    """SHA-256 of a file's content, or of the names and contents of all files in a folder."""
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found = hashlib.sha256()
    names = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name, file in sorted(names.items()):
        found.update(f"{digest(file)} {name}\n".encode())
    return found.hexdigest()


def size(path):
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def described(folder, name, profile):
    """The manifest's entry for `name` in the export directory `folder`."""
    path = folder / name
    return {"name": name, "profile": profile, "bytes": size(path), "sha256": digest(path)}


def read_manifest(directory):
    """The manifest.json of an export directory. Raises InputError."""
    file = Path(directory) / "manifest.json"
    if not file.is_file():
        what = "holds no manifest.json" if file.parent.is_dir() else "does not exist"
        raise InputError(f"{directory} {what}: give a directory that keras-vit export wrote.")

    # Here, as not every user of this file needs pydantic.
    from keras_vit.export.verification.manifest_schema import Manifest
    from keras_vit.formats import read_document

    return read_document(file, Manifest, "export the model again")


def entries(manifest):
    """The Keras models that the files were made from, the float one first, then the files."""
    artifacts = manifest["artifacts"]
    noted = {entry["name"]: entry for entry in manifest.get("sources", [])}
    names = {*noted, *(entry["source"] for entry in artifacts)}
    keras = [
        {"profile": Path(name).stem, **noted.get(name, {}), "name": name, "source": name}
        for name in sorted(names, key=lambda name: (name != REFERENCE, name))
    ]
    return keras + artifacts


def checked_file(directory, entry):
    """The path of an entry. Raises Refused when it is not what was exported."""
    name, path = entry["name"], Path(directory) / entry["name"]
    if not path.exists():
        raise Refused(f"{name} is missing: export the model again")
    if not entry.get("sha256"):
        raise Refused(f"{name} cannot be checked, the manifest has no SHA-256 of it: export the model again")
    found = digest(path)
    if found != entry["sha256"]:
        kind = "file" if path.is_file() else "folder"
        raise Refused(
            f"{name} is not the {kind} that was exported: its SHA-256 is {found[:12]}..., "
            f"the manifest says {entry['sha256'][:12]}..."
        )
    return path


def check_listed(path):
    """Refuse a model in an export directory that is not what the manifest says; others pass.

    Args:
        path: a .tflite or .keras file, or the folder of one SavedModel.

    Raises:
        InputError: another content than was exported, or a damaged manifest.
    """
    path = Path(path).absolute()
    for place in dict.fromkeys([path, path.resolve()]):  # a link may lead into an export directory
        _check_listed(place)


def _check_listed(path):
    for folder in list(path.parents)[:2]:  # artifacts, and what is in keras/ and saved_model/
        if not (folder / "manifest.json").exists() or _is_foreign(folder / "manifest.json"):
            continue
        name = path.relative_to(folder).as_posix()
        for entry in entries(read_manifest(folder)):
            if entry["name"] != name:
                continue
            try:
                checked_file(folder, entry)
            except Refused as refused:
                again = "Copy it again, or export the model again"
                raise InputError(f"{path}: {refused}. {again}.") from None
        return


def _is_foreign(file):
    """Whether a manifest.json is of another kind, such as that of a web page."""
    if not file.is_file():
        return False  # a pipe, a folder: reading it as ours says so
    try:
        content = json.loads(file.read_bytes())
        return isinstance(content, dict) and bool(content) and "artifacts" not in content
    except (ValueError, TypeError, RecursionError):
        return False  # a damaged one is taken for ours

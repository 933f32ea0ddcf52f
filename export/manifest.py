"""manifest.json: what an export directory holds, and whether it still does.

    {"format", "model", "image_size", "preprocessing", "labels", "versions",     (of a multimodal model
                 "inputs": {name: {"shape", "dtype"}} and "modalities" instead of "image_size")
     "classes", "activation": how many numbers an answer has, and what they mean (see `keras_vit.answers`)
     "data":      the pictures, the run and the checkpoint that the model came from
     "sources":   [{"name": "keras/int8_static.keras", "profile", "bytes", "sha256", "trained",
                    "calibration": {"images", "seed", "sha256", "method"} or null, "protect"}]
     "artifacts": [{"name": "int8_static.tflite", "source": "keras/int8_static.keras", and the same}]
     "ranges":    {"int8_static": {"block_0.attention.query.input": [low, high]}}}

`trained`, `calibration` and `protect` are of quantized ones alone. The hash of a folder is that of its
files' names and contents.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath

from keras_vit.errors import InputError
from keras_vit.export.workers import Failure

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
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        fine = manifest["format"] == FORMAT and _is_whole(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fine = False
    if not fine:
        raise InputError(f"{file} is not a manifest of format {FORMAT}: export the model again.")
    return manifest


def _is_whole(manifest):
    # Of a multimodal model there are "inputs" and "modalities" instead.
    sizes = [entry["shape"] for entry in manifest["inputs"].values()] if "inputs" in manifest else []
    sizes = sizes or [manifest["image_size"]]
    labels, artifacts, sources = manifest["labels"], manifest["artifacts"], manifest.get("sources", [])
    return (
        all(type(side) is int and side > 0 for size in sizes for side in size)
        and ("inputs" in manifest or len(sizes[0]) == 2)
        and isinstance(labels, list)
        and bool(labels)
        and all(isinstance(label, str) for label in labels)
        and isinstance(artifacts, list)
        and all(_is_inside(entry["name"]) and _is_inside(entry["source"]) for entry in artifacts)
        and all(_is_inside(entry["name"]) for entry in sources)
    )


def _is_inside(name):
    path = PurePosixPath(name)
    return path.parts != () and not path.is_absolute() and ".." not in path.parts


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

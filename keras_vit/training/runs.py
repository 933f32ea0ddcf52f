"""What a RUN folder is: made once, and only continued with the same data and recipe. No TensorFlow."""

import contextlib
from pathlib import Path

from keras_vit.errors import InputError
from keras_vit.files import atomic_write, write_json
from keras_vit.formats import read_document
from keras_vit.training.recipes import recipe_class
from keras_vit.training.run_schema import Run


def read_run(folder):
    """The config.json of the RUN `folder`.

    Raises:
        InputError: no such folder, it is no run, or its config.json is damaged.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        what = "has no config.json, so it is no run" if Path(folder).is_dir() else "does not exist"
        raise InputError(f"{folder} {what}: `keras-vit train DATA --out {folder}` makes one.")
    return read_document(path, Run, "restore it, or train into another --out")


@contextlib.contextmanager
def locked_run(folder):
    """Keep a folder for this process while the block runs, or until the process ends in whatever way.

    Raises:
        InputError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another process is training into {folder}: wait until it has ended, or use another --out."
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def check_same_data(config, data, folder):
    """Refuse `data` that is not what the run was trained on, or for an imported run, has other classes."""
    if config["data"]["fingerprint"] is None:
        if list(data.labels) != config["labels"]:
            raise InputError(
                f"{folder} was imported with the classes {_some(config['labels'])}, and {data.source} has "
                f"{_some(data.labels)}: `keras-vit train DATA --start {folder} --out NEW` fits it to yours."
            )
        return
    if config["data"]["fingerprint"] != data.fingerprint:
        raise InputError(
            f"{folder} was trained on {config['data']['source']} (fingerprint "
            f"{config['data']['fingerprint']}), and {data.source} has other content ({data.fingerprint}): "
            "give the same data, or another --out."
        )


def _some(labels):
    return f"{', '.join(map(str, labels[:3]))}{' ...' if len(labels) > 3 else ''} ({len(labels)})"


def open_run(out, config):
    """Make the RUN folder, or check that the one that is there is ours and the same."""
    if out.is_file():
        raise InputError(f"{out} is a file: --out takes a folder.")
    if not (out / "config.json").exists():
        ours = (".writing-", ".lock")
        others = [p.name for p in out.iterdir() if not p.name.startswith(ours)] if out.exists() else []
        if others:
            raise InputError(f"{out} is not empty and no run (it holds {others[0]!r}): use another --out.")
        write_json(out / "config.json", config)  # the first file, since it makes the folder ours
    old = read_run(out)
    if old["data"]["fingerprint"] is None:
        raise InputError(
            f"{out} was imported from a checkpoint: `keras-vit train DATA --start {out} --out ANOTHER`."
        )
    if old["data"]["fingerprint"] != config["data"]["fingerprint"]:
        raise InputError(
            f"{out} belongs to another dataset ({old['data']['source']}, fingerprint "
            f"{old['data']['fingerprint']}; given: {config['data']['source']}, "
            f"{config['data']['fingerprint']}): use another --out."
        )
    if recipe_class(old["recipe"]) is not recipe_class(config["recipe"]):
        raise InputError(
            f"{out} is a run of another kind: use another --out. (`keras-vit train DATA --start {out} --out "
            "ANOTHER` fine-tunes what was pretrained.)"
        )
    taught, teacher = (run.get("teacher") or {"source": None, "weights": None} for run in (old, config))
    if taught["weights"] != teacher["weights"]:
        raise InputError(
            f"{out} was trained with the teacher {taught['source']}, and {teacher['source']} has other "
            "weights: give the same teacher, or another --out."
        )
    defaults = recipe_class(config["recipe"])().to_dict()
    before = {**defaults, **old["recipe"]}  # an older version may not have had every field
    changed = [key for key, value in config["recipe"].items() if before[key] != value]
    if changed:
        key = changed[0]
        old, new = (repr(value[key]) for value in (before, config["recipe"]))
        long = max(len(old), len(new)) > 200  # whole modalities, say
        raise InputError(
            (
                f"{out} was trained with other {key}"
                if long
                else f"{out} was trained with {key} {old}, now it is {new}"
            )
            + (f" (and {len(changed) - 1} more differ)" if len(changed) > 1 else "")
            + ": use the same options to continue, or another --out."
        )
    with atomic_write(out / "labels.txt") as temporary:
        temporary.write_text("\n".join(config["labels"]) + "\n", encoding="utf-8")

"""`verify`: every file of an export directory is run on the same images, and compared.

    report = verify("dist", (images, labels), limit=1000)

Each artifact runs in a process of its own on the CPU, so that a crash becomes a row of the report
that says so. Nothing is taken on trust: the answers are compared, not the exit codes.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np

from keras_vit.answers import both_names
from keras_vit.config import CUSTOM, PRESENT, is_registered_name
from keras_vit.errors import InputError
from keras_vit.export.examples import labelled_images, multimodal_examples
from keras_vit.export.verification.machine import machine, versions
from keras_vit.export.verification.manifest import (
    REFERENCE,
    Refused,
    checked_file,
    entries,
    read_manifest,
    size,
)
from keras_vit.export.verification.samples import disputed_samples
from keras_vit.export.verification.scores import TOP1, checked_truth, decided, divergence
from keras_vit.export.verification.verify_worker import ask
from keras_vit.export.verification.workers import Failure, Worker

FORMAT = 1
ROW = {
    "name": None,
    "kind": None,
    "profile": None,
    "bytes": None,
    "top1": None,
    "agreement": None,
    "agreement_float": None,
    "max_abs_diff": None,
    "mean_abs_diff": None,
    "kl": None,
    "latency_ms_p50": None,
    "latency_ms_p95": None,
    "threads": None,
    "delegated": None,
    "operators": None,
    "refused": False,
    "error": None,
}


def verify(directory, data, limit=None, seconds=1.0, threads=1, progress=None):
    """Run every model of an export directory on `data`; return the report as plain JSON types.

    Args:
        directory: what `export` wrote, with its manifest.json.
        data: (images [N, H, W, C] of pixels 0..255, labels int [N]), a tf.data dataset of them, a folder,
            .zip or built-in name, or an `ImageData` (of these its held-out part). Where it has class names in
            another order than the model, it is renumbered by them. Of a multimodal export ({name:
            raw inputs [N, ...]}, labels), `Examples`, a `MultimodalData` or a folder with a table. Labels may
            also be one-hot, 0 or 1 for each class of a sigmoid, and numbers: see `scores.checked_truth`.
        limit: use this many of the images, evenly spaced, since data often lies class by class.
        seconds: how long to time each artifact on one image.
        threads: CPU threads of every artifact.
        progress: called with (artifact name, images done, images in all).

    Returns:
        {"format", "images", "labels", "activation", "measure", "machine", "versions", "artifacts": rows,
        "samples"}. The Keras models come first, then the artifacts in the manifest's order. In a row
        `agreement`, `max_abs_diff`, `mean_abs_diff` and `kl` compare with the Keras model that the file was
        made from, `agreement_float` with the float32 model; `measure` says what `top1` and the agreements
        count, see `scores`. What could not be measured is None, and `error` says why in one line;
        `refused` is true where a file is not what the manifest says.

    Raises:
        InputError: no export directory, or data that does not fit it.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InputError(f"limit must be a positive number of images or None, not {limit!r}.")
    if not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a positive integer, not {threads!r}.")
    inputs, truth, measure = _examples(data, manifest)
    chosen = np.arange(len(truth))
    if limit and limit < len(truth):
        chosen = np.linspace(0, len(truth) - 1, limit).round().astype(int)
    truth = truth[chosen]
    num_classes, activation = heads(manifest)
    # Another process does not know the classes of the user's own layers.
    custom = any(is_registered_name(manifest.get("model", {}).get(field)) for field in CUSTOM)
    rows, answers = [], {}
    with tempfile.TemporaryDirectory(prefix="keras_vit-verify-") as scratch:
        for name, x in inputs.items():
            np.save(Path(scratch, f"{name}.npy"), x[chosen])
        for entry in entries(manifest):
            row = {**ROW, "kind": _kind(entry["name"]), "threads": threads}
            row.update({key: entry.get(key) for key in ("name", "profile")})
            rows.append(row)
            try:
                path = checked_file(directory, entry)
                row["bytes"] = size(path)
                options = threads, seconds, len(chosen), row["name"], progress
                result = _run(path, scratch, inputs, *options, here=custom and row["kind"] == "keras")
                _check_answers(result["answers"], num_classes)
            except Failure as failure:
                row["error"] = str(failure).replace(f"{directory}{os.sep}", "")
                row["refused"] = isinstance(failure, Refused)
                continue
            answers[row["name"]] = result["answers"]
            row.update(_timing(result))
            others = answers.get(entry["source"]), answers.get(REFERENCE)
            row.update(compare(result["answers"], truth, *others, measure=measure, activation=activation))

    return {
        "format": FORMAT,
        "images": len(chosen),
        "labels": manifest["labels"],
        "activation": activation,
        "measure": measure,
        "machine": machine(),
        "versions": versions(),
        "artifacts": rows,
        "samples": disputed_samples(chosen, truth, answers, class_names(manifest), measure),
    }


def _examples(data, manifest):
    """(raw inputs {name: array [N, ...]}, the right answers [N], what is counted) of labelled data."""
    names = class_names(manifest)
    if "inputs" in manifest:
        examples = multimodal_examples(data, "test", names)
        inputs, labels = _checked_inputs(examples.inputs, examples.labels, manifest), examples.labels
    else:
        images, labels = labelled_images(data, tuple(manifest["image_size"]), names, channels_of(manifest))
        inputs = {"image": _checked_images(images, manifest)}
    count = len(next(iter(inputs.values())))
    thing = "example" if "inputs" in manifest else "image"
    truth, measure = checked_truth(labels, count, thing, *heads(manifest))
    return inputs, truth, measure


def heads(manifest):
    """(number of classes, activation) of the exported model; a softmax if it is too old to say."""
    return manifest.get("classes", len(manifest["labels"])), manifest.get("activation", "softmax")


def class_names(manifest):
    """The names of the labels that data for the exported model has: of one class those of 0 and 1."""
    (num_classes, activation), labels = heads(manifest), manifest["labels"]
    return both_names(labels) if num_classes == 1 and activation is not None else list(labels)


def compare(answers, truth, source=None, reference=None, measure=TOP1, activation="softmax"):
    """How well `answers` [N, num_classes] are, alone and against two other models' answers.

    Args:
        measure, activation: see `scores`, which says what top1, the agreements and kl are.
    """
    top = decided(answers, measure)
    numbers = {}
    if top is not None:
        numbers["top1"] = float(np.mean(top == truth))
    if source is not None:
        difference = np.abs(answers.astype(np.float64) - source)
        if top is not None:
            numbers["agreement"] = float(np.mean(top == decided(source, measure)))
        numbers["max_abs_diff"] = float(difference.max())
        numbers["mean_abs_diff"] = float(difference.mean())
        kl = divergence(source, answers, activation)
        if kl is not None:
            # Floored and rounded probabilities do not sum to one exactly, which can make it -1e-10.
            numbers["kl"] = max(0.0, float(np.mean(kl)))
    if reference is not None and top is not None:
        numbers["agreement_float"] = float(np.mean(top == decided(reference, measure)))
    return numbers


def _run(path, scratch, inputs, threads, seconds, total, name, progress, here=False):
    """Ask one artifact in a worker process, or `here` in this one; return its arrays."""
    job = {"path": str(path), "result": f"{scratch}/result.npz"}
    job["inputs"] = {name: f"{scratch}/{name}.npy" for name in inputs}
    Path(job["result"]).unlink(missing_ok=True)
    if progress:
        progress(name, 0, total)
    job.update(threads=threads, seconds=seconds)
    if here:
        try:
            ask(job, lambda done, total: progress and progress(name, done, total))
        except InputError as error:
            raise Failure(str(error)) from None
        with np.load(job["result"]) as result:
            return dict(result)
    with Worker("keras_vit.export.verification.verify_worker", job) as worker:
        for line in worker:
            if progress and line.startswith("done "):
                progress(name, int(line.split()[1]), total)
    with np.load(job["result"]) as result:
        return dict(result)


def channels_of(manifest):
    """Of the pictures that the exported `ViT` takes."""
    return manifest.get("model", {}).get("channels", 3)


def _checked_images(images, manifest):
    (height, width), channels = manifest["image_size"], channels_of(manifest)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, channels):
        raise InputError(
            f"the images are {images.dtype} {list(images.shape)}, but the exported model takes "
            f"uint8 [N, {height}, {width}, {channels}]: load the data with image_size=({height}, {width})"
            + ("." if channels == 3 else f", channels={channels}.")
        )
    return images


def _checked_inputs(inputs, labels, manifest):
    wanted = {name: tuple(entry["shape"]) for name, entry in manifest["inputs"].items()}
    missing = set(wanted) - set(inputs) - {PRESENT}
    if missing or set(inputs) - set(wanted):
        raise InputError(
            f"the exported model takes {', '.join(wanted)}, but the data has {', '.join(inputs)}: give "
            "examples of those."
        )
    for name, x in inputs.items():
        if tuple(x.shape[1:]) != wanted[name] or len(x) != len(labels):
            raise InputError(
                f"{name!r} is {list(x.shape)} for {len(labels)} labels, but the exported model takes "
                f"[N, {', '.join(map(str, wanted[name]))}]."
            )
    return inputs


def _kind(name):
    return {".keras": "keras", ".tflite": "tflite"}.get(Path(name).suffix, "saved_model")


def _check_answers(answers, num_classes):
    if answers.shape[1] != num_classes:
        raise Failure(f"it knows {answers.shape[1]} classes, the manifest lists {num_classes}")
    bad = int(np.sum(~np.isfinite(answers).all(-1)))
    if bad:
        raise Failure(f"its answer is not a finite number on {bad} of {len(answers)} images")


def _timing(result):
    p50, p95 = np.percentile(result["times"], [50, 95])
    delegated = float(result["delegated"])
    return {
        "latency_ms_p50": float(p50),
        "latency_ms_p95": float(p95),
        "delegated": None if np.isnan(delegated) else delegated,
        "operators": json.loads(str(result["operators"])),
    }

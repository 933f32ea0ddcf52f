"""`benchmark`: how fast, how big, how hungry are these models? Side by side, also with other tools' files.

    report = benchmark(["dist", "theirs.tflite", "theirs.onnx"], threads=(1, 2), operators=True)
    rich.print(*pages(report), sep="\n")

Every model is loaded in a process of its own, and they take turns, round by round, so that a moment
in which the machine is busy hurts all of them. Nothing is verified here: `verify` does that.
"""

import contextlib
import importlib.util
import itertools
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from keras_vit.errors import InputError
from keras_vit.export.verification.machine import PACKAGES, machine, versions
from keras_vit.export.verification.manifest import entries, read_manifest, size
from keras_vit.export.verification.runners import saved_model_folder
from keras_vit.export.verification.workers import Failure, Worker
from keras_vit.files import open_regular

FORMAT = 1
ROUNDS = 5
WORKER = "keras_vit.export.verification.benchmark_worker"
KINDS = {".tflite": "tflite", ".keras": "keras", ".onnx": "onnx", ".xml": "openvino"}
PEERS = {"onnx": ("ONNX Runtime", "onnxruntime"), "openvino": ("OpenVINO", "openvino")}
GIVE = "a .tflite, .keras or .onnx file, an OpenVINO .xml, a SavedModel folder or an export directory"
ROW = {
    "name": None,
    "path": None,
    "kind": None,
    "bytes": None,
    "threads": None,
    "runs": None,
    "latency_ms_p50": None,
    "latency_ms_p95": None,
    "ratio": None,
    "memory_bytes": None,
    "delegated": None,
    "operators": None,
    "profile": None,
    "profile_error": None,
    "profile_run_ms": None,
    "error": None,
}


def benchmark(paths, threads=(1, 2), seconds=3.0, operators=False, progress=None):
    """Time every model at every number of threads; return the report as plain JSON types.

    Args:
        paths: .tflite files of any tool (of fixed shapes; a batch of unknown size counts as 1), .keras
            files of this package, SavedModel folders, .onnx and OpenVINO .xml files if their runtime
            is installed. An export directory stands for all models in it.
        threads: numbers of CPU threads, or a text such as "1,2".
        seconds: how long to time each model at each number of threads, over all rounds.
        operators: also measure the time of each kind of operator in the .tflite files, at the first
            number of threads.
        progress: called with (model name, steps done, steps in all).

    Returns:
        {"format", "rounds", "seconds", "machine", "versions", "models": rows}; rows by number of
        threads, then in the order given. In a row the latencies are those of input, run and output
        of one made-up input, batch 1. `ratio` is the median over the rounds of this model's median
        latency by that of the first model in the same round. `memory_bytes` is how much loading and
        running the model raised the process's peak of resident memory above what it had after
        importing the runtime. `delegated` is the share of operators in XNNPACK, `operators` counts
        them. `profile` is a list of {"name", "count", "ms", "delegated"}, see `litert_profiler.profile`;
        `profile_error` says why there is none. What could not be measured is None, and `error` says
        why in one line.

    Raises:
        InputError: something that is no model or has no runtime here, or nothing could be measured.
    """
    threads = thread_counts(threads)
    if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise InputError(f"seconds must be a positive number, not {seconds!r}.")
    models = [model for path in paths for model in _models(Path(path))]
    if not models:
        raise InputError(f"there is nothing to measure: give {GIVE}.")
    names = _names([path for path, _ in models])
    steps = len(models) * (len(threads) * (1 + ROUNDS) + bool(operators))
    done = itertools.count()

    def tell(name):
        if progress:
            progress(name, next(done), steps)

    rows = []
    for count in threads:
        group = [
            {**ROW, "name": name, "path": str(path), "kind": kind, "bytes": _bytes_of(path), "threads": count}
            for name, (path, kind) in zip(names, models, strict=True)
        ]
        _take_turns(group, seconds / ROUNDS, tell)
        rows += group
    if operators:
        for row in rows[: len(models)]:
            _profile(row, seconds, tell)
    if all(row["error"] for row in rows):
        raise InputError(f"nothing could be measured. {rows[0]['name']}: {rows[0]['error']}")
    return {
        "format": FORMAT,
        "rounds": ROUNDS,
        "seconds": seconds,
        "machine": machine(),
        "versions": versions((*PACKAGES, *_peers(models))),
        "models": rows,
    }


def thread_counts(given):
    """ "1,2" or [1, 2] as a list of positive integers without repetitions."""
    parts = given.split(",") if isinstance(given, str) else given
    try:
        counts = list(dict.fromkeys(int(part) for part in parts))
    except (ValueError, TypeError):
        counts = []
    if not counts or min(counts) < 1:
        raise InputError(f"threads are positive whole numbers such as 1,2, not {given!r}.")
    return counts


def _models(path):
    """[(path, kind)] of what `path` stands for; what is plainly no model is refused before anything runs."""
    if not path.exists():
        raise InputError(f"there is no {path}: give {GIVE}.")
    if path.is_dir() and (path / "manifest.json").is_file():
        models = [path / entry["name"] for entry in entries(read_manifest(path))]
        return [(model, KINDS.get(model.suffix, "saved_model")) for model in models]
    if path.is_dir():
        if not any(path.iterdir()):
            raise InputError(f"{path} is empty: give {GIVE}.")
        return [(saved_model_folder(path), "saved_model")]
    kind = KINDS.get(path.suffix)
    if kind is None:
        raise InputError(f"{path} has the unknown suffix {path.suffix!r}: give {GIVE}.")
    if kind in PEERS and not importlib.util.find_spec(PEERS[kind][1]):
        runtime, package = PEERS[kind]
        raise InputError(f"{path} needs {runtime}, which is not installed: pip install {package}.")
    with open_regular(path) as file:
        head = file.read(4096)
    fine = {"tflite": head[4:8] == b"TFL3", "openvino": b"<net" in head, "onnx": len(head) > 0}
    if not (zipfile.is_zipfile(path) if kind == "keras" else fine[kind]):
        raise InputError(f"{path} is no {path.suffix} model, or is damaged: make it again.")
    return [(path, kind)]


def _names(paths):
    """Short names: the paths without the folders that all of them share."""
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    return [str(path.absolute().relative_to(folder)) for path in paths]


def _bytes_of(path):
    """Its size on disk; OpenVINO keeps the weights beside the .xml. None for what is missing."""
    weights = path.with_suffix(".bin")
    extra = size(weights) if path.suffix == ".xml" and weights.exists() else 0
    return size(path) + extra if path.exists() else None


def _take_turns(rows, seconds, tell):
    """Fill in `rows`, one for each model: load all, then let each run for `seconds` in every round."""
    times = [[] for _ in rows]
    with contextlib.ExitStack() as stack:
        workers = []
        for row in rows:  # one after the other, since loading keeps all cores busy
            job = {key: row[key] for key in ("path", "kind", "threads")}
            worker = stack.enter_context(Worker(WORKER, job))
            workers.append(worker)
            tell(row["name"])
            with _errors_go_into(row):
                row.update(worker.answer())
        for _ in range(ROUNDS):
            for row, worker, measured in zip(rows, workers, times, strict=True):
                tell(row["name"])
                if not row["error"]:
                    with _errors_go_into(row):
                        answer = worker.ask(seconds=seconds)
                        measured.append(answer["times"])
                        row["memory_bytes"] = answer["memory_bytes"]
    for row, measured in zip(rows, times, strict=True):
        if row["error"]:
            row["memory_bytes"] = row["delegated"] = row["operators"] = None
            continue
        everything = np.concatenate(measured)
        row["runs"] = len(everything)
        row["latency_ms_p50"], row["latency_ms_p95"] = map(float, np.percentile(everything, [50, 95]))
        if not rows[0]["error"]:
            row["ratio"] = ratio(measured, times[0])


def ratio(times, base):
    """The median over the rounds of (this median by that median); both are lists of each round's times."""
    return float(np.median([np.median(a) / np.median(b) for a, b in zip(times, base, strict=True)]))


@contextlib.contextmanager
def _errors_go_into(row):
    try:
        yield
    except Failure as failure:
        row["error"] = str(failure).removeprefix(f"{row['path']} ")


def _profile(row, seconds, tell):
    """Measure the time of each kind of operator of a .tflite file."""
    tell(row["name"])
    if row["kind"] != "tflite" or row["error"]:
        return
    job = {"path": row["path"], "threads": row["threads"], "profile": seconds}
    try:
        with Worker(WORKER, job) as worker:
            answer = worker.answer()
    except Failure as failure:
        row["profile_error"] = str(failure).removeprefix(f"{row['path']} ")
    else:
        row["profile"], row["profile_run_ms"] = answer["profile"], answer["run_ms"]


def _peers(models):
    """The packages that run models of other formats."""
    return sorted({PEERS[kind][1] for _, kind in models if kind in PEERS})

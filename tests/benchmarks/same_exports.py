"""Are the files of two export directories the same, and as fast? For before and after a refactoring.

    python tests/benchmarks/same_exports.py BEFORE AFTER      # of one model, ranges from the same pictures

Each pair of .tflite files is compared by bytes, by its operators, by its answers to the same random inputs,
and by its time on one thread. The two take turns, round by round, so that the ratio (AFTER / BEFORE) is one
of one run. Anchors: no difference of an answer, a ratio of 1.
"""

import argparse
import collections
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from processor import machine


def open_file(path: Path) -> Interpreter:
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def operators(path: Path) -> collections.Counter:
    """How often each operator stands in a file, by name and type of its first output."""
    interpreter = Interpreter(
        str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    types = {detail["index"]: np.dtype(detail["dtype"]).name for detail in interpreter.get_tensor_details()}
    return collections.Counter(
        f"{op['op_name']} {types.get(op['outputs'][0], '?')}" for op in interpreter._get_ops_details()
    )


def random_inputs(interpreter: Interpreter, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pixels 0..255 for the image, small ids for words, normal numbers for the rest, all present."""
    inputs = {}
    for detail in interpreter.get_input_details():
        name, shape, dtype = detail["name"], detail["shape"], detail["dtype"]
        if "present" in name:
            inputs[name] = np.ones(shape, dtype)
        elif np.issubdtype(dtype, np.integer) and dtype != np.uint8:
            inputs[name] = rng.integers(1, 4, shape).astype(dtype)
        elif dtype == np.uint8 or len(shape) >= 4:
            inputs[name] = rng.integers(0, 256, shape).astype(dtype)
        else:
            inputs[name] = rng.normal(size=shape).astype(dtype)
    return inputs


def answers(interpreter: Interpreter, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    return [
        interpreter.get_tensor(detail["index"]).astype("float64")
        for detail in sorted(interpreter.get_output_details(), key=lambda detail: detail["name"])
    ]


def compare(before: Path, after: Path, examples: int, rounds: int) -> str:
    equal = before.read_bytes() == after.read_bytes()
    pair = open_file(before), open_file(after)
    rng = np.random.default_rng(0)
    difference, agreed = 0.0, 0
    for _ in range(examples):
        inputs = random_inputs(pair[0], rng)
        both = [answers(interpreter, inputs) for interpreter in pair]
        difference = max(difference, *(np.abs(a - b).max() for a, b in zip(*both, strict=True)))
        agreed += all(a.argmax() == b.argmax() for a, b in zip(*both, strict=True))
    times = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):  # in turns, and neither is always the first
            start = time.perf_counter()
            pair[which].invoke()
            times[which].append(time.perf_counter() - start)
    counts = [operators(path) for path in (before, after)]
    changed = {
        name: (counts[0][name], counts[1][name])
        for name in sorted(counts[0] | counts[1])
        if counts[0][name] != counts[1][name]
    }
    return (
        f"{before.name:20} {'equal' if equal else 'other'} bytes, largest difference {difference:.2g}, "
        f"{agreed} of {examples} agree, time x{np.median(times[1]) / np.median(times[0]):.3f}, "
        f"{sum(counts[1].values())} operators{f', other: {changed}' if changed else ''}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    names = [
        sorted(path.name for path in folder.glob("*.tflite")) for folder in (options.before, options.after)
    ]
    if names[0] != names[1] or not names[0]:
        raise SystemExit(f"{names[0]} before, {names[1]} after: export the same profiles.")
    print(f"{machine()}; one thread")
    for name in names[0]:
        print(compare(options.before / name, options.after / name, options.examples, options.rounds))


if __name__ == "__main__":
    main()

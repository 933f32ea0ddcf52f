"""One model, timed in a process of its own; `benchmark` starts it.

    python -m keras_vit.export.verification.benchmark_worker JOB.json

The job says `path`, `kind` and `threads`. The model is loaded, and a line of JSON says what it is.
Then every line {"seconds": s} on standard input is a turn: it runs for about s seconds, and answers
with a line of JSON. So many models can take turns while each stays loaded. A job with `profile`
(seconds) instead answers once, with the time of every operator. The last line on stderr is what
went wrong.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import itertools
import json
import re
import resource
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from keras_vit.errors import InputError
from keras_vit.export.verification.runners import SIGNATURE, delegated_share, open_runner

WARMUP, LEAST, MOST = 2, 3, 1000  # runs of a turn
PROFILED = 6, 50  # least and most runs under the profiler
UNKNOWN = "this version of LiteRT words its profile in an unknown way"
# What each kind needs, imported before the model's memory is counted.
RUNTIMES = {
    "tflite": ["ai_edge_litert.interpreter"],
    "keras": ["tensorflow", "keras", "keras_vit.models", "keras_vit.export.quantization.model"],
    "saved_model": ["tensorflow"],
    "onnx": ["onnxruntime"],
    "openvino": ["openvino"],
}


def main(job):
    if "profile" in job:
        say(**profile(job["path"], job["threads"], job["profile"]))
        return
    if "tensorflow" in RUNTIMES[job["kind"]]:
        from keras_vit.export.verification.verify_worker import limit_tensorflow

        limit_tensorflow(job["threads"])
    for name in RUNTIMES[job["kind"]]:
        importlib.import_module(name)
    before = start_of_peak_memory()
    run, facts = LOADERS[job["kind"]](Path(job["path"]), job["threads"])
    run()
    say(**facts)
    for line in sys.stdin:
        times = time_turn(run, json.loads(line)["seconds"])
        say(times=times, memory_bytes=peak_memory() - before)


def say(**answer):
    print(json.dumps(answer), flush=True)


def time_turn(run, seconds):
    """Milliseconds of each run for about `seconds`, after two runs that bring the caches back."""
    for _ in range(WARMUP):
        run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() < end):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def start_of_peak_memory():
    """Bytes that this process has in memory; on Linux those of now, and its peak starts anew."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_memory()


def peak_memory():
    """The most bytes that this process has had in memory (resident set).

    On Linux from /proc: `ru_maxrss` there begins at the size of the process that started this one.
    """
    with contextlib.suppress(OSError):
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def random_array(shape, dtype, name):
    """An input that any model survives: floats in [0, 1), bytes in their whole range, ids of 0 and 1.

    A size that is not fixed counts as 1 in the first place, the batch; elsewhere nobody can know it.
    """
    shape, dtype = list(shape), np.dtype(dtype)
    if shape and not _fixed(shape[0]):
        shape[0] = 1
    if not all(_fixed(size) for size in shape):
        sizes = ", ".join(str(size) if _fixed(size) else "?" for size in shape)
        raise InputError(f"its input {name} has no fixed shape, [{sizes}]: export it for one size.")
    random = np.random.default_rng(0)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    raise InputError(f"its input {name} is of type {dtype}: only numbers can be made up.")


def _fixed(size):
    return isinstance(size, int | np.integer) and size > 0


# Each loader takes (path, threads) and returns a function that answers one input, and facts. What is
# timed is what a caller waits for: input, run, output.


def tflite(path, threads):
    """Any .tflite file of fixed shapes, with or without a signature; of several subgraphs the main one."""
    interpreter = _interpreter(path, threads)
    inputs = [
        (detail["index"], random_array(_shape(detail), detail["dtype"], detail["name"]))
        for detail in interpreter.get_input_details()
    ]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def run():
        for index, value in inputs:
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    operators = interpreter._get_ops_details()  # the only way from Python to what was delegated
    names = Counter(op["op_name"] for op in operators if op["op_name"] != "DELEGATE")
    return run, {"delegated": delegated_share(operators), "operators": dict(names.most_common())}


def _interpreter(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        line = (str(error).strip().splitlines() or ["it is damaged"])[0]
        raise InputError(f"{path} cannot be loaded by LiteRT: {line}") from error
    return interpreter


def _shape(detail):
    # The interpreter itself puts 1 for every unknown size, which -1 in the signature gives away.
    return detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]


def keras(path, threads):
    """A classifier of this package, with what every export of it has inside: preprocessing and activation."""
    runner = open_runner(path)
    inputs = {name: random_array((1, *shape), dtype, name) for name, (shape, dtype) in runner.inputs.items()}
    return lambda: runner._answer(inputs), {}


def saved_model(path, threads):
    """Any SavedModel with `serving_default`, or with one signature only."""
    import tensorflow as tf

    try:
        model = tf.saved_model.load(str(path))
    except Exception as error:  # OSError, ValueError, DecodeError of protobuf ...
        raise InputError(f"{path} cannot be loaded as a SavedModel: {str(error).splitlines()[0]}") from error
    signatures = dict(model.signatures)
    if SIGNATURE not in signatures and len(signatures) != 1:
        raise InputError(
            f"{path} has the signatures {', '.join(signatures) or '(none)'}, not `{SIGNATURE}`: "
            "save it with one."
        )
    serve = signatures.get(SIGNATURE) or next(iter(signatures.values()))
    inputs = {
        name: random_array(spec.shape.as_list(), spec.dtype.as_numpy_dtype, name)
        for name, spec in serve.structured_input_signature[1].items()
    }

    def run():
        answer = serve(**{name: tf.constant(value) for name, value in inputs.items()})
        return model and {name: tensor.numpy() for name, tensor in answer.items()}  # keeps its weights alive

    return run, {}


def onnx(path, threads):
    """Any ONNX model, in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Between turns its threads must not burn the time of the others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2", "tensor(bool)": "?"}
    inputs = {}
    for tensor in session.get_inputs():
        dtype = types.get(tensor.type) or tensor.type.removeprefix("tensor(").removesuffix(")")
        inputs[tensor.name] = random_array(tensor.shape, dtype, tensor.name)
    return lambda: session.run(None, inputs), {}


def openvino(path, threads):
    """Any OpenVINO model, on the CPU, set for latency."""
    from openvino import Core

    core = Core()
    wanted = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = core.read_model(path)
    shapes = [[d.get_length() if d.is_static else None for d in i.partial_shape] for i in model.inputs]
    inputs = [
        random_array(shape, tensor.element_type.to_dtype(), tensor.any_name)
        for shape, tensor in zip(shapes, model.inputs, strict=True)
    ]
    model.reshape({i: list(value.shape) for i, value in enumerate(inputs)})
    request = core.compile_model(model, "CPU", wanted).create_infer_request()

    def run():
        answer = request.infer(dict(enumerate(inputs)))
        return [answer[i] for i in range(len(model.outputs))]

    return run, {}


LOADERS = {
    "tflite": tflite,
    "keras": keras,
    "saved_model": saved_model,
    "onnx": onnx,
    "openvino": openvino,
}


def profile(path, threads, seconds):
    """The time of every kind of operator in a .tflite file, as LiteRT's own profiler counts it.

    The Python interpreter has no profiler, but the shared library in its wheel has LiteRT's C API
    (litert/c/litert_compiled_model.h, litert_profiler.h), whose profiler looks into XNNPACK too. It
    runs the same kernels. An operator inside XNNPACK has XNNPACK's name: it tells the types, and what
    was rewritten or added. Times are cut to whole microseconds per operator, so in a tiny model most
    of them are lost, and profiling itself costs some time per operator.

    Returns:
        {"profile": [{"name", "count", "ms", "delegated"}], "run_ms"}: count and ms are of one run of
        the model, the slowest first; run_ms is a whole run without the profiler.
    """
    model = _CompiledModel(path, threads)
    run_ms = statistics.median(time_turn(model.run, seconds / 2))
    sums, end = [], time.perf_counter() + seconds / 2
    while len(sums) < PROFILED[0] or (len(sums) < PROFILED[1] and time.perf_counter() < end):
        model.run()  # reading the profile of the run before took the caches
        sums.append(parse_summary(model.profiled_run()))
    # The median over runs forgets the operators that were on the spot in a busy moment.
    rows = [
        {
            "name": name.removeprefix("Delegate/"),
            "count": sums[1][name][0] - count,
            "ms": statistics.median(b[name][1] - a[name][1] for a, b in itertools.pairwise(sums)),
            "delegated": name.startswith("Delegate/"),
        }
        for name, (count, _) in sums[0].items()
    ]
    if any(row["count"] < 1 for row in rows):
        raise InputError(UNKNOWN)
    for row in rows:
        row["ms"] = max(row["ms"], 0.0)  # a difference of rounded shares
    return {"profile": sorted(rows, key=lambda row: -row["ms"]), "run_ms": run_ms}


def parse_summary(text):
    """{operator: (calls, milliseconds)} since the profiler was made, from LiteRtGetProfileSummary's text.

    It is a sum over all runs, also those before LiteRtResetProfiler. The text gives shares of the total
    with three digits, the total in microseconds, and how often each was called. Its column "count" is
    no use: it takes operators of several XNNPACK nodes for the same.
    """
    total = re.search(r"^Timings \(microseconds\):.*\bcurr=(\d+)", text, re.MULTILINE)
    table = text.partition("Summary by node type")[2].partition("\n\n")[0]
    row = r"^ *(\S.*?) +\d+ +[\d.]+ +(\S+)% +\S+% +[\d.]+ +(\d+) *$"
    rows = re.findall(row, table, re.MULTILINE)
    if not (total and rows):
        raise InputError(UNKNOWN)
    milliseconds = int(total[1]) / 1e3
    return {  # without any time the shares are no numbers
        name: (int(calls), float(share) / 100 * milliseconds if milliseconds else 0.0)
        for name, share, calls in rows
    }


class _CompiledModel:
    """The main signature of a .tflite file in LiteRT's C API, with the profiler built in, but not yet on."""

    CPU, WRITE, FLOAT32 = 1, 1, 1  # of the C API's enumerations

    def __init__(self, path, threads):
        package = importlib.util.find_spec("ai_edge_litert").submodule_search_locations[0]
        try:
            self._library = ctypes.CDLL(str(Path(package) / "libLiteRt.so"))
        except OSError as error:
            raise InputError(
                f"this build of LiteRT has no C library, where its profiler is: {error}"
            ) from error
        self._libc = ctypes.CDLL(None)
        self._libc.strdup.restype = ctypes.c_void_p
        self._environment = self._made("LiteRtCreateEnvironment", 0, None)
        model = self._made("LiteRtCreateModelFromFile", self._environment, str(path).encode())
        options = self._made("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, self.CPU)
        self._add_options(options, "runtime_options_string", "enable_profiling = true\n")
        self._add_options(options, "xnnpack", f"num_threads = {threads}\n")
        self._model = self._made("LiteRtCreateCompiledModel", self._environment, model, options)
        self._profiler = self._made("LiteRtCompiledModelGetProfiler", self._model)
        self._signature = self._made("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
        self._inputs, self._outputs = self._buffers("Input"), self._buffers("Output")

    def run(self):
        self._call(
            "LiteRtRunCompiledModel",
            self._model,
            ctypes.c_size_t(0),
            ctypes.c_size_t(len(self._inputs)),
            self._inputs,
            ctypes.c_size_t(len(self._outputs)),
            self._outputs,
        )

    def profiled_run(self):
        """The profiler's own summary, a text, after one more run."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        summary = self._made("LiteRtGetProfileSummary", self._profiler, self._model)
        text = ctypes.string_at(summary).decode("utf-8", "replace")
        self._libc.free(summary)
        return text

    def _buffers(self, side):
        """One buffer for every input or output; inputs of floats are random, others zero."""
        count = self._made(f"LiteRtGetNumSignature{side}s", self._signature, made=ctypes.c_size_t).value
        buffers = (ctypes.c_void_p * count)()
        for i in range(count):
            index, size = ctypes.c_size_t(i), ctypes.c_size_t()
            tensor = self._made(f"LiteRtGetSignature{side}TensorByIndex", self._signature, index)
            kind = (
                ctypes.c_int * 128
            )()  # a LiteRtRankedTensorType and more; it begins with the element type
            self._call("LiteRtGetRankedTensorType", tensor, kind)
            needs = self._made(
                f"LiteRtGetCompiledModel{side}BufferRequirements", self._model, ctypes.c_size_t(0), index
            )
            buffer = self._made(
                "LiteRtCreateManagedTensorBufferFromRequirements", self._environment, kind, needs
            )
            self._call("LiteRtGetTensorBufferPackedSize", buffer, ctypes.byref(size))
            address = ctypes.c_void_p()
            self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), self.WRITE)
            value = np.zeros(size.value, np.uint8)
            if kind[0] == self.FLOAT32:
                value = random_array([size.value // 4], np.float32, "")
            ctypes.memmove(address, value.ctypes.data, size.value)
            self._call("LiteRtUnlockTensorBuffer", buffer)
            buffers[i] = buffer.value
        return buffers

    def _add_options(self, options, name, text):
        """LiteRT takes such options as TOML, which it frees itself."""
        text = ctypes.c_void_p(self._libc.strdup(text.encode()))
        made = self._made("LiteRtCreateOpaqueOptions", name.encode(), text, self._libc.free)
        self._call("LiteRtAddOpaqueOptions", options, made)

    def _made(self, function, *arguments, made=ctypes.c_void_p):
        """What a function of the C API writes to its last argument."""
        result = made()
        self._call(function, *arguments, ctypes.byref(result))
        return result

    def _call(self, function, *arguments):
        try:
            status = getattr(self._library, function)(*arguments)
        except AttributeError:
            raise InputError(f"this version of LiteRT has no {function}, which its profiler needs") from None
        if status:
            raise InputError(f"LiteRT's profiler does not take this model: {function} gives error {status}")


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    try:
        main(job)
    except InputError as error:
        sys.exit(f"{error}")  # its one line, without the traceback

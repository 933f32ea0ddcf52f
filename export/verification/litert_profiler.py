"""The time of every operator of a .tflite file, by LiteRT's own profiler through its C API."""

import ctypes
import importlib.util
import itertools
import re
import statistics
import time
from pathlib import Path

import numpy as np

from keras_vit.errors import InputError
from keras_vit.export.verification.timing import random_array, time_turn

PROFILED = 6, 50  # least and most runs under the profiler
UNKNOWN = "this version of LiteRT words its profile in an unknown way"


def profile(path, threads, seconds):
    """The time of the operators of a .tflite file, by name, as LiteRT's own profiler counts it.

    The Python interpreter has no profiler, but the shared library in its wheel has LiteRT's C API
    (litert/c/litert_compiled_model.h, litert_profiler.h), whose profiler looks into XNNPACK too. It
    runs the same kernels. An operator inside XNNPACK has XNNPACK's name: it tells the types, and what
    was rewritten or added. Times are cut to whole microseconds per operator, so in a tiny model most
    of them are lost, and profiling itself costs some time per operator.

    Returns:
        {"profile": [{"name", "count", "ms", "delegated"}], "run_ms"}: count and ms are of one run of
        the model, the slowest first; run_ms is a whole run without the profiler.
    """
    model = CompiledModel(path, threads)
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


class CompiledModel:
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
            tensor_type = (
                ctypes.c_int * 128
            )()  # a LiteRtRankedTensorType and more; first is the element type
            self._call("LiteRtGetRankedTensorType", tensor, tensor_type)
            needs = self._made(
                f"LiteRtGetCompiledModel{side}BufferRequirements", self._model, ctypes.c_size_t(0), index
            )
            buffer = self._made(
                "LiteRtCreateManagedTensorBufferFromRequirements", self._environment, tensor_type, needs
            )
            self._call("LiteRtGetTensorBufferPackedSize", buffer, ctypes.byref(size))
            address = ctypes.c_void_p()
            self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), self.WRITE)
            value = np.zeros(size.value, np.uint8)
            if tensor_type[0] == self.FLOAT32:
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

"""Times model files on one thread, when asked; run by export_peers.py, in the environment of a runtime.

    python export_timing_worker.py litert|onnxruntime|openvino '{"NAME": "FILE", ...}'

Answers in lines of JSON: first {NAME: {"takes": type of the input} or {"error": why it does not run}};
then, for each line
`["NAME", RUNS]` on stdin, [milliseconds, milliseconds of processor time] of every run.
"""

import json
import os
import sys
import time

import numpy as np

WARM_UP = 2  # runs, each time: another file may have emptied the caches


def random_input(shape, dtype):
    """One image of the type that the file takes; the time does not depend on the values."""
    shape = [1 if not isinstance(size, int) or size < 1 else size for size in shape]
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return random.normal(size=shape).astype(dtype)
    return random.integers(0, 128, shape).astype(dtype)


def litert(path):
    """A function that runs the file once, and what it is given."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    image = random_input(given["shape"].tolist(), given["dtype"])

    def run():
        interpreter.set_tensor(given["index"], image)
        interpreter.invoke()
        interpreter.get_tensor(answer["index"])

    return run, image


def onnxruntime(path):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    image = random_input(given.shape, "float32")
    return lambda: session.run(None, {given.name: image}), image


def openvino(path):
    import openvino as ov

    # Not pinned to one core, which here may be somebody else's: the system places all runtimes alike.
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    compiled = ov.Core().compile_model(path, "CPU", settings)
    image = random_input(list(compiled.input(0).shape), "float32")
    request = compiled.create_infer_request()
    return lambda: request.infer({0: image}), image


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    load = {"litert": litert, "onnxruntime": onnxruntime, "openvino": openvino}[sys.argv[1]]
    models, about = {}, {}
    for name, path in json.loads(sys.argv[2]).items():
        try:
            models[name], image = load(path)
            models[name]()
            about[name] = {"takes": str(image.dtype)}
        except Exception as error:  # a runtime raises what it likes
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            about[name] = {"error": f"does not run: {words}"}
    answer(about)
    for line in sys.stdin:
        name, runs = json.loads(line)
        times = []
        for _ in range(WARM_UP + runs):
            start = time.perf_counter(), time.process_time()
            models[name]()
            times.append([1e3 * (time.perf_counter() - start[0]), 1e3 * (time.process_time() - start[1])])
        answer(times[WARM_UP:])


if __name__ == "__main__":
    main()

"""One model, timed in a process of its own; `benchmark` starts it.

    python -m keras_vit.export.verification.benchmark_worker JOB.json

The job says `path`, `kind` and `threads`. The model is loaded, and a line of JSON says what it is.
Then every line {"seconds": s} on standard input is a turn: it runs for about s seconds, and answers
with a line of JSON. So many models can take turns while each stays loaded. A job with `profile`
(seconds) instead answers once, with the time of every operator. The last line on stderr is what
went wrong.
"""

import importlib
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

from keras_vit.errors import InputError
from keras_vit.export._compat import operator_details
from keras_vit.export.verification.litert_profiler import profile
from keras_vit.export.verification.runners import SIGNATURE, delegated_share, open_runner
from keras_vit.export.verification.timing import peak_memory, random_array, start_of_peak_memory, time_turn

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

    operators = operator_details(interpreter)
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


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    try:
        main(job)
    except InputError as error:
        sys.exit(f"{error}")  # its one line, without the traceback

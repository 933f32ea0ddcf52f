"""`load_runner`: one way to ask any copy of a model, and to time it.

    runner = load_runner("dist/int8.tflite", threads=1)    # or a .keras file, or a SavedModel folder
    runner.predict(images)                                 # uint8 [N, H, W, C] -> answers [N, num_classes]
    runner.predict({"image": images, "text": ids})         # of a multimodal model
    runner.time_one(images[0], seconds=1.0)                # milliseconds, one number a run

TensorFlow is imported only for a Keras file or a SavedModel: a .tflite file needs NumPy and
LiteRT alone, as on a phone.
"""

import importlib
import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np

from keras_vit.answers import LOGITS, PROBABILITY, output_name
from keras_vit.config import PRESENT
from keras_vit.errors import InputError
from keras_vit.export._compat import operator_details
from keras_vit.export.verification.runner import INPUT, SIGNATURE, Runner
from keras_vit.export.verification.tflite_process import TFLiteProcess

OUTPUTS = PROBABILITY, LOGITS
KINDS = "a .tflite file, a .keras file or a SavedModel folder"


def load_runner(path, threads=1):
    """The runner for the model at `path`, told by what lies there.

    A .tflite file runs in a process of its own, since a damaged one can crash LiteRT.

    Args:
        path: a .tflite file, a .keras file, or a SavedModel folder; a folder of numbered
            SavedModel versions stands for the highest of them.
        threads: CPU threads of a .tflite file. TensorFlow has one pool for the whole process,
            so a Keras file and a SavedModel use what that pool was given.

    Raises:
        InputError: nothing there, none of these kinds, damaged, or a model with other inputs.
    """
    if _kind(path, threads) != "tflite":
        return open_runner(path, threads)
    return TFLiteProcess(path, threads)


def open_runner(path, threads=1):
    """As `load_runner`, for a process that may crash: a .tflite file runs in this one."""
    kind = _kind(path, threads)
    if kind == "tflite":
        return TFLiteRunner(path, threads)
    return {"saved_model": SavedModelRunner, "keras": KerasRunner}[kind](path)


def _kind(path, threads):
    """ "saved_model", "keras" or "tflite". Raises InputError."""
    path = Path(path)
    if not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a positive integer, not {threads!r}.")
    if not path.exists():
        raise InputError(f"there is no {path}: give {KINDS}.")
    if path.is_dir():
        return "saved_model"
    if not path.is_file():
        raise InputError(f"{path} is no regular file, but a pipe, a socket or a device: give {KINDS}.")
    if path.suffix not in (".keras", ".tflite"):
        raise InputError(f"{path} has the unknown suffix {path.suffix!r}: give {KINDS}.")
    return path.suffix[1:]


class KerasRunner(Runner):
    """A .keras file. The model gives logits of normalised images; both ends are added here."""

    kind = "keras"

    def __init__(self, path):
        import tensorflow as tf

        from keras_vit.models.activation import activate
        from keras_vit.models.saved import load_saved

        # Keras can only load classes that are registered, which importing their files does.
        for name in ("keras_vit.models", "keras_vit.export.quantization.model"):
            if importlib.util.find_spec(name):
                importlib.import_module(name)
        model = load_saved(path, "save it again with model.save()")
        ours = hasattr(model, "activation") and hasattr(model, "signature") and hasattr(model, "prepare")
        if not ours or not model.num_classes:
            raise InputError(
                f"{path} holds a {type(model).__name__}, not a classifier of keras_vit: "
                "train one with keras-vit train, or give another file."
            )
        signature = {name: (s["shape"], s["dtype"]) for name, s in model.signature().items()}
        super().__init__(path, signature, model.num_classes, output_name(model.activation))
        specs = {name: tf.TensorSpec([None, *shape], dtype) for name, (shape, dtype) in self.inputs.items()}

        @tf.function(input_signature=[specs])
        def answers(inputs):
            prepared = model.prepare(inputs[INPUT] if self.image_size else inputs)
            return activate(model(prepared, training=False), model.activation)

        self.model = model
        self._answers = answers

    def _answer(self, inputs):
        return self._answers(inputs).numpy()


class SavedModelRunner(Runner):
    """A SavedModel folder, or the highest of its numbered versions."""

    kind = "saved_model"

    def __init__(self, path):
        folder = saved_model_folder(Path(path))
        import tensorflow as tf

        try:
            # The functions stop working when the object that owns their weights is gone.
            self._model = tf.saved_model.load(str(folder))
        except Exception as error:  # OSError, ValueError, DecodeError of protobuf ...
            raise InputError(f"{folder} cannot be loaded as a SavedModel: {_line(error)}") from error
        serve = self._model.signatures.get(SIGNATURE)
        inputs = serve.structured_input_signature[1] if serve else {}
        outputs = serve.structured_outputs if serve else {}
        output = _checked_signature(
            folder, {SIGNATURE: (inputs, outputs)} if serve else dict(self._model.signatures)
        )
        answer = outputs[output]
        try:
            if PRESENT not in inputs:
                inputs[INPUT].shape.assert_has_rank(4)
            shapes = {
                name: (spec.shape[1:].as_list(), spec.dtype.as_numpy_dtype) for name, spec in inputs.items()
            }
            super().__init__(folder, shapes, answer.shape[-1], output)
        except (TypeError, ValueError) as error:  # of another or an unknown shape
            given = ", ".join(f"`{name}` {spec.shape}" for name, spec in inputs.items())
            raise InputError(
                f"{folder} maps {given} to `{output}` {answer.shape}, not [None, H, W, C] "
                "to [None, num_classes]: export the model with keras-vit export."
            ) from error
        self._serve = serve

    def _answer(self, inputs):
        import tensorflow as tf

        return self._serve(**{name: tf.constant(x) for name, x in inputs.items()})[self.output].numpy()


class TFLiteRunner(Runner):
    """A .tflite file in LiteRT, float or quantized at both ends, one image at a time."""

    kind = "tflite"
    batch = 1  # the files are made for one image

    def __init__(self, path, threads=1):
        with open(path, "rb") as file:
            if file.read(8)[4:] != b"TFL3":
                raise InputError(f"{path} is not a TFLite file, or is damaged: export the model again.")
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(str(path), num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path} cannot be loaded by LiteRT: {_line(error)}") from error
        signatures = interpreter.get_signature_list()
        output = _checked_signature(path, {k: (v["inputs"], v["outputs"]) for k, v in signatures.items()})
        runner = interpreter.get_signature_runner(SIGNATURE)
        self._places = runner.get_input_details()
        self._output = runner.get_output_details()[output]
        shapes = {name: tuple(int(size) for size in p["shape"]) for name, p in self._places.items()}
        for name, shape in shapes.items():
            alone = len(shapes) == 1
            expected = "[1, H, W, C]" if alone else "[1, ...]"
            if not shape or shape[0] != 1 or (alone and len(shape) != 4):
                raise InputError(
                    f"{path} takes `{name}` of shape {list(shape)}, not {expected}: "
                    "export the model with keras-vit export."
                )
        integers = {name for name, p in self._places.items() if p["dtype"] == np.int32}
        super().__init__(
            path,
            {name: (s[1:], "int32" if name in integers else "float32") for name, s in shapes.items()},
            self._output["shape"][-1],
            output,
        )
        self._interpreter = interpreter
        operators = operator_details(interpreter)
        self.operators = dict(
            Counter(op["op_name"] for op in operators if not _is_delegate(op)).most_common()
        )
        self.delegated = delegated_share(operators)

    def _answer(self, inputs):
        for name, place in self._places.items():
            self._interpreter.set_tensor(place["index"], _quantize(inputs[name], place))
        self._interpreter.invoke()
        return _dequantize(self._interpreter.get_tensor(self._output["index"]), self._output)


def delegated_share(operators):
    """The share of a graph's operators that run inside a delegate (XNNPACK), 0 to 1.

    LiteRT keeps the replaced operators in its list, appends one DELEGATE node per group, and does
    not say which operators a node replaced. They follow from the tensors: what lies between a
    node's outputs and its inputs is inside. The walk from the outputs cannot leave the group,
    since every tensor that enters the group is an input of the node. With clustering switched off
    (`experimental_disable_delegate_node_fusion`) LiteRT makes one DELEGATE node per operator, and
    their number is the same; that is the test of this function.

    Args:
        operators: `operator_details` after `allocate_tensors()`.
    """
    nodes = [op for op in operators if not _is_delegate(op)]
    made_by = {int(tensor): i for i, node in enumerate(nodes) for tensor in node["outputs"]}
    inside = set()
    for delegate in filter(_is_delegate, operators):
        entering = {int(tensor) for tensor in delegate["inputs"]}
        todo = [int(tensor) for tensor in delegate["outputs"]]
        while todo:
            tensor = todo.pop()
            maker = made_by.get(tensor)  # None for a constant
            if tensor not in entering and maker is not None and maker not in inside:
                inside.add(maker)
                todo.extend(int(t) for t in nodes[maker]["inputs"])
    return len(inside) / len(nodes) if nodes else 0.0


def _is_delegate(op):
    return op["op_name"] == "DELEGATE"


def _quantize(values, tensor):
    """float32 values in the type of a tensor: real = scale * (stored - zero point)."""
    if tensor["dtype"] in (np.float32, np.int32):
        return values
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(values / scale + zero_point), limits.min, limits.max).astype(tensor["dtype"])


def _dequantize(stored, tensor):
    if tensor["dtype"] == np.float32:
        return stored
    scale, zero_point = tensor["quantization"]
    return (stored.astype(np.float32) - zero_point) * np.float32(scale)


def _checked_signature(path, signatures):
    """The output's name; refuse a model whose `serving_default` is not image -> that, nor multimodal.

    Args:
        signatures: {name: (input names, output names)}.
    """
    inputs, outputs = signatures.get(SIGNATURE, ((), ()))
    answers = [name for name in OUTPUTS if name in outputs]
    if (set(inputs) == {INPUT} or PRESENT in inputs) and answers:
        return answers[0]
    if SIGNATURE in signatures:
        has = f"takes {', '.join(inputs)} and gives {', '.join(outputs)}"
    else:
        has = f"has the signatures {', '.join(signatures)}" if signatures else "has no signature"
    raise InputError(
        f"{path} {has}, not `{SIGNATURE}` from `{INPUT}` to `{PROBABILITY}`: "
        "export the model with keras-vit export."
    )


def saved_model_folder(folder):
    """The folder with saved_model.pb: `folder` itself, or its highest numbered version."""
    if (folder / "saved_model.pb").exists():
        return folder
    versions = [v for v in folder.iterdir() if v.name.isdecimal() and (v / "saved_model.pb").exists()]
    if versions:
        return max(versions, key=lambda version: int(version.name))
    near = [f.name for f in sorted(folder.iterdir()) if f.suffix in (".tflite", ".keras")]
    near += ["saved_model"] if (folder / "saved_model").is_dir() else []
    hint = f"give one of the models in it: {', '.join(near)}." if near else f"give {KINDS}."
    raise InputError(f"{folder} is not a SavedModel, it holds no saved_model.pb: {hint}")


def _line(error):
    """An exception's message on one line, without the pages that TensorFlow and Keras add."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

"""One Keras model to one .tflite file, in a process of its own.

    folded model -> float .tflite, traced at batch 1 -> ai-edge-quantizer, one rule per operator,
    with the trained ranges in the place of its calibration -> a batch that can be resized

`convert` starts `python -m keras_vit.export.tflite.convert`: TensorFlow's converter leaks memory and may
crash, and neither shall reach the caller.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile

from keras_vit.answers import output_name
from keras_vit.errors import InputError
from keras_vit.export._compat import frozen
from keras_vit.export.profiles import profile_named
from keras_vit.export.tflite.batch_size import resizable
from keras_vit.export.tflite.fold import from_raw
from keras_vit.export.tflite.taps import PREFIX, record, without_taps
from keras_vit.files import atomic_write
from keras_vit.inspect.capture import recording
from keras_vit.inspect.rollout import rollout_from, rollout_names
from keras_vit.models.activation import activate
from keras_vit.processes import start


class ConversionError(RuntimeError):
    """The converter failed; the message holds its last words."""


def convert(model_path, target, profile, metadata=None, rollout=False, graph=None):
    """Write the .keras file `model_path` to `target` as a .tflite file of `profile`.

    Args:
        graph: what `write_graph` wrote of that model, for a float profile of one with layers of the user's
            own: another process does not know their classes.
        metadata: arguments of `add_metadata`, for what the file says of itself; None for nothing.
        rollout: see `float_file`.

    Raises:
        ConversionError: the converter's process failed; its last lines are in the message.
    """
    job = {
        "model": str(model_path),
        "target": str(target),
        "profile": profile,
        "metadata": metadata,
        "rollout": rollout,
        "graph": graph and str(graph),
    }
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = start(
            "keras_vit.export.tflite.convert",
            json.dumps(job),
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"},
        )
        try:
            code = process.wait()
        finally:
            process.kill()  # Ctrl-C
            process.wait()
        said.seek(0)
        last = " | ".join(said.read().strip().splitlines()[-3:]) or "it said nothing"
    if code:
        raise ConversionError(f"converting {profile} failed (exit code {code}): {last}")


def _work(job):
    profile = profile_named(job["profile"])
    half = profile.name == "float16"
    content = converted(job["graph"], half) if job["graph"] else _content(job, profile, half)
    content, _ = resizable(content)
    if job["metadata"]:
        from keras_vit.export.tflite.metadata import add_metadata

        content = add_metadata(content, **job["metadata"])
    with atomic_write(job["target"]) as temporary:
        temporary.write_bytes(content)


def _content(job, profile, half):
    import keras

    import keras_vit.export.quantization.model  # registers the classes that the file may hold
    from keras_vit.export.tflite.fold import fold

    model = keras.models.load_model(job["model"], compile=False)
    aware = isinstance(model, keras_vit.export.quantization.model.QuantizeAware)
    if aware != profile.quantized or (aware and model.profile != profile.name):
        raise InputError(f"{job['model']} was not made for the profile {profile.name}.")
    plain, ranges = model.deploy() if aware else (fold(model), {})
    if profile.quantized:
        return quantized_file(plain, ranges, model.spec, profile.activations == "full", job["rollout"])
    return float_file(plain, half, job["rollout"])


def float_file(model, half=False, rollout=False):
    """The bytes of a float .tflite: `image` [1, H, W, C] in 0..255 -> `probability` [1, num_classes].

    Args:
        model, rollout: see `write_graph`.
        half: see `converted`.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_graph(model, folder, rollout)
        return converted(folder, half)


def tapped_file(model, roles, rollout=False):
    """(the bytes of a float .tflite, {role: index of its tensor}).

    Args:
        model, rollout: see `write_graph`.
        roles: names such as "block_0.attention.query.output".

    Raises:
        RuntimeError: a role that no layer of the model has, or no tensor of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        tapped = write_graph(model, folder, rollout, roles)
        content = converted(folder)
    unknown = [role for role in roles if role not in tapped]
    if unknown:
        raise RuntimeError(f"no layer of the model has {', '.join(unknown[:5])} ({len(unknown)} in all).")
    return without_taps(content, tapped)


def write_graph(model, folder, rollout=False, taps=()):
    """Write what a float .tflite computes to `folder`, as a SavedModel of TensorFlow's operators alone.

    With activation=None the output is `logits`.

    Args:
        model: a folded `ViT`; or a folded `MultimodalViT`, whose file takes what `model.signature()` lists.
        rollout: of a `ViT`, a second output `rollout` [1, rows, columns], as of `inspect.attention_rollout`.
        taps: roles whose tensors are outputs as well, see `taps`.

    Returns:
        The list of the roles that the model has, in the order of their outputs.
    """
    import tensorflow as tf

    specs = {
        name: tf.TensorSpec((1, *signature["shape"]), signature["dtype"], name=name)
        for name, signature in model.signature().items()
    }

    tapped: list[str] = []

    def answer(**inputs):
        inputs = from_raw(inputs, model)
        with contextlib.ExitStack() as stack:
            tensors = stack.enter_context(record(model, taps))
            values = stack.enter_context(recording(model, rollout_names(model))) if rollout else None
            logits = model(inputs)
        tapped[:] = tensors
        rollouts = [rollout_from(model, values, model.image_size)] if rollout else []
        return [activate(logits, model.activation), *rollouts, *tensors.values()]

    traced = tf.function(answer, autograph=False)
    # Keras 3 variables are not the converter's: unless frozen here, it writes a file without them.
    constant = frozen(traced.get_concrete_function(**specs))
    module = tf.Module()
    taken = [f"{PREFIX}{i}" for i in range(len(tapped))]
    outputs = [output_name(model.activation), *(["rollout"] if rollout else []), *taken]
    serve = tf.function(lambda **inputs: dict(zip(outputs, constant(**inputs), strict=True)), autograph=False)
    module.serve = serve.get_concrete_function(**specs)

    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return tapped


def converted(folder, half=False):
    """The bytes of the .tflite of what `write_graph` wrote to `folder`.

    Args:
        half: store the weights as float16. XNNPACK makes them float32 again when it loads the file, a
            GPU computes with them as they are.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serving_default"])
    # Builtins only: a Flex operator would need a runtime that phones and browsers do not have.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def quantized_file(model, ranges, spec, full=False, rollout=False):
    """The bytes of a quantized .tflite.

    Args:
        model: a folded model with rounded kernels, see `QuantizeAware.deploy`.
        ranges: "block_0.attention.query.input" -> (low, high), see `QuantizeAware.deploy`.
        spec: "block_0.attention.query.kernel" -> its quantizer, see `QuantizeAware.spec`.
        full: every operator int8 that can be, uint8 pixels in, and uint8 answers out.
        rollout: see `float_file`.
    """
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.quantizer import Quantizer

    from keras_vit.export.tflite.implied_ranges import pixel_inputs
    from keras_vit.export.tflite.metadata import packed, parsed
    from keras_vit.export.tflite.pairing import pair
    from keras_vit.export.tflite.recipe import recipe, with_scores
    from keras_vit.models.multimodal import MultimodalViT

    ranges = with_scores(ranges)
    content, graph, pairs = pair(model, functools.partial(tapped_file, rollout=rollout), ranges)
    quantizer = Quantizer(bytearray(content))
    rules, tensor_ranges = recipe(content, graph, pairs, model, ranges, spec, full)
    for rule in rules:
        if rule.static:
            quantizer.add_static_config(rule.pattern, rule.opcode, activation_num_bits=8, weight_num_bits=8)
        else:
            granularity = f"BLOCKWISE_{rule.block}" if rule.block else "CHANNELWISE"
            quantizer.add_dynamic_config(
                rule.pattern,
                rule.opcode,
                num_bits=rule.bits,
                granularity=qtyping.QuantGranularity[granularity],
            )
    if full:
        unsigned = qtyping.TensorQuantizationConfig(8, symmetric=False, dtype=qtyping.TensorDataType.UINT)
        weights = qtyping.TensorQuantizationConfig(8, granularity=qtyping.QuantGranularity.CHANNELWISE)
        config = qtyping.OpQuantizationConfig(unsigned, weights, qtyping.ComputePrecision.INTEGER)
        # The recipe knows all inputs or none, and a waveform needs more than 8 bits: see `_take_pixels`.
        for end in ("OUTPUT",) if isinstance(model, MultimodalViT) else ("INPUT", "OUTPUT"):
            quantizer.update_quantization_recipe(".*", end, config)
    result = quantizer.quantize(tensor_ranges or None, enable_progress_report=False)
    file = parsed(result.quantized_model)
    if full and isinstance(model, MultimodalViT):
        _take_pixels(file, pixel_inputs(model))
    return packed(file)


def _take_pixels(file, names):
    """Make the inputs called `names` uint8, where an operator QUANTIZE is all that takes them."""
    from ai_edge_litert.tools import flatbuffer_utils

    from keras_vit.export.tflite.graph import opcodes_of
    from keras_vit.export.tflite.implied_ranges import INPUT

    graph = file.subgraphs[0]
    opcodes = opcodes_of(file)
    for index in graph.inputs:
        takers = {opcodes[op.opcodeIndex] for op in graph.operators if index in op.inputs}
        tensor = graph.tensors[index]
        if tensor.name.decode() in {f"{INPUT}{name}:0" for name in names} and takers == {"QUANTIZE"}:
            tensor.type = flatbuffer_utils.TensorType.UINT8
            tensor.quantization.scale, tensor.quantization.zeroPoint = [1.0], [0]


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))

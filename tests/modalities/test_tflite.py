"""Every modality on a phone: builtin operators of TFLite alone, and the same tokens. TensorFlow only."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from harness import array, built, noise
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_vit.modalities import Action, Audio, CaptionDecoder, Image, Text, Video

TEXT = np.array([[2, 3, 0, 0]], "int32")
CASES = {
    "image": (lambda: Image(8, 4, stem="compact", width=8), noise(1, 8, 8, 3)),
    "video": (lambda: Video(4, 8, 4, width=8), noise(1, 4, 8, 8, 3)),
    "audio": (lambda: Audio(1600, 8000, width=8), np.clip(0.3 * noise(1, 1600), -1, 1)),
    "text": (lambda: Text(8, 4, width=8), TEXT),
    "sentence": (lambda: Text(8, 4, 3, num_heads=2, width=8), TEXT),
    "action": (lambda: Action(4, 2, padding=0.0, width=8), np.float32([[[1, 2], [0, 3], [0, 0], [0, 0]]])),
    "action ids": (lambda: Action(4, values=3, width=8), np.array([[0, 2, -1, 5]], "int32")),
}


def converted(folder, function, *signature):
    """(what runs it in LiteRT, names of its operators), of a function traced for these inputs."""
    traced = tf.function(function, input_signature=signature).get_concrete_function()
    frozen = convert_variables_to_constants_v2(traced)
    module, keys = tf.Module(), sorted(traced.structured_outputs)
    names = [spec.name for spec in signature]
    module.serve = tf.function(
        lambda **given: dict(zip(keys, frozen(*(given[name] for name in names)), strict=True))
    )
    serve = module.serve.get_concrete_function(**dict(zip(names, signature, strict=True)))
    tf.saved_model.save(module, folder, signatures={"serving_default": serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serving_default"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = Interpreter(model_content=converter.convert())
    operators = {operator["op_name"] for operator in interpreter._get_ops_details()}
    assert not [name for name in operators if "Flex" in name or "FFT" in name or name == "CUSTOM"], operators
    return interpreter.get_signature_runner(), operators


@pytest.mark.parametrize("name", CASES)
def test_a_phone_gives_the_same_tokens(name, tmp_path):
    make, raw = CASES[name]
    layer = built(make(), raw)

    def answer(raw, present):
        tokens, mask = layer(raw, present=present)
        return {"tokens": tokens, "mask": mask}

    run, names = converted(
        tmp_path,
        answer,
        tf.TensorSpec(raw.shape, raw.dtype, name="raw"),
        tf.TensorSpec((1,), "float32", name="present"),
    )
    for present in (np.ones(1, "float32"), np.zeros(1, "float32")):
        given = raw if present[0] or raw.dtype == "int32" else np.full_like(raw, np.nan)
        found = run(raw=given, present=present)
        tokens, mask = layer(raw, present=present)
        np.testing.assert_array_equal(found["mask"], array(mask))
        np.testing.assert_allclose(found["tokens"], array(tokens), atol=2e-5, rtol=2e-6)
    assert "SHAPE" not in names, names


def test_captions_on_a_phone(tmp_path):
    memory = noise(1, 5, 8)
    layer = built(CaptionDecoder(8, 4, depth=1, num_heads=2), TEXT, memory)
    run, _ = converted(
        tmp_path,
        lambda ids, memory: {"logits": layer(ids, memory)},
        tf.TensorSpec(TEXT.shape, "int32", name="ids"),
        tf.TensorSpec(memory.shape, "float32", name="memory"),
    )
    np.testing.assert_allclose(run(ids=TEXT, memory=memory)["logits"], array(layer(TEXT, memory)), atol=2e-5)

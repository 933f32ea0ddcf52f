"""Makes one file of one ViT, the way that its maker documents it; run by export_peers.py.

    python export_making_worker.py MAKER JOB        # in the environment of that maker

JOB is JSON: `file` (what to make), `pictures` (uint8 [N, H, W, 3], an .npy file), and the shape of the
model. The last line on stderr says why it did not work. Everything but our own files takes normalised
images and gives logits, so that no peer pays for preprocessing or a softmax.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def normalised(pictures):
    return (pictures.astype("float32") / 255.0 - 0.5) / 0.5


def with_random_head(model):
    """Our head starts at zero, which a quantizer might find too easy."""
    model.head.kernel.assign(np.random.default_rng(0).normal(0, 0.02, model.head.kernel.shape))
    return model


def our_model(job):
    import keras

    import keras_vit

    keras.utils.set_random_seed(0)
    return with_random_head(
        keras_vit.ViT(job["variant"], image_size=job["image_size"], num_classes=job["classes"])
    )


def phone_model(job):
    """Our preset for phones, or None as long as there is none."""
    from keras_vit import config

    if "phone" not in getattr(config, "PRESETS", ()):
        return None
    import keras

    import keras_vit

    keras.utils.set_random_seed(0)
    return with_random_head(
        keras_vit.ViT("phone/16", image_size=job["image_size"], num_classes=job["classes"])
    )


def ours(job, target, pictures, build=our_model):
    from keras_vit.export.profiles import PROFILES

    profile = target.stem
    if profile not in PROFILES:
        raise SystemExit(f"keras_vit has no profile {profile} yet")
    from keras_vit.export.quantization.model import quantize_aware
    from keras_vit.export.tflite.convert import convert

    model = build(job)
    if model is None:
        raise SystemExit("keras_vit has no preset phone yet")
    if PROFILES[profile].quantized:
        model = quantize_aware(model, profile, pictures)
    source = target.with_suffix(".keras")
    model.save(source)
    convert(source, target, profile)
    source.unlink()


def phone(job, target, pictures):
    ours(job, target, pictures, build=phone_model)


def tflite_settings(kind, pictures):
    """Attributes of a TFLiteConverter: post-training quantization as TensorFlow's guide has it."""
    import tensorflow as tf

    if kind == "float32":
        return {}
    settings = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if kind == "int8_full":
        images = normalised(pictures)
        settings |= {
            "representative_dataset": lambda: ([images[i : i + 1]] for i in range(len(images))),
            "inference_input_type": tf.uint8,
            "inference_output_type": tf.uint8,
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        }
    return settings


def stock(job, target, pictures):
    """Our own plain model, through TensorFlow's converter alone."""
    import tempfile

    import tensorflow as tf

    model = our_model(job)
    with tempfile.TemporaryDirectory() as folder:
        signature = [tf.TensorSpec((1, *model.image_size, 3), tf.float32, name="image")]
        model.export(folder, format="tf_saved_model", input_signature=signature, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        for name, value in tflite_settings(target.stem, pictures).items():
            if name == "target_spec":
                converter.target_spec.supported_ops = value["supported_ops"]
            else:
                setattr(converter, name, value)
        target.write_bytes(converter.convert())


def keras_hub(job, target, pictures):
    """keras-hub's own model through its own `export`, which hands the settings to the same converter."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(job["image_size"], job["image_size"], 3),
        patch_size=tuple(job["patch_size"]),
        num_layers=job["depth"],
        num_heads=job["num_heads"],
        hidden_dim=job["width"],
        mlp_dim=job["mlp_width"],
        layer_norm_epsilon=1e-6,
    )
    model = keras_hub.models.ViTImageClassifier(backbone, job["classes"], pooling="token")
    model.export(str(target), format="litert", verbose=False, **tflite_settings(target.stem, pictures))


def onnxruntime(job, target, pictures):
    """Hugging Face's ViT through PyTorch's exporter; int8 by ONNX Runtime's own tools.

    Of what its documentation offers, this was the fastest on the first machine: its transformer
    optimizer (fused skip connections) made every file slower, float or int8.
    """
    if target.stem == "float32":
        return float_onnx(job, target)
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = target.with_suffix(".prepared.onnx")
    quant_pre_process(target.with_name("float32.onnx"), source)
    if target.stem == "int8_dynamic":
        quantize_dynamic(source, target, per_channel=True)
    else:

        class Pictures(CalibrationDataReader):
            def __init__(self):
                self.images = iter(normalised(pictures).transpose(0, 3, 1, 2))

            def get_next(self):
                image = next(self.images, None)
                return None if image is None else {"image": image[None]}

        # uint8 activations and int8 weights: the advice for processors with VNNI.
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
        if target.stem == "int8_static_matmul":
            types["op_types_to_quantize"] = ["Conv", "Gemm", "MatMul"]
        quantize_static(source, target, Pictures(), **types)
    source.unlink()


def float_onnx(job, target):
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=job["image_size"],
        patch_size=job["patch_size"][0],
        hidden_size=job["width"],
        num_hidden_layers=job["depth"],
        num_attention_heads=job["num_heads"],
        intermediate_size=job["mlp_width"],
        num_labels=job["classes"],
        layer_norm_eps=1e-6,
        attn_implementation="eager",  # the other one exports with a check for NaN in every block: 7% slower
    )

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.ViTForImageClassification(config)

        def forward(self, image):
            return self.model(image).logits

    image = torch.zeros(1, 3, job["image_size"], job["image_size"])
    names = {"input_names": ["image"], "output_names": ["logits"]}
    torch.onnx.export(Logits().eval(), (image,), target, opset_version=20, external_data=False, **names)


def openvino(job, target, pictures):
    """The same .onnx in OpenVINO's format; int8 by NNCF's post-training quantization."""
    import nncf
    import openvino as ov

    model = ov.convert_model(target.parent.parent / "onnxruntime" / "float32.onnx")
    if target.stem == "int8":
        images = normalised(pictures).transpose(0, 3, 1, 2)
        data = nncf.Dataset([image[None] for image in images])
        model = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(images))
    ov.save_model(model, target)  # the rest of the weights in float16, OpenVINO's default


MAKERS = {
    "ours": ours,
    "phone": phone,
    "stock": stock,
    "keras-hub": keras_hub,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}

if __name__ == "__main__":
    job = json.loads(sys.argv[2])
    MAKERS[sys.argv[1]](job, Path(job["file"]), np.load(job["pictures"]))

"""What TF Serving wants around a SavedModel, so that `docker compose up` serves an export directory.

    write_serving("dist", model, tflite="dist/float32.tflite")

DIR/saved_model/1/assets.extra/tf_serving_warmup_requests   requests that it runs before it is ready
    saved_model/1/model.tflite                              for --prefer_tflite_model
    serving/compose.yaml models.config batching.config README.md
"""

import io
import re
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from keras_vit.answers import LOGITS
from keras_vit.data.headers import MAX_PIXELS, MAX_SIDE
from keras_vit.errors import InputError
from keras_vit.export._compat import write_bytes_as_string
from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.tf_serving.saved_model import picture_sizes
from keras_vit.export.tflite.metadata import Builder, parsed, read_metadata, with_zip
from keras_vit.inspect.channels import as_rgb

FILES = ("compose.yaml", "models.config", "batching.config", "README.md")
SIGNATURE_DEFS = "signature_defs_metadata"  # the name by which TF Serving looks for them in a .tflite


def write_serving(directory, model, version=1, name="vit", tflite=None, pictures=None):
    """Add to an export directory what TF Serving wants besides `saved_model/<version>`.

    Args:
        directory: one in which `write_saved_model` has written `saved_model/<version>`.
        model: the `ViT` or `MultimodalViT` that was written.
        version: a positive integer; TF Serving loads the highest it finds.
        name: what clients call the model, as in /v1/models/NAME:predict.
        tflite: path of a .tflite file to lie beside the SavedModel; None for no such file, and TF
            Serving then takes the SavedModel also under --prefer_tflite_model.
        pictures: uint8 [N, H, W, 3] to warm up with; two made ones by default.

    Raises:
        InputError: a version or a name that TF Serving would not take, no SavedModel there,
            pictures of another shape, something else than a .tflite file.
    """
    version, name = checked_version(version), _checked_name(name)
    directory = Path(directory)
    folder = directory / "saved_model" / str(version)
    if not (folder / "saved_model.pb").is_file():
        raise InputError(f"{folder} holds no saved_model.pb: write the SavedModel first.")
    write_warmup(folder, model, name, pictures)
    if tflite is not None:
        (folder / "model.tflite").write_bytes(with_signature_defs(Path(tflite).read_bytes()))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    (directory / "serving").mkdir(exist_ok=True)
    for file in FILES:
        template = environment.get_template(f"serving.{file}.jinja")
        text = template.render(
            name=name, version=version, tflite=tflite is not None, **_inputs(model), **_outputs(model)
        )
        (directory / "serving" / file).write_text(text, encoding="utf-8")


def _inputs(model):
    """What the README says of the inputs of a `MultimodalViT`; of a `ViT`'s it says more, by itself."""
    limits = {"pixels": MAX_PIXELS // 10**6, "side": MAX_SIDE}
    if hasattr(model, "image_size"):
        return {"inputs": None, "files": None, "channels": _channels(model), **limits}
    lines = [
        f'"{name}": {entry["dtype"]} [{", ".join(map(str, entry["shape"]))}]'
        for name, entry in model.signature().items()
    ]
    files = " and ".join(f"`{name}_bytes`" for name in picture_sizes(model))
    return {
        "inputs": '{"instances": [{' + ", ".join(lines) + "}]}",
        "files": files,
        "channels": None,
        **limits,
    }


def _outputs(model):
    """What the README says of the answers, and which of them it asks for."""
    if model.activation is None:
        text = "`logits`, the numbers that the model's head gives, in the order of `../labels.txt`."
        return {"answers": text, "short": LOGITS}
    if model.num_classes == 1:
        text = (
            "`label`, the more probable of the two in `../labels.txt`; `top_labels` and\n"
            "`top_probabilities`, both, the more probable one first; and `probability`, that of the second."
        )
        return {"answers": text, "short": "label"}
    text = (
        "`label`, the best class; `top_labels` and `top_probabilities`, the best five; and\n`probability`, "
        "those of all classes in the order of `../labels.txt`."
    )
    if model.activation == "sigmoid":
        text += (
            " Each class is on its own: they do not sum to one,\nand `label` is the most probable class, "
            "however improbable. Compare `probability` with 0.5."
        )
    return {"answers": text, "short": "label"}


def checked_version(version):
    """`version`, a positive integer: the name of a folder that TF Serving takes for a model's version."""
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 2**63:
        raise InputError(f"a version must be a positive integer, not {version!r}: TF Serving sees no other.")
    return version


def next_version(saved_model):
    """One more than the highest version in the folder `saved_model`; 1 if there is none.

    TF Serving changes to a higher version while it runs, and back when the folder is taken away.
    """
    versions = [int(p.name) for p in Path(saved_model).glob("*") if p.is_dir() and p.name.isdecimal()]
    return max(versions, default=0) + 1


def write_warmup(folder, model, name="vit", pictures=None):
    """Write requests for all signatures that TF Serving answers for itself before it says it is ready.

    Without `tensorflow-serving-api` (the extra "serving"), which has their messages, nothing is written: the
    server's first answer then takes longer.

    TensorFlow prepares a graph in its first run, which takes many times as long as the others.
    The file is a TFRecord of PredictionLog messages: one picture for `serving_default`, two each for
    `serve_bytes` and `serve_bytes_safe`, a JPEG and a PNG, since each has a decoder of its own. Of a
    multimodal model one made-up example for `serving_default`, and two for the others if it takes pictures.

    Args:
        folder: of a SavedModel, `saved_model/<version>`.
        model, name, pictures: as in `write_serving`.
    """
    import tensorflow as tf

    try:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError:
        return
    if hasattr(model, "image_size"):
        requests = _picture_requests((*model.image_size, _channels(model)), pictures)
    else:
        requests = _multimodal_requests(model)
    path = Path(folder, "assets.extra", "tf_serving_warmup_requests")
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString(deterministic=True))


def _channels(model):
    """Of the pictures of a model of images alone."""
    return model.config.channels if hasattr(model, "config") else 3


def _picture_requests(shape, pictures):
    """{signature: {input: value}} for a model of images alone, [H, W, C]."""
    if pictures is None:
        made = _made_pictures(shape[:2])
        pictures = made[..., [i % 3 for i in range(shape[2])]]
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != shape or not len(pictures):
        raise InputError(
            f"warm-up pictures must be uint8 [N, {', '.join(map(str, shape))}] with N > 0, not "
            f"{pictures.dtype} {list(pictures.shape)}."
        )
    requests = {"serving_default": {"image": pictures[:1].astype(np.float32)}}
    if shape[2] in (1, 3):
        files = [_file(as_rgb(pictures[0]), "JPEG"), _file(as_rgb(pictures[-1]), "PNG")]
        for signature in ("serve_bytes", "serve_bytes_safe"):
            requests[signature] = {"image_bytes": files}
    return requests


def _multimodal_requests(model):
    """{signature: {input: value}} for a `MultimodalViT`."""
    requests, sizes = {"serving_default": dummy_inputs(model)}, picture_sizes(model)
    if sizes:
        inputs = dummy_inputs(model, 2)
        for name, size in sizes.items():
            made = _made_pictures(size)
            inputs[f"{name}_bytes"] = [_file(made[0], "JPEG"), _file(made[-1], "PNG")]
            del inputs[name]
        requests["serve_bytes"] = requests["serve_bytes_safe"] = inputs
    return requests


def with_signature_defs(content):
    """The .tflite file `content` (bytes), with its signatures also in the form that TF Serving reads.

    TF Serving does not know the signatures of the .tflite format. It looks for a metadata buffer
    with a FlexBuffer map {signature: serialized SignatureDef}; without one, clients would have to
    call the input and the output by the converter's names for the tensors.

    Raises:
        InputError: no TFLite file, damaged, or without a signature.
    """
    from ai_edge_litert.schema_py_generated import BufferT, MetadataT
    from flatbuffers import flexbuffers

    described, model = read_metadata(content), parsed(content)
    if not model.signatureDefs:
        raise InputError("this TFLite file has no signature: export the model again.")
    found = {
        signature.signatureKey.decode(): _signature_def(model, signature).SerializeToString(
            deterministic=True
        )
        for signature in model.signatureDefs
    }
    # The reader is older than its format: it stops at a zero byte, of which a SignatureDef has none.
    assert not any(b"\0" in message for message in found.values())
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, message in sorted(found.items()):
            builder.Key(key)
            # What TF Serving reads is a string, and `String` would encode these bytes as UTF-8.
            write_bytes_as_string(builder, message)
    entry, buffer = MetadataT(), BufferT()
    entry.name, entry.buffer = SIGNATURE_DEFS, len(model.buffers)
    buffer.data = np.frombuffer(builder.Finish(), np.uint8)
    model.metadata = [m for m in model.metadata or () if m.name != SIGNATURE_DEFS.encode()] + [entry]
    model.buffers.append(buffer)
    packer = Builder(1024)
    packer.Finish(model.Pack(packer), file_identifier=b"TFL3")
    packed = bytes(packer.Output())
    return with_zip(packed, described["labels"]) if described and "labels" in described else packed


def _signature_def(model, signature):
    """A signature of a .tflite file as TensorFlow's SignatureDef, whose tensors have the file's names."""
    import tensorflow as tf
    from ai_edge_litert.tools.flatbuffer_utils import type_to_name
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    message = SignatureDef(method_name=tf.saved_model.PREDICT_METHOD_NAME)
    tensors = model.subgraphs[signature.subgraphIndex].tensors
    for side, entries in ((message.inputs, signature.inputs), (message.outputs, signature.outputs)):
        for entry in entries:
            tensor, info = tensors[entry.tensorIndex], side[entry.name.decode()]
            info.name = tensor.name.decode()
            info.dtype = tf.as_dtype(type_to_name(tensor.type).lower()).as_datatype_enum
            for size in tensor.shape:
                info.tensor_shape.dim.add(size=int(size))
    return message


def _checked_name(name):
    # A name with / or : would make another address of /v1/models/NAME:predict.
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"a model's name for TF Serving has letters, digits, - _ and . only, not {name!r}.")
    return name


def _made_pictures(image_size):
    """Two smooth pictures, since a JPEG or PNG of noise would be large."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    shape = image_size[::-1]  # Pillow's order
    return np.stack([Image.fromarray(c).resize(shape, Image.Resampling.BICUBIC) for c in coarse])


def _file(picture, kind):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()

"""What a .tflite file says about itself: normalisation, class names, description, author, licence.

    add_metadata(content, labels, "ViT-Ti/16", licence="Apache-2.0")   # bytes -> bytes
    read_metadata(content)["labels"]                                   # the class names

The form is TFLite Metadata, which MediaPipe Tasks and Android Studio read:

    the model's flatbuffer, with one more buffer   a ModelMetadata flatbuffer, named TFLITE_METADATA
    a zip archive, appended                        labels.txt, stored without compression

Weights, operators and signature stay as they are, and so do the answers. The same input gives the
same bytes, and a second call replaces what the first one wrote.
"""

import io
import zipfile

import flatbuffers
import numpy as np
from flatbuffers import number_types

from keras_vit.answers import LOGITS, PROBABILITY, both_names, default_labels, labels_fit, output_name
from keras_vit.errors import InputError
from keras_vit.labels import checked_labels

ANSWERS = (PROBABILITY, LOGITS)
SAID = {
    "softmax": "Probability of each class.",
    "sigmoid": "Probability of each class on its own: they do not sum to one.",
    None: "Logit of each class: the number that the model's head gives.",
}
BUFFER, IDENTIFIER, LABELS = "TFLITE_METADATA", b"M001", "labels.txt"
RGB, GREY, TENSOR_AXIS_LABELS = 1, 2, 2  # of the enums ColorSpaceType and AssociatedFileType

# The tables of metadata_schema.fbs (github.com/tensorflow/tflite-support), as far as we need them.
# The order gives the slots, so a field that we skip is here too, as None. A list is a vector of
# tables, a tuple a union: its members, which are numbered from 1.
TABLES = {
    "ModelMetadata": {
        "name": "text",
        "description": "text",
        "version": "text",
        "subgraph_metadata": ["SubGraphMetadata"],
        "author": "text",
        "license": "text",
        "associated_files": ["AssociatedFile"],
        "min_parser_version": "text",
    },
    "SubGraphMetadata": {
        "name": "text",
        "description": "text",
        "input_tensor_metadata": ["TensorMetadata"],
        "output_tensor_metadata": ["TensorMetadata"],
    },
    "TensorMetadata": {
        "name": "text",
        "description": "text",
        "dimension_names": None,
        "content": "Content",
        "process_units": ["ProcessUnit"],
        "stats": "Stats",
        "associated_files": ["AssociatedFile"],
    },
    "Content": {"content_properties": ("FeatureProperties", "ImageProperties")},
    "FeatureProperties": {},
    "ImageProperties": {"color_space": "int8", "default_size": "ImageSize"},
    "ImageSize": {"width": "uint32", "height": "uint32"},
    "ProcessUnit": {"options": ("NormalizationOptions",)},
    "NormalizationOptions": {"mean": "floats", "std": "floats"},
    "Stats": {"max": "floats", "min": "floats"},
    "AssociatedFile": {"name": "text", "description": "text", "type": "int8", "locale": "text"},
}
SCALARS = {"int8": number_types.Int8Flags, "uint32": number_types.Uint32Flags}


def add_metadata(
    content,
    labels,
    name,
    description="",
    author="",
    licence="",
    version="",
    preprocessing=None,
    activation="softmax",
):
    """Return the .tflite file `content` with metadata and class names in it.

    Args:
        content: bytes of a .tflite file with one output [1, num_classes], called `probability` or `logits` if
            there are others, and then made the first; and float32 or uint8 images [1, H, W, C] of values
            0..255 as its input, or several inputs. What is neither of these is described by name only.
        labels: one name for each class.
        name: of the model, such as "ViT-Ti/16".
        description, author, licence, version: of the model, free text.
        preprocessing: {"mean": [C], "std": [C]} that the graph applies by itself, for the
            description of the image. Clients shall not normalise, and are told mean 0, std 1.
        activation: of the model: what the answer is said to be.

    Raises:
        InputError: `content` is no TFLite file or damaged, has no such image input, or takes uint8
            pixels on another scale than 0..255; labels that do not fit the outputs, or that are
            empty or longer than a line; text that is not Unicode.
            Two classes may share a name, as in ImageNet.
    """
    texts = {
        "name": name,
        "description": description,
        "version": version,
        "author": author,
        "license": licence,
    }
    for key, text in texts.items():
        _check_text(f"the model's {key}", text)
    labels = checked_labels(labels)
    model = parsed(content)
    graph = model.subgraphs[0]
    names = _tensor_names(model)
    inputs = [(names[index], graph.tensors[index]) for index in graph.inputs]
    # MediaPipe's first answer is that of the first output.
    graph.outputs = sorted(graph.outputs, key=lambda index: names[index] not in ANSWERS)
    outputs = [(names[index], graph.tensors[index]) for index in graph.outputs]
    answers = [tensor for key, tensor in outputs if key in ANSWERS or len(outputs) == 1]
    if len(answers) != 1 or len(_shape(answers[0])) != 2:
        raise InputError(f"metadata needs one output [1, num_classes], not {_shown(outputs)}.")
    num_classes = _shape(answers[0])[-1]
    if len(labels) != num_classes:
        raise InputError(
            f"{len(labels)} labels for a model with {num_classes} classes: give one for each class."
        )
    alone = len(inputs) == 1
    if alone and not _is_image(inputs[0][1], alone):
        raise InputError(f"metadata needs an image input [1, H, W, C], not {_shown(inputs)}.")

    metadata = {
        **texts,
        "min_parser_version": "1.0.0",
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [
                    _image(key, tensor, preprocessing) if _is_image(tensor, alone) else _feature(key)
                    for key, tensor in inputs
                ],
                "output_tensor_metadata": [
                    _answer(key, activation) if tensor is answers[0] else _feature(key)
                    for key, tensor in outputs
                ],
            }
        ],
    }
    return with_zip(_pack(model, _to_flatbuffer(metadata)), labels)


def read_metadata(content):
    """The metadata of a .tflite file: nested dictionaries by the schema's names, and the "labels".

    A member of a union stands under its type: {"content_properties": {"ImageProperties": {...}}}.
    Empty fields are left out.

    Args:
        content: bytes of a .tflite file.

    Returns:
        None if it has no metadata.

    Raises:
        InputError: no TFLite file, or damaged.
    """
    model = parsed(content)
    indices = [entry.buffer for entry in model.metadata or () if entry.name == BUFFER.encode()]
    if not indices:
        return None
    try:
        data = bytes(model.buffers[indices[0]].data)
        if data[4:8] != IDENTIFIER:
            raise ValueError(f"no {IDENTIFIER.decode()} in it")
        root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
        metadata = _read(flatbuffers.table.Table(data, root), "ModelMetadata")
        for tensor in metadata["subgraph_metadata"][0]["output_tensor_metadata"]:
            for file in tensor.get("associated_files", ()):
                if file.get("type") == TENSOR_AXIS_LABELS:
                    with zipfile.ZipFile(io.BytesIO(content)) as archive:
                        metadata["labels"] = archive.read(file["name"]).decode().splitlines()
    except Exception as error:  # FlatBuffers checks nothing: damage shows as any kind of exception
        raise InputError(
            f"the metadata of this TFLite file is damaged ({error}): export it again."
        ) from error
    return metadata


def labels_for(model, labels=None):
    """The names under which the files of `model` answer: one for each class; of one probability always two.

    Args:
        model: whatever has `num_classes` and `activation`.
        labels: class names; "0", "1", ... by default. Of a model of one class the name of that class, as in
            ["defect"], which makes "not defect" the other one; or those of the labels 0 and 1.

    Raises:
        InputError: labels that do not fit the model, or that are no names.
    """
    num_classes, output = model.num_classes, output_name(model.activation)
    labels = checked_labels(default_labels(num_classes, output) if labels is None else labels)
    if not labels_fit(len(labels), num_classes, output):
        what = f"a model with {num_classes} classes: give a list of one name for each"
        if num_classes == 1:
            what = "one class: give its name" + (
                ", or those of the labels 0 and 1" if output == PROBABILITY else ""
            )
        raise InputError(f"{len(labels)} labels for {what}.")
    return both_names(labels) if num_classes == 1 and output == PROBABILITY else labels


def _check_text(what, text):
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        encoded = b"\0"
    if b"\0" in encoded:  # where a C string ends
        raise InputError(f"{what} is {text!r}: expected text that UTF-8 can hold, without null characters.")


def parsed(content):
    """A .tflite file as objects, with the weights that lie behind its flatbuffer read in."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    if bytes(content[4:8]) != b"TFL3":
        raise InputError("this is not a TFLite file, or it is damaged: export the model again.")
    try:
        root = schema.Model.GetRootAs(content, 0)
        buffers = [root.Buffers(i) for i in range(root.BuffersLength())]
        if any(buffer.Offset() + buffer.Size() > len(content) for buffer in buffers):
            raise ValueError("weights are missing at its end")
        model = flatbuffer_utils.read_model_from_bytearray(bytes(content))
        if not model.subgraphs:
            raise ValueError("no graph in it")
    except Exception as error:  # FlatBuffers checks nothing: damage shows as any kind of exception
        raise InputError(f"this TFLite file is damaged ({error}): export the model again.") from error
    for buffer in model.buffers:
        if isinstance(buffer.data, bytes):  # an array is packed at once, bytes are one by one
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return model


def _tensor_names(model):
    """Tensor index -> name, the signature's where it has one; the tensors' own are the converter's."""
    names = {
        index: (tensor.name or b"").decode(errors="replace")
        for index, tensor in enumerate(model.subgraphs[0].tensors)
    }
    for signature in model.signatureDefs or ():
        if not signature.subgraphIndex:
            names |= {
                e.tensorIndex: e.name.decode(errors="replace")
                for e in (*signature.inputs, *signature.outputs)
            }
    return names


def _shape(tensor):
    return [int(size) for size in tensor.shape] if tensor.shape is not None else []


def _shown(tensors):
    return ", ".join(f"{name} {_shape(tensor)}" for name, tensor in tensors)


def _is_image(tensor, alone):
    return len(_shape(tensor)) == 4 and (alone or _shape(tensor)[-1] in (1, 3))


def _image(name, tensor, preprocessing):
    from ai_edge_litert.schema_py_generated import TensorType

    if tensor.type == TensorType.UINT8:
        _check_pixels_pass(name, tensor.quantization)
    elif tensor.type != TensorType.FLOAT32:
        raise InputError(f"metadata needs float32 or uint8 images, and `{name}` has another type.")
    _, height, width, channels = _shape(tensor)
    kind, colours = {3: ("RGB", RGB), 1: ("Grey", GREY)}.get(channels, (f"{channels}-channel", None))
    description = f"{kind} image, {width} wide and {height} high, values 0 to 255, not normalised"
    if preprocessing:
        mean, std = (", ".join(f"{v:g}" for v in preprocessing[key]) for key in ("mean", "std"))
        description += f": the model divides by 255, subtracts ({mean}) and divides by ({std}) itself"
    properties = {"default_size": {"width": width, "height": height}}
    if colours is not None:  # clients know no others
        properties["color_space"] = colours
    return {
        "name": name,
        "description": f"{description}.",
        "content": {
            "content_properties": {"ImageProperties": properties},
        },
        "process_units": [{"options": {"NormalizationOptions": {"mean": [0.0], "std": [1.0]}}}],
        "stats": {"max": [255.0], "min": [0.0]},
    }


def _check_pixels_pass(name, quantization):
    """MediaPipe hands uint8 pixels over as they are, whatever scale the tensor has."""
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return
    scale, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    pixels = np.arange(256)
    if (np.round(pixels / scale + zero_point).clip(0, 255) != pixels).any():
        raise InputError(
            f"`{name}` is uint8 with scale {scale:g} and zero point {zero_point}, but clients hand pixels "
            "over as they are: quantize it with the range 0 to 255 (scale 1, zero point 0)."
        )


def _feature(name):
    return {"name": name, "content": {"content_properties": {"FeatureProperties": {}}}}


def _answer(name, activation):
    file = {"name": LABELS, "description": "One class name a line.", "type": TENSOR_AXIS_LABELS}
    stats = {} if activation is None else {"stats": {"max": [1.0], "min": [0.0]}}
    return {
        "name": name,
        "description": SAID[activation],
        "content": {"content_properties": {"FeatureProperties": {}}},
        **stats,
        "associated_files": [file],
    }


def _pack(model, metadata):
    """The flatbuffer of `model` with `metadata` as its TFLITE_METADATA buffer."""
    from ai_edge_litert.schema_py_generated import BufferT, MetadataT

    buffer = BufferT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    found = [entry for entry in model.metadata or () if entry.name == BUFFER.encode()]
    if found:
        model.buffers[found[0].buffer] = buffer
    else:
        entry = MetadataT()
        entry.name, entry.buffer = BUFFER, len(model.buffers)
        model.metadata = [*(model.metadata or ()), entry]
        model.buffers.append(buffer)
    return packed(model)


def packed(model):
    """The bytes of a .tflite from the object that `parsed` gives."""
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class Builder(flatbuffers.Builder):
    """Puts vectors of bytes, the weights, at multiples of 16, as TFLite's schema asks for.

    FlatBuffers for Python ignores `force_align`. Vectors of zeros that are equal are written once: the zero
    points of weights, eight bytes for each channel, are 5% of an int4 file.
    """

    def __init__(self, size):
        super().__init__(size)
        self.zeros = {}

    def StartVector(self, elemSize, numElems, alignment):
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)

    def CreateNumpyVector(self, x):
        if x.dtype != np.int64 or x.any():
            return super().CreateNumpyVector(x)
        if len(x) not in self.zeros:
            self.zeros[len(x)] = super().CreateNumpyVector(x)
        return self.zeros[len(x)]


def with_zip(content, labels):
    file = zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0))  # no clock: the same input, the same bytes
    file.create_system = 3
    file.external_attr = 0o644 << 16
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:  # MediaPipe cannot inflate
        archive.writestr(file, "\n".join(labels) + "\n")
    return stream.getvalue()


def _to_flatbuffer(metadata):
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, "ModelMetadata", metadata), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _slots(table):
    """(slot, name, kind) of each field. A union has two slots, the first for its type."""
    slot = 0
    for name, kind in TABLES[table].items():
        slot += isinstance(kind, tuple)
        yield slot, name, kind
        slot += 1


def _is_scalar(kind):
    return isinstance(kind, str) and kind in SCALARS


def _write(builder, table, values):
    """Add one table and return where it is. FlatBuffers wants children before their parent."""
    ready = []
    for slot, name, kind in _slots(table):
        value = values.get(name)
        if kind and value not in (None, "", []):
            content = value if _is_scalar(kind) else _write_child(builder, kind, value)
            ready.append((slot, kind, content))
            if isinstance(kind, tuple):
                ready.append((slot - 1, "union type", 1 + kind.index(next(iter(value)))))
    builder.StartObject(max((slot for slot, *_ in ready), default=-1) + 1)
    for slot, kind, value in ready:
        if kind == "int8":
            builder.PrependInt8Slot(slot, value, 0)
        elif kind == "uint32":
            builder.PrependUint32Slot(slot, value, 0)
        elif kind == "union type":
            builder.PrependUint8Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return builder.EndObject()


def _write_child(builder, kind, value):
    if kind == "text":
        return builder.CreateString(value)
    if kind == "floats":
        return builder.CreateNumpyVector(np.asarray(value, np.float32))
    if isinstance(kind, tuple):
        ((member, values),) = value.items()
        return _write(builder, member, values)
    if isinstance(kind, list):
        places = [_write(builder, kind[0], values) for values in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()
    return _write(builder, kind, value)


def _read(table, kind):
    """`_write` backwards: the dictionary of a `flatbuffers.table.Table`."""
    values = {}
    for slot, name, field in _slots(kind):
        offset = table.Offset(4 + 2 * slot)
        if not offset or not field:
            continue
        place = table.Pos + offset
        if _is_scalar(field):
            values[name] = table.Get(SCALARS[field], place)
        elif field == "text":
            values[name] = table.String(place).decode()
        elif field == "floats":
            values[name] = table.GetVectorAsNumpy(number_types.Float32Flags, offset).tolist()
        elif isinstance(field, list):
            start = table.Vector(offset)
            places = range(start, start + 4 * table.VectorLen(offset), 4)
            values[name] = [_read(_follow(table, at), field[0]) for at in places]
        elif isinstance(field, tuple):
            number = table.Get(number_types.Uint8Flags, table.Pos + table.Offset(4 + 2 * (slot - 1)))
            if 0 < number <= len(field):  # else of a kind that we do not know
                member = field[number - 1]
                values[name] = {member: _read(_follow(table, place), member)}
        else:
            values[name] = _read(_follow(table, place), field)
    return values


def _follow(table, place):
    return flatbuffers.table.Table(table.Bytes, table.Indirect(place))

"""What is written is read back by other readers, and the model answers as before."""

import io
import zipfile

import flatbuffers
import numpy as np
import pytest
from flatbuffers import number_types

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export import load_runner, quantize_aware
from keras_vit.export.tflite.metadata import add_metadata, read_metadata

LABELS = ["crane", "crane", "Käse, 猫"]  # ImageNet has two cranes
TEXTS = {
    "name": "Nano/2",
    "description": "Three things.",
    "author": "a person",
    "licence": "Apache-2.0",
    "version": "7",
}
PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.25, 0.5, 0.4]}
KINDS = ("float32", "int8", "int8_static", "uint8")


@pytest.fixture(scope="module")
def contents(tmp_path_factory, models, images, convert):
    """One model in each form: {kind: bytes of a .tflite file}; "uint8" is the stock full int8."""
    from keras_vit.export.tflite.convert import float_file, quantized_file
    from keras_vit.export.tflite.fold import fold

    model, made = models["float32"], {}
    made["float32"] = float_file(fold(model))
    for profile in ("int8", "int8_static"):
        aware = quantize_aware(model, profile, images)
        plain, ranges = aware.deploy()
        made[profile] = quantized_file(plain, ranges, aware.spec)
    file = tmp_path_factory.mktemp("uint8") / "uint8.tflite"
    spread = np.concatenate([images, np.zeros_like(images[:1]), np.full_like(images[:1], 255)])
    convert(
        lambda image: _probabilities(model, image), file, tmp_path_factory.mktemp("s"), representative=spread
    )
    made["uint8"] = file.read_bytes()
    return made


def _probabilities(model, image):
    import tensorflow as tf

    mean, std = model.preprocessing["mean"], model.preprocessing["std"]
    return tf.nn.softmax(model((image / 255.0 - mean) / std))


@pytest.fixture(scope="module")
def described(contents):
    return {
        kind: add_metadata(content, LABELS, preprocessing=PREPROCESSING, **TEXTS)
        for kind, content in contents.items()
    }


class Table:
    """Access to a flatbuffer by slot numbers alone, which were copied from metadata_schema.fbs."""

    def __init__(self, data, place=None):
        place = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0) if place is None else place
        self.table = flatbuffers.table.Table(data, place)

    def _place(self, slot):
        return self.table.Offset(4 + 2 * slot) and self.table.Pos + self.table.Offset(4 + 2 * slot)

    def text(self, slot):
        return self.table.String(self._place(slot)).decode()

    def number(self, slot, flags):
        return self.table.Get(flags, self._place(slot))

    def child(self, slot):
        return Table(self.table.Bytes, self.table.Indirect(self._place(slot)))

    def children(self, slot):
        offset = self.table.Offset(4 + 2 * slot)
        start = self.table.Vector(offset)
        return [
            Table(self.table.Bytes, self.table.Indirect(start + 4 * i))
            for i in range(self.table.VectorLen(offset))
        ]

    def floats(self, slot):
        offset = self.table.Offset(4 + 2 * slot)
        return self.table.GetVectorAsNumpy(number_types.Float32Flags, offset).tolist()


def metadata_buffer(content):
    """The metadata's flatbuffer, found through the accessors that flatc generated for TFLite."""
    from ai_edge_litert.schema_py_generated import Model

    model = Model.GetRootAs(content, 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (entry,) = [e for e in entries if e.Name() == b"TFLITE_METADATA"]
    return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_of_slots_finds_everything(described, kind):
    data = metadata_buffer(described[kind])
    assert data[4:8] == b"M001"
    root = Table(data)
    assert [root.text(slot) for slot in (0, 1, 2, 4, 5, 7)] == [
        "Nano/2",
        "Three things.",
        "7",
        "a person",
        "Apache-2.0",
        "1.0.0",
    ]
    (graph,) = root.children(3)
    (image,), (probability,) = graph.children(2), graph.children(3)
    assert image.text(0) == "image"
    assert image.text(1) == (
        "RGB image, 8 wide and 8 high, values 0 to 255, not normalised: the model divides by 255, "
        "subtracts (0.4, 0.5, 0.6) and divides by (0.25, 0.5, 0.4) itself."
    )
    content = image.child(3)
    assert content.number(0, number_types.Uint8Flags) == 2  # ImageProperties
    assert content.child(1).number(0, number_types.Int8Flags) == 1  # RGB
    size = content.child(1).child(1)
    assert [size.number(slot, number_types.Uint32Flags) for slot in (0, 1)] == [8, 8]
    (unit,) = image.children(4)
    assert unit.number(0, number_types.Uint8Flags) == 1  # NormalizationOptions
    assert [unit.child(1).floats(slot) for slot in (0, 1)] == [[0.0], [1.0]]
    assert [image.child(5).floats(slot) for slot in (0, 1)] == [[255.0], [0.0]]
    assert probability.text(0) == "probability"
    assert probability.child(3).number(0, number_types.Uint8Flags) == 1  # FeatureProperties
    (file,) = probability.children(6)
    assert (file.text(0), file.number(2, number_types.Int8Flags)) == ("labels.txt", 2)  # axis labels


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_in_a_zip_that_anyone_can_open(described, kind):
    with zipfile.ZipFile(io.BytesIO(described[kind])) as archive:
        assert archive.testzip() is None
        (info,) = archive.infolist()
        assert (info.filename, info.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read("labels.txt") == "crane\ncrane\nKäse, 猫\n".encode()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_operators_are_the_same_to_the_last_bit(contents, described, images, tmp_path, kind):
    (tmp_path / "before.tflite").write_bytes(contents[kind])
    (tmp_path / "after.tflite").write_bytes(described[kind])
    before, after = load_runner(tmp_path / "before.tflite"), load_runner(tmp_path / "after.tflite")
    answers = before.predict(images)
    assert np.ptp(answers, axis=0).min() > 0.05, "the images are told apart"
    np.testing.assert_array_equal(after.predict(images), answers)
    assert (after.operators, after.delegated) == (before.operators, before.delegated)
    assert len(described[kind]) < len(contents[kind]) + 4000


@pytest.mark.parametrize("kind", KINDS)
def test_weights_lie_at_multiples_of_16(described, kind):
    """As the schema asks for (`force_align: 16`), so that kernels may load them as vectors."""
    from ai_edge_litert.schema_py_generated import Model

    model = Model.GetRootAs(described[kind], 0)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    assert not any(buffer.Offset() for buffer in buffers), "all weights are inside"
    filled = [buffer for buffer in buffers if buffer.DataLength()]
    assert len(filled) > 20
    assert {buffer._tab.Vector(buffer._tab.Offset(4)) % 16 for buffer in filled} == {0}


@pytest.mark.parametrize("kind", KINDS)
def test_read_metadata_gives_back_what_was_written(contents, described, kind):
    assert read_metadata(contents[kind]) is None
    found = read_metadata(described[kind])
    assert found["labels"] == LABELS
    assert (found["name"], found["license"], found["author"]) == ("Nano/2", "Apache-2.0", "a person")
    (graph,) = found["subgraph_metadata"]
    (image,) = graph["input_tensor_metadata"]
    assert image["content"]["content_properties"] == {
        "ImageProperties": {"color_space": 1, "default_size": {"width": 8, "height": 8}}
    }
    assert image["process_units"] == [{"options": {"NormalizationOptions": {"mean": [0.0], "std": [1.0]}}}]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_input_gives_the_same_bytes_and_a_second_call_replaces(contents, described, kind):
    again = add_metadata(contents[kind], LABELS, preprocessing=PREPROCESSING, **TEXTS)
    assert again == described[kind]
    other = add_metadata(again, ["a", "b", "c"], "Other")
    found = read_metadata(other)
    assert (found["name"], found["labels"]) == ("Other", ["a", "b", "c"])
    assert not {"author", "license", "version", "description"} & set(found)
    assert b"a person" not in other
    assert other == add_metadata(contents[kind], ["a", "b", "c"], "Other")
    assert add_metadata(other, LABELS, preprocessing=PREPROCESSING, **TEXTS) == described[kind]


def test_width_and_height_are_not_swapped():
    from keras_vit.export.tflite.convert import float_file
    from keras_vit.export.tflite.fold import fold

    content = float_file(fold(ViT("Nano/4", image_size=(8, 12), num_classes=2)))
    (graph,) = read_metadata(add_metadata(content, ["a", "b"], "wide"))["subgraph_metadata"]
    properties = graph["input_tensor_metadata"][0]["content"]["content_properties"]["ImageProperties"]
    assert properties["default_size"] == {"width": 12, "height": 8}


def test_other_inputs_are_named_in_the_order_of_the_graph():
    import tensorflow as tf

    specs = {
        "text": tf.TensorSpec([1, 5], tf.int32, name="text"),
        "image": tf.TensorSpec([1, 4, 6, 3], tf.float32, name="image"),
    }
    module = tf.Module()
    module.serve = tf.function(
        lambda text, image: {
            "probability": tf.nn.softmax(
                tf.reduce_mean(image, [1, 2]) + tf.reduce_sum(tf.cast(text, tf.float32))
            )
        }
    )
    concrete = module.serve.get_concrete_function(**specs)
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()
    (graph,) = read_metadata(add_metadata(content, LABELS, "two"))["subgraph_metadata"]
    kinds = {t["name"]: list(t["content"]["content_properties"]) for t in graph["input_tensor_metadata"]}
    from ai_edge_litert.interpreter import Interpreter

    order = [detail["name"] for detail in Interpreter(model_content=content).get_input_details()]
    assert [next(key for key in specs if key in name) for name in order] == list(kinds)
    assert kinds == {"image": ["ImageProperties"], "text": ["FeatureProperties"]}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "2 labels for a model with 3 classes: give one for each class"),
        (["a", "b", "c", "d"], "4 labels for a model with 3 classes"),
        (["a", "two\nlines", "c"], r"label 1 is 'two\\nlines': each label must be one line"),
        (["a", "b", "c\r"], r"label 2 is 'c\\r': each label must be one line"),
        (["a", "b", "c\u2028d"], r"label 2 is 'c\\u2028d'"),
        (["", "b", "c"], "label 0 is '': each label must be one line that is not empty"),
        (["a", " ", "c"], "label 1 is ' '"),
        (["a", "b\0", "c"], "label 1 is .*expected text that UTF-8 can hold"),
        (["a", "\ud800", "c"], "label 1 is .*expected text that UTF-8 can hold"),
        ("abc", "labels must be a list of names, not the text 'abc'"),
    ],
)
def test_labels_that_do_not_fit(contents, labels, message):
    with pytest.raises(InputError, match=message):
        add_metadata(contents["float32"], labels, "x")


def test_text_that_does_not_fit(contents):
    with pytest.raises(InputError, match=r"the model's license is .*expected text that UTF-8 can hold"):
        add_metadata(contents["float32"], LABELS, "x", licence="\ud800")


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_files_that_are_none_or_damaged(contents, described, kind):
    for content in (b"", b"PK\x03\x04", b"x" * 100):
        with pytest.raises(InputError, match="not a TFLite file, or it is damaged"):
            add_metadata(content, LABELS, "x")
    for share in (0.1, 0.5, 0.9):
        cut = contents[kind][: int(len(contents[kind]) * share)]
        with pytest.raises(InputError, match="this TFLite file is damaged"):
            add_metadata(cut, LABELS, "x")
        with pytest.raises(InputError, match="this TFLite file is damaged"):
            read_metadata(cut)
    without_zip = described[kind][:-50]
    with pytest.raises(InputError, match="the metadata of this TFLite file is damaged"):
        read_metadata(without_zip)


def test_pixels_that_clients_would_get_wrong(images, models, tmp_path, convert):
    """A stock uint8 file whose calibration pictures were all dark: pixel 200 is not stored as 200."""
    file = tmp_path / "dark.tflite"
    convert(
        lambda image: _probabilities(models["float32"], image),
        file,
        tmp_path / "s",
        representative=images // 2,
    )
    with pytest.raises(
        InputError, match=r"`image` is uint8 with scale 0\.49.* quantize it with the range 0 to"
    ):
        add_metadata(file.read_bytes(), LABELS, "x")


def test_models_without_a_picture_or_a_class():
    import tensorflow as tf

    def converted(function, shape):
        concrete = tf.function(function).get_concrete_function(tf.TensorSpec(shape, tf.float32))
        return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()

    with pytest.raises(InputError, match=r"needs an image input \[1, H, W, C\], not .* \[1, 3\]"):
        add_metadata(converted(lambda x: x * 2, [1, 3]), LABELS, "x")
    with pytest.raises(InputError, match=r"needs one output \[1, num_classes\], not .* \[1, 4, 4, 3\]"):
        add_metadata(converted(lambda x: x * 2, [1, 4, 4, 3]), LABELS, "x")

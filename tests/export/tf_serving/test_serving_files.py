"""What TF Serving gets, checked by its own protos, TensorFlow's own tools, and a stranger's process."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from bright_thirds import PREPROCESSING, SIZE, problem
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from PIL import Image
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export import quantize_aware
from keras_vit.export.tf_serving.saved_model import write_saved_model
from keras_vit.export.tf_serving.serving_files import next_version, with_signature_defs, write_serving
from keras_vit.export.tflite.convert import convert
from keras_vit.export.tflite.fold import fold
from keras_vit.export.tflite.metadata import add_metadata, read_metadata
from keras_vit.export.verification.runners import load_runner

LABELS = ["low", "middle", "größte"]  # not all of them ASCII


def stand_in(image_size):
    """What `write_serving` asks of a `ViT`."""
    return SimpleNamespace(image_size=image_size, activation="softmax", num_classes=3)


@pytest.fixture(scope="module")
def images():
    return problem(200, seed=3)[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Version 1 is float32 with its .tflite, version 7 int8_static with its own; and their Keras files."""
    keras.utils.set_random_seed(0)
    model = ViT("Nano/4", image_size=SIZE, num_classes=3, preprocessing=PREPROCESSING)
    images, labels = problem(600, seed=0)
    normalised = ((images / 255 - PREPROCESSING["mean"]) / PREPROCESSING["std"]).astype("float32")
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(normalised, labels, epochs=4, batch_size=50, verbose=0)
    folder = tmp_path_factory.mktemp("served")
    models = {"float32": model, "int8_static": quantize_aware(model, "int8_static", images[:100])}
    for version, (profile, copy) in zip((1, 7), models.items(), strict=True):
        copy.save(folder / f"{profile}.keras")
        convert(folder / f"{profile}.keras", folder / f"{profile}.tflite", profile)
        write_saved_model(copy, folder / "saved_model" / str(version), LABELS)
        tflite = folder / f"{profile}.tflite"
        write_serving(folder, stand_in(SIZE), version, "bright", tflite, images[:3])
    return folder


@pytest.fixture(scope="module")
def expected(served, images):
    """The float model's answers, from its Keras file."""
    return load_runner(served / "float32.keras").predict(images)


def loaded(served, version=1):
    """The SavedModel. Keep it: without the object that owns the weights, its signatures do not work."""
    return tf.saved_model.load(str(served / "saved_model" / str(version)))


def check_answer(answer, expected, most=1e-5):
    """Class names and the short answer follow from the probabilities."""
    probability = np.asarray(answer["probability"])
    np.testing.assert_allclose(probability, expected, atol=most)
    order = np.argsort(-probability, axis=-1)
    names = np.array(LABELS)[order]
    assert [name.decode() for name in np.asarray(answer["label"])] == names[:, 0].tolist()
    assert [[n.decode() for n in row] for row in np.asarray(answer["top_labels"])] == names.tolist()
    np.testing.assert_array_equal(
        answer["top_probabilities"], np.take_along_axis(probability, order, axis=-1)
    )


def test_the_answer_names_the_classes(served, images, expected):
    model = loaded(served)
    check_answer(model.signatures["serving_default"](image=tf.constant(images, tf.float32)), expected)
    assert len(set(expected.argmax(-1))) == 3, "these pictures are of every class"


def test_every_output_has_a_row_for_each_image(served):
    """Otherwise TF Serving could not split a batch again, nor write JSON rows."""
    for version in (1, 7):
        model = loaded(served, version)
        for signature in model.signatures.values():
            outputs = signature.structured_outputs
            named = ["label", "probability", "top_labels", "top_probabilities"]
            more = ["error", "valid"] if "error" in outputs else []
            assert sorted(outputs) == sorted(named + more)
            assert all(spec.shape[0] is None for spec in outputs.values())
    assert outputs["top_labels"].shape[1] == 3


def test_the_short_answer_has_five_classes(tmp_path):
    model = ViT("Nano/4", image_size=8, num_classes=12)
    model.head.bias.assign([0.0, 1, 5, 2, 9, 3, 0, 0, 7, 0, 0, 8])
    write_saved_model(model, tmp_path / "1")
    model = tf.saved_model.load(str(tmp_path / "1"))
    answer = model.signatures["serving_default"](image=tf.zeros((1, 8, 8, 3)))
    assert answer["top_labels"].numpy().tolist() == [[b"4", b"11", b"8", b"2", b"5"]]
    assert answer["probability"].shape == (1, 12)


@pytest.mark.parametrize("version", [1, 7])
def test_the_warm_up_requests_replay(served, version):
    """As TF Serving does it: parse each record, run the signature that it names on its inputs."""
    model = loaded(served, version)
    file = served / "saved_model" / str(version) / "assets.extra" / "tf_serving_warmup_requests"
    answers = {}
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "bright"
        signature = model.signatures[request.model_spec.signature_name]
        inputs = {key: tf.constant(tf.make_ndarray(tensor)) for key, tensor in request.inputs.items()}
        answers[request.model_spec.signature_name] = signature(**inputs)["probability"].numpy()
    pictures = problem(600, seed=0)[0][:3].astype(np.float32)
    direct = model.signatures["serving_default"](image=tf.constant(pictures))["probability"].numpy()
    np.testing.assert_allclose(answers["serving_default"], direct[:1], atol=1e-6)
    for name in ("serve_bytes", "serve_bytes_safe"):
        assert answers[name].shape == (2, 3)
        np.testing.assert_allclose(answers[name][1], direct[2], atol=1e-6)  # a PNG has no losses


def test_warm_up_pictures_are_made_if_none_are_given(tmp_path):
    (tmp_path / "saved_model" / "1").mkdir(parents=True)
    (tmp_path / "saved_model" / "1" / "saved_model.pb").touch()
    write_serving(tmp_path, stand_in((24, 16)))
    file = tmp_path / "saved_model" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    records = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    request = PredictionLog.FromString(records[0]).predict_log.request
    picture = tf.make_ndarray(request.inputs["image"])
    assert picture.shape == (1, 24, 16, 3) and picture.std() > 20 and picture.max() <= 255
    first = file.read_bytes()
    write_serving(tmp_path, stand_in((24, 16)))
    assert file.read_bytes() == first, "the same input, the same bytes"
    assert "model.tflite" not in (tmp_path / "serving" / "compose.yaml").read_text()


def signature_defs(content):
    """The signatures of a .tflite as TF Serving's TfLiteSession reads them (tflite_session.cc)."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    model = schema.Model.GetRootAs(content, 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (entry,) = [entry for entry in entries if entry.Name() == b"signature_defs_metadata"]
    values = flexbuffers.GetRoot(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()).AsMap
    found = {}
    for key, value in zip(values.Keys, values.Values, strict=True):
        assert value.IsString
        found[key.AsKey] = SignatureDef.FromString(value.AsStringBytes)
    return found


@pytest.mark.parametrize(("version", "profile"), [(1, "float32"), (7, "int8_static")])
def test_model_tflite_serves_the_same_request(served, images, version, profile):
    """With --prefer_tflite_model: TensorFlow's own interpreter, tensors found by the SignatureDef's names."""
    content = (served / "saved_model" / str(version) / "model.tflite").read_bytes()
    (signature,) = signature_defs(content).values()
    assert signature.method_name == "tensorflow/serving/predict"
    assert list(signature.inputs) == ["image"] and list(signature.outputs) == ["probability"]
    image, probability = signature.inputs["image"], signature.outputs["probability"]
    assert image.dtype == tf.float32.as_datatype_enum
    assert [dimension.size for dimension in image.tensor_shape.dim] == [1, 12, 8, 3]
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    inputs = {tensor["name"]: tensor["index"] for tensor in interpreter.get_input_details()}
    outputs = {tensor["name"]: tensor["index"] for tensor in interpreter.get_output_details()}
    answers = []
    for picture in images[:50]:
        interpreter.set_tensor(inputs[image.name], picture[None].astype(np.float32))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(outputs[probability.name])[0])
    original = load_runner(served / f"{profile}.tflite").predict(images[:50])
    np.testing.assert_allclose(answers, original, atol=1e-6)


def test_signatures_are_added_once_and_leave_labels_and_answers(served, images, tmp_path):
    plain = (served / "int8_static.tflite").read_bytes()
    labelled = add_metadata(plain, LABELS, "a model")
    once = with_signature_defs(labelled)
    assert read_metadata(once) == read_metadata(labelled)
    assert signature_defs(with_signature_defs(once)) == signature_defs(once)
    (tmp_path / "once.tflite").write_bytes(once)
    runner = load_runner(tmp_path / "once.tflite")
    np.testing.assert_array_equal(
        runner.predict(images[:20]), load_runner(served / "int8_static.tflite").predict(images[:20])
    )
    assert runner.delegated == 1.0


def test_an_aware_saved_model_answers_like_the_phone(served, images, expected):
    phone = load_runner(served / "int8_static.tflite").predict(images)
    model = loaded(served, 7)
    answer = model.signatures["serving_default"](image=tf.constant(images, tf.float32))
    probability = answer["probability"].numpy()
    difference = np.abs(probability - phone)
    assert difference.mean() < 1e-3 and difference.max() < 0.03
    second, first = np.sort(phone, axis=-1)[:, -2:].T
    decided = first - second > 0.03  # in the others, one step of 256 may decide
    assert decided.mean() > 0.8
    np.testing.assert_array_equal(probability.argmax(-1)[decided], phone.argmax(-1)[decided])
    # Not by accident: the float model is further away from the phone than this.
    assert difference.mean() < np.abs(expected - phone).mean() / 3
    check_answer(answer, probability)


def test_an_aware_saved_model_is_plain_tensorflow_and_writes_nothing(served):
    """No operator of our own; and weights are rounded in the file, not in every request."""
    model = loaded(served, 7)
    graph = model.signatures["serving_default"].graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    kinds = {node.op for node in nodes}
    assert {"FakeQuantWithMinMaxVars"} <= kinds
    assert not {kind for kind in kinds if kind.startswith("Assign") or "PerChannel" in kind}
    assert all(kind in tf.raw_ops.__dict__ for kind in kinds - {"Placeholder", "Const", "NoOp"})


def test_every_weight_is_stored_once(served):
    """Keras' ExportArchive would store each twice: on the disk, and in the server's memory."""
    model = keras.models.load_model(served / "float32.keras")
    prefix = served / "saved_model" / "1" / "variables" / "variables"
    stored = [shape for name, shape in tf.train.list_variables(str(prefix)) if "VARIABLE_VALUE" in name]
    assert sum(int(np.prod(shape)) for shape in stored) == fold(model).count_params()


STRANGER = """
import sys
from importlib.machinery import ModuleSpec
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras_vit", "keras", "tf_keras", "tensorflow_model_optimization"):
            return ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError(f"{spec.name} is not here")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Blocked())
import numpy as np, tensorflow as tf
folder, images, picture, out = sys.argv[1:]
model = tf.saved_model.load(folder)
pixels = model.signatures["serving_default"](image=tf.constant(np.load(images)))
files = model.signatures["serve_bytes"](image_bytes=tf.constant([open(picture, "rb").read()]))
assert not {"keras_vit", "keras"} & set(sys.modules)
np.savez(out, pixels=pixels["probability"], label=files["label"], one=files["probability"])
"""


@pytest.mark.parametrize("version", [1, 7])
def test_a_process_without_this_package_and_keras_loads_it(served, images, tmp_path, version):
    np.save(tmp_path / "images.npy", images[:5].astype(np.float32))
    Image.fromarray(images[0]).save(tmp_path / "picture.png")
    folder = served / "saved_model" / str(version)
    files = [tmp_path / name for name in ("images.npy", "picture.png", "a.npz")]
    run([sys.executable, "-I", "-c", STRANGER, folder, *files])
    with np.load(tmp_path / "a.npz", allow_pickle=True) as answer:
        model = loaded(served, version)
        ours = model.signatures["serving_default"](image=tf.constant(images[:5], tf.float32))["probability"]
        np.testing.assert_allclose(answer["pixels"], ours, atol=1e-6)
        np.testing.assert_allclose(answer["one"], ours[:1], atol=1e-6)
        assert answer["label"][0].decode() == LABELS[int(np.argmax(ours[0]))]


@pytest.mark.slow
def test_saved_model_cli_runs_it(served, images, expected, tmp_path):
    np.save(tmp_path / "images.npy", images[:5].astype(np.float32))
    contents = []
    for picture in images[:2]:
        Image.fromarray(picture).save(tmp_path / "picture.png")
        contents.append((tmp_path / "picture.png").read_bytes())
    np.save(tmp_path / "files.npy", contents)  # a PNG does not end in a zero byte, which NumPy would cut off
    folder, tool = (
        served / "saved_model" / "1",
        os.path.join(os.path.dirname(sys.executable), "saved_model_cli"),
    )
    for signature, inputs in (
        ("serving_default", "image=images.npy"),
        ("serve_bytes", "image_bytes=files.npy"),
    ):
        out = tmp_path / signature
        options = {
            "dir": folder,
            "tag_set": "serve",
            "signature_def": signature,
            "inputs": inputs,
            "outdir": out,
        }
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        run([sys.executable, tool, "run", *given], cwd=tmp_path)
        answer = {file.stem: np.load(file, allow_pickle=True) for file in out.iterdir()}
        check_answer(answer, expected[: len(answer["label"])])


def test_models_config_is_one(served):
    config = text_format.Parse((served / "serving" / "models.config").read_text(), ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("bright", "/models/bright", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1
    # What the comments offer parses as well.
    text = (served / "serving" / "models.config").read_text()
    text = text.replace("    model_version_policy { latest { num_versions: 1 } }\n", "")
    offered = re.sub(r"#   (model_version_policy|version_labels)", r"\1", text)
    (model,) = text_format.Parse(offered, ModelServerConfig()).model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [7, 8]
    assert dict(model.version_labels) == {"stable": 7, "canary": 8}


def batching_parameters():
    """The message of tensorflow/serving's session_bundle_config.proto, which is not in its Python package."""
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    kinds = descriptor_pb2.FieldDescriptorProto
    fields = {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
    }
    for number, (name, kind) in enumerate(fields.items(), 1):
        message.field.add(
            name=name,
            number=number,
            label=kinds.LABEL_OPTIONAL,
            type=kinds.TYPE_MESSAGE,
            type_name=f".google.protobuf.{kind}",
        )
    message.field.add(name="allowed_batch_sizes", number=6, label=kinds.LABEL_REPEATED, type=kinds.TYPE_INT64)
    message.field.add(
        name="pad_variable_length_inputs", number=7, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_BOOL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found = pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters")
    return message_factory.GetMessageClass(found)()


def test_batching_config_is_one(served):
    text = (served / "serving" / "batching.config").read_text()
    parameters = text_format.Parse(text, batching_parameters())
    sizes = list(parameters.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[-1] == parameters.max_batch_size.value == 32
    assert 0 < parameters.batch_timeout_micros.value < 100_000
    assert parameters.max_enqueued_batches.value > 0 and parameters.num_batch_threads.value > 0


def test_compose_file_fits_the_other_files(served):
    text = (served / "serving" / "compose.yaml").read_text()
    (service,) = yaml.safe_load(text)["services"].values()
    assert service["image"].startswith("tensorflow/serving:")
    assert [port.rsplit(":", 2)[1:] for port in service["ports"]] == [["8500", "8500"], ["8501", "8501"]]
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert all(not source.startswith("/") for source in mounts)
    inside = {target: (served / "serving" / source).resolve() for source, target in mounts.items()}
    assert (inside["/models/bright"] / "7" / "saved_model.pb").is_file()
    offered = re.sub(r"# - --", "- --", text)
    (everything,) = yaml.safe_load(offered)["services"].values()
    assert len(everything["command"]) == len(service["command"]) + 4
    for option in everything["command"]:
        name, value = option.split("=")
        if name.endswith("_file"):
            place, file = os.path.split(value)
            assert (inside[place] / file).is_file(), option


@pytest.mark.parametrize(("state", "healthy"), [("AVAILABLE", True), ("LOADING", False)])
def test_the_health_check_tells_a_ready_server(served, state, healthy):
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            status = {"model_version_status": [{"version": "7", "state": state}]}
            self.wfile.write(json.dumps(status).encode())

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        compose = yaml.safe_load((served / "serving" / "compose.yaml").read_text())
        kind, *command = compose["services"]["bright"]["healthcheck"]["test"]
        assert kind == "CMD"
        command[-1] = command[-1].replace("/8501", f"/{server.server_port}")
        result = subprocess.run(command, capture_output=True, timeout=20)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (result.returncode == 0) == healthy, result.stderr
    assert asked == ["/v1/models/bright"]


def test_next_version(served, tmp_path):
    assert next_version(served / "saved_model") == 8
    assert next_version(tmp_path / "nothing") == 1
    (tmp_path / "9").touch()  # no folder, so no version
    (tmp_path / "10-old").mkdir()
    assert next_version(tmp_path) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 0}, "a version must be a positive integer, not 0"),
        ({"version": "1"}, "a version must be a positive integer, not '1'"),
        ({"version": True}, "a version must be a positive integer, not True"),
        ({"version": 2}, r"saved_model/2 holds no saved_model.pb: write the SavedModel first"),
        ({"name": "a/b"}, "has letters, digits, - _ and . only, not 'a/b'"),
        ({"name": ""}, "has letters, digits"),
        ({"pictures": np.zeros((0, 12, 8, 3), np.uint8)}, r"N > 0, not uint8 \[0, 12, 8, 3\]"),
        ({"pictures": np.zeros((2, 8, 12, 3), np.uint8)}, r"must be uint8 \[N, 12, 8, 3\]"),
        ({"pictures": np.zeros((2, 12, 8, 3))}, "not float64"),
        ({"tflite": __file__}, "not a TFLite file"),
    ],
)
def test_bad_input(tmp_path, options, message):
    (tmp_path / "saved_model" / "1").mkdir(parents=True)
    (tmp_path / "saved_model" / "1" / "saved_model.pb").touch()
    with pytest.raises(InputError, match=message):
        write_serving(tmp_path, stand_in(SIZE), **options)
    assert not (tmp_path / "serving").exists()


def run(command, **options):
    """What a command says; it fails the test if the command fails."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        **options,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout

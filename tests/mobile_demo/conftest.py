"""What the tests of the page share: Node, Chromium, small exported models, and both joined."""

import fcntl
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from keras_vit.mobile_demo.server import make_server
from keras_vit.mobile_demo.site import PAGE

HERE = Path(__file__).parent
WEB = PAGE.parent / "web"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
LABELS = ["apple", "pear", "plum", "fig", "quince", "cherry"]
WORDS = ["a", "red", "blue", "circle", "红", "圆"]
IMAGE_SIZE = (32, 40)
SECONDS = 240  # for one run of Node, on a machine that does much else


@pytest.fixture(scope="session")
def web():
    """The folder of the page's sources, with what Node needs installed."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("Node.js with npm is not installed: the page cannot be tested without.")
    with open(WEB / "package.json") as lock:  # two test processes must not install at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = WEB / "node_modules" / ".package-lock.json"
        if not stamp.exists() or stamp.stat().st_mtime < (WEB / "package-lock.json").stat().st_mtime:
            subprocess.run(["npm", "ci", "--silent"], cwd=WEB, check=True, timeout=SECONDS)
    return WEB


def run_node(script, *arguments, given=""):
    """What a script of this folder prints, read as JSON."""
    command = ["node", str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise AssertionError(f"{script} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def call(web):
    """`call([(function, argument), ...])`: the answers of the page's functions, see functions.mjs."""

    def call(cases):
        given = json.dumps([{"function": name, "argument": argument} for name, argument in cases])
        return run_node("functions.mjs", web, given=given)

    return call


@pytest.fixture(scope="session")
def browse(web):
    """`browse(scenario, **arguments)`: what a scenario of browser.mjs saw in Chromium."""
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed: apt-get install chromium.")

    def browse(scenario, **arguments):
        return run_node("browser.mjs", web, CHROMIUM, scenario, given=json.dumps(arguments))

    return browse


@pytest.fixture(scope="session")
def serve():
    """`serve(directory)`: the address of a `make_server` that runs until the tests end."""
    running = []

    def serve(directory, token=""):
        server = make_server(directory, token=token)
        server.names.add("phone.test")  # what Chromium is told to find here
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        return f"http://localhost:{server.server_port}/" + (f"{token}/" if token else "")

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


def shaken(build, seed):
    """What `build` makes, with weights by `seed` whose answers depend on the input: a new head is zeros."""
    import keras

    keras.utils.set_random_seed(seed)
    model, random = build(), np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(weight + random.normal(0, 0.2, weight.shape))
    return model


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """An export directory as `keras-vit export` writes it, of a small ViT of pictures."""
    import keras_vit
    from keras_vit.export import export

    config = keras_vit.ViTConfig(patch_size=8, width=32, depth=1, num_heads=2)
    model = shaken(lambda: keras_vit.ViT(config, image_size=IMAGE_SIZE, num_classes=len(LABELS)), 1)
    pictures = np.random.default_rng(0).integers(0, 256, (16, *IMAGE_SIZE, 3), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("web") / "export"
    export(model, folder, ["float32", "int8_static"], calibration=pictures, labels=LABELS)
    return folder


@pytest.fixture(scope="session")
def multimodal_directory(tmp_path_factory):
    """One of pictures and texts, and actions, which the page cannot give."""
    import keras_vit
    from keras_vit.export import export
    from keras_vit.modalities import Action, Image, Text, Vocabulary

    def build():
        parts = {
            "image": Image(16, 8),
            "text": Text(Vocabulary(WORDS), length=4),
            "action": Action(steps=3, features=2),
        }
        return keras_vit.MultimodalViT(parts, width=32, depth=1, num_heads=2, num_classes=len(LABELS))

    folder = tmp_path_factory.mktemp("web") / "multimodal"
    export(shaken(build, 2), folder, ["float32"], labels=LABELS)
    return folder


@pytest.fixture(scope="session")
def convert():
    """`convert(function, path, ...)`: a .tflite file of a function of pixels, which gives `output`."""
    import tensorflow as tf

    def convert(
        function, path, size=IMAGE_SIZE, key="serving_default", representative=None, output="probability"
    ):
        spec = tf.TensorSpec([1, *size, 3], tf.float32, name="image")
        module = tf.Module()
        module.serve = tf.function(lambda image: {output: function(image)}, input_signature=[spec])
        folder = path.with_suffix(".saved")
        tf.saved_model.save(module, str(folder), signatures={key: module.serve})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[key])
        if representative is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([x[None].astype("float32")] for x in representative)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        path.write_bytes(converter.convert())
        return path

    return convert

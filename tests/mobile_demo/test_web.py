"""The page in headless Chromium: it answers as LiteRT in Python does, offline too, whatever it is given."""

import functools
import hashlib
import http.server
import json
import shutil
import threading

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from keras_vit.data.decoding import decode
from keras_vit.export.verification.runners import load_runner
from keras_vit.mobile_demo.site import write_site
from keras_vit.modalities import Vocabulary

from .conftest import IMAGE_SIZE, LABELS, WORDS

FLOAT, QUANTIZED = 1e-3, 2e-2  # what the page's probabilities may differ by
MEGABYTE = 1e6


def blotches(random, height, width, channels=3):
    """A smooth coloured picture, such as a camera gives."""
    coarse = random.integers(0, 256, (4, 5, channels), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """20 picture files of many sizes and kinds; PNG, since JPEG readers differ in rounding."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    sizes = [(32, 40), (31, 41), (480, 640), (640, 480), (1200, 900), (7, 9), (1, 1), (33, 500), (500, 33)]
    files = []
    for i in range(20):
        height, width = sizes[i % len(sizes)]
        image = blotches(random, height, width)
        if i == 4:
            image = image.convert("L")
        if i == 5:
            image = image.quantize(16)
        if i == 15:
            image = Image.new("RGB", (4500, 3000), (200, 90, 20))
            image.paste(blotches(random, 1500, 2000), (300, 200))
        files.append(folder / f"{i}.png")
        image.save(files[-1])
    return files


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory):
    """Pictures that something must be done to: turned, transparent, animated, JPEG."""
    folder, random = tmp_path_factory.mktemp("odd"), np.random.default_rng(1)
    turned = Image.Exif()
    turned[0x0112] = 6
    blotches(random, 300, 400).save(folder / "turned.jpg", exif=turned, quality=95)
    mirrored = Image.Exif()
    mirrored[0x0112] = 7
    blotches(random, 300, 400).save(folder / "mirrored.jpg", exif=mirrored, quality=95)
    blotches(random, 90, 70, 4).save(folder / "transparent.png")
    frames = [blotches(random, 60, 60).quantize(64) for _ in range(2)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:], duration=500)
    blotches(random, 200, 300).save(folder / "lossless.webp", lossless=True)
    blotches(random, 1, 15000).save(folder / "thin.png")
    return sorted(folder.iterdir())


def expected(file, pictures, size=IMAGE_SIZE):
    """LiteRT's probabilities of picture files, [N, num_classes]."""
    return load_runner(file).predict(np.stack([decode(path, size) for path in pictures]))


def agree(page, python, tolerance):
    page = np.array(page, np.float32)
    np.testing.assert_array_equal(page.argmax(-1), python.argmax(-1))
    np.testing.assert_allclose(page, python, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def small(tmp_path_factory, convert):
    """{name: .tflite file} of one matrix each, made in a second: what a real export is not needed for."""
    import tensorflow as tf

    folder, random = tmp_path_factory.mktemp("small"), np.random.default_rng(3)
    kernel = tf.constant(random.normal(0, 0.1, (np.prod(IMAGE_SIZE) * 3, len(LABELS))), tf.float32)

    def probability(image):
        return tf.nn.softmax(tf.reshape(image / 127.5 - 1, [1, -1]) @ kernel)

    def hungry(image):
        """Needs 4 GB for one tensor: a 32-bit memory cannot hold what else there is."""
        wide = tf.tile(tf.reshape(image, [1, -1]), [250_000, 1])
        return tf.reduce_max(wide * image[0, 0, 0, 0], axis=0, keepdims=True)[:, : len(LABELS)]

    pixels = random.integers(0, 256, (16, *IMAGE_SIZE, 3))
    return {
        "uint8": convert(probability, folder / "uint8.tflite", representative=pixels),
        "other": convert(probability, folder / "other.tflite", key="classify"),
        "hungry": convert(hungry, folder / "hungry.tflite"),
    }


@pytest.fixture(scope="module")
def url(directory, serve):
    return serve(directory)


def paths(files):
    return [str(file) for file in files]


def test_twenty_pictures_get_the_probabilities_that_litert_gives(browse, url, directory, pictures, small):
    files = ["float32.tflite", "int8_static.tflite"]
    own = str(small["uint8"])
    seen = browse("answers", url=url, files=files, pictures=paths(pictures), own=[own])
    assert seen["failures"] == [] and seen["code"] is None
    assert seen["first"] == "int8_static.tflite" and seen["isolated"]
    agree(seen["answers"]["float32.tflite"], expected(directory / "float32.tflite", pictures), FLOAT)
    agree(
        seen["answers"]["int8_static.tflite"], expected(directory / "int8_static.tflite", pictures), QUANTIZED
    )
    agree(seen["answers"][own], expected(small["uint8"], pictures), QUANTIZED)
    answers = np.array(seen["answers"]["float32.tflite"])
    assert len(set(answers.argmax(-1))) > 1 and np.ptp(answers, axis=0).max() > 0.2  # else little is proved


def test_a_files_signature_is_what_litert_reads(call, directory, multimodal_directory):
    files = [directory / "int8_static.tflite", multimodal_directory / "float32.tflite"]
    for file, layout in zip(files, call([("layout", str(file)) for file in files]), strict=True):
        runner = Interpreter(str(file)).get_signature_runner("serving_default")
        for mine, theirs in (
            (layout["inputs"], runner.get_input_details()),
            (layout["outputs"], runner.get_output_details()),
        ):
            found = {tensor["name"]: (tensor["shape"], tensor["dtype"]) for tensor in mine}
            assert found == {
                name: (place["shape"].tolist(), np.dtype(place["dtype"]).name)
                for name, place in theirs.items()
            }


def test_turned_transparent_and_animated_pictures_are_read_as_in_python(browse, url, directory, odd_pictures):
    seen = browse("answers", url=url, files=["float32.tflite"], pictures=paths(odd_pictures), own=[])
    # JPEG readers round in their own ways, and a canvas rounds colours under half-transparent pixels.
    agree(seen["answers"]["float32.tflite"], expected(directory / "float32.tflite", odd_pictures), 5e-3)


def test_answers_speed_sizes_and_every_way_to_give_a_picture(browse, url, directory, pictures):
    other = [pictures[3].name, list(pictures[3].read_bytes())]
    seen = browse("showing", url=url, picture=str(pictures[2]), other=other)
    assert seen["failures"] == [] and seen["before"] == "No answer yet"
    first, second = expected(directory / "int8_static.tflite", [pictures[2], pictures[3]])
    order = np.argsort(-first)[:5]
    assert [row[0] for row in seen["rows"]] == [LABELS[i] for i in order]
    shares = [float(row[1].rstrip("%")) for row in seen["rows"]]
    np.testing.assert_allclose(shares, 100 * first[order], atol=100 * QUANTIZED)
    np.testing.assert_allclose(seen["bars"], first[order], atol=QUANTIZED)
    assert seen["speed"].endswith(" ms") and float(seen["speed"].split()[0]) > 0
    assert seen["spoken"].startswith(f"{LABELS[order[0]]}, ")
    agree([seen["pasted"], seen["dropped"]], np.stack([second, second]), QUANTIZED)
    assert seen["byKeyboard"] == "float32.tflite"  # the arrow goes round, from the last to the first
    for row, name in zip(seen["compared"], ("float32", "int8_static"), strict=True):
        size = (directory / f"{name}.tflite").stat().st_size / 1e3
        assert row[0] == name
        assert row[1].endswith(" kB") and float(row[1].split()[0]) == pytest.approx(size, abs=0.6)
        assert row[2] == LABELS[expected(directory / f"{name}.tflite", [pictures[3]]).argmax()]
        assert row[3].endswith(" ms")
    assert seen["chinese"] == {"lang": "zh-Hans", "camera": "相机"}
    assert seen["chineseAfterReload"] == "相机"


def test_one_class_shows_both_its_labels_and_logits_are_no_percentages(
    browse, serve, convert, directory, pictures, tmp_path
):
    import tensorflow as tf

    kernel = np.random.default_rng(5).normal(0, 0.05, (np.prod(IMAGE_SIZE) * 3, 2))

    def head(num_classes):
        return lambda image: (
            tf.reshape(image / 127.5 - 1, [1, -1]) @ tf.constant(kernel[:, :num_classes], tf.float32)
        )

    convert(lambda image: tf.sigmoid(head(1)(image)), tmp_path / "one.tflite")
    convert(head(2), tmp_path / "numbers.tflite", output="logits")
    (tmp_path / "labels.txt").write_text("fine\ndefect\n")
    manifest = json.loads((directory / "manifest.json").read_text())
    artifact = manifest["artifacts"][0]
    manifest |= {"labels": ["fine", "defect"], "artifacts": []}
    manifest.pop("classes", None)  # one of the files has one class, the other two
    for name in ("one.tflite", "numbers.tflite"):
        content = (tmp_path / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["artifacts"].append(artifact | {"name": name, "bytes": len(content), "sha256": digest})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    seen = browse("rows", url=serve(tmp_path), picture=str(pictures[0]), files=["one", "numbers"])
    assert seen["failures"] == [] and seen["code"] is None
    ((p,),) = expected(tmp_path / "one.tflite", pictures[:1])
    (logits,) = expected(tmp_path / "numbers.tflite", pictures[:1])
    assert 0.02 < p < 0.98 and min(logits) < 0  # else little is proved
    both = sorted([(1 - p, "fine"), (p, "defect")], reverse=True)
    assert [row[0] for row in seen["rows"]["one"]] == [name for _, name in both]
    shares = [float(row[1].rstrip("%")) for row in seen["rows"]["one"]]
    np.testing.assert_allclose(shares, [100 * share for share, _ in both], atol=0.06)
    assert seen["bars"] == {"one": 2, "numbers": 0}
    order = np.argsort(-logits)
    assert [row[0] for row in seen["rows"]["numbers"]] == [("fine", "defect")[i] for i in order]
    found = [float(row[1].replace("\u2212", "-")) for row in seen["rows"]["numbers"]]
    np.testing.assert_allclose(found, logits[order], rtol=1e-3)
    assert seen["spoken"]["one"].startswith(f"{both[0][1]}, ") and "%" not in seen["spoken"]["numbers"]


def test_the_camera_answers_frame_after_frame_and_its_absence_is_explained(browse, url, directory, tmp_path):
    film = tmp_path / "film.mjpeg"
    frame = blotches(np.random.default_rng(5), 480, 640)
    frame.save(tmp_path / "film.png")
    frame.save(tmp_path / "film.jpg", quality=98)
    film.write_bytes((tmp_path / "film.jpg").read_bytes() * 10)
    seen = browse("camera", url=url, film=str(film))
    assert seen["failures"] == [] and seen["code"] is None and seen["label"] == "Stop"
    assert seen["size"] == [480, 640]
    # A film's colours are rounded twice, to YUV and back.
    (answer,) = expected(directory / "int8_static.tflite", [tmp_path / "film.png"])
    agree([seen["first"], seen["after"]], np.stack([answer, answer]), 0.1)
    milliseconds, fps = seen["speed"].split(" · ")
    assert milliseconds.endswith(" ms") and float(fps.removesuffix(" fps")) > 0
    assert (seen["blocked"]["code"], seen["blocked"]["text"]) == (
        "cameraDenied",
        "The camera is blocked. Allow it for this page in the browser's settings, or choose a photo.",
    )
    assert seen["missing"]["code"] == "cameraMissing"
    assert seen["insecure"]["code"] == "cameraInsecure" and "--https" in seen["insecure"]["text"]
    assert seen["usable"] == 5
    flipped = {"back": False, "front": True, "failures": []}  # the front camera is shown as in a mirror
    assert seen["flipped"] == flipped


def test_attention_darkens_what_was_not_looked_at(browse, url, directory, pictures, tmp_path):
    import keras

    from keras_vit.export.tflite.convert import float_file
    from keras_vit.export.tflite.fold import fold
    from keras_vit.inspect import attention_rollout

    model, file = keras.models.load_model(directory / "keras/float32.keras"), tmp_path / "rollout.tflite"
    file.write_bytes(float_file(fold(model), rollout=True))
    seen = browse("attention", url=url, own=str(file), picture=str(pictures[2]))
    assert seen["failures"] == [] and not seen["before"] and seen["offered"] and seen["hidden"]
    pixels = decode(pictures[2], IMAGE_SIZE)[None].astype("float32")
    looked = attention_rollout(model, np.asarray(model.prepare(pixels)))[0]
    darkness = np.array(seen["pixels"]).reshape(4, 5, 4)[..., 3]
    np.testing.assert_allclose(darkness, 205 * (1 - looked / looked.max()), atol=1.01)
    assert np.ptp(darkness) > 20


def test_after_the_first_visit_no_network_is_needed(browse, serve, directory, pictures):
    files, other, url = ["int8_static"], "float32", serve(directory, token="a-token")
    seen = browse("offline", url=url, picture=str(pictures[0]), files=files, other=other)
    assert seen["failures"] == []
    assert 2 * MEGABYTE < seen["first"] < 12 * MEGABYTE  # wasm, page and the small model
    assert seen["second"] < 0.05 * MEGABYTE  # manifest, labels, and whether the service worker is new
    assert seen["broken"]["code"] == "download"
    assert seen["broken"]["text"].startswith("float32.tflite did not arrive whole")
    assert seen["again"] == seen["without"] == seen["usable"] == seen["answer"]
    assert seen["missing"]["code"] == "download"


def test_a_written_site_answers_on_any_web_host(browse, directory, pictures, tmp_path):
    write_site(directory, tmp_path / "site")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        threading.Thread(target=host.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://localhost:{host.server_port}/site/"
        seen = browse("answers", url=url, files=["float32.tflite"], pictures=paths(pictures[:2]), own=[])
        host.shutdown()
    assert seen["failures"] == [] and not seen["isolated"]  # such a host sends no headers for it
    agree(seen["answers"]["float32.tflite"], expected(directory / "float32.tflite", pictures[:2]), FLOAT)


def test_bad_files_get_a_sentence_and_the_page_goes_on(browse, url, directory, pictures, small, tmp_path):
    whole = (directory / "float32.tflite").read_bytes()
    models = {
        "text.tflite": (b"no model, whatever its name says", "notTflite", "is not a TFLite file"),
        "cut.tflite": (whole[:300], "notTflite", "is not a TFLite file"),
        "signature.tflite": (small["other"].read_bytes(), "badSignature", "it has classify"),
        "hungry.tflite": (small["hungry"].read_bytes(), "outOfMemory", "too little memory"),
    }
    images = {"text.png": b"no picture", "empty.jpg": b"", "cut.png": pictures[2].read_bytes()[:40]}
    for name, (content, *_) in models.items():
        (tmp_path / name).write_bytes(content)
    for name, content in images.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    seen = browse(
        "bad",
        url=url,
        picture=str(pictures[0]),
        models=[str(tmp_path / name) for name in models],
        pictures=[str(tmp_path / name) for name in images],
        labels=str(tmp_path / "labels.txt"),
    )
    assert seen["failures"] == []
    for name, (_, code, sentence) in models.items():
        found = seen["models"][str(tmp_path / name)]
        assert found["code"] == code and sentence in found["text"] and name in found["text"]
    for name in images:
        found = seen["pictures"][str(tmp_path / name)]
        assert found["code"] == "notAnImage" and found["text"].startswith(f"{name} is not a picture")
    assert seen["same"] == [True] * (len(models) + len(images))
    assert seen["pasted"]["code"] == "nothingPasted"
    assert seen["labels"]["text"].startswith("The labels do not fit: 2 names for 6 classes.")
    assert seen["numbered"].startswith("class ") and seen["closed"]


def test_what_the_server_or_browser_lacks_gets_a_sentence_in_both_languages(browse, url, pictures):
    seen = browse("broken", url=url, picture=str(pictures[0]))
    assert seen.pop("failures") == []
    wanted = {
        "noExport": ("noExport", "keras-vit demo-app EXPORT_DIR"),
        "badManifest": ("badManifest", "manifest.json cannot be read"),
        "noRuntime": ("noRuntime", "make web"),
        "missing": ("missing", "int8_static.tflite is not on the server"),
        "changed": ("changed", "is not the file that was exported"),
        "labels": ("labels", "1 names for 6 classes"),
        "oldBrowser": ("noSimd", "This browser is too old"),
    }
    assert set(seen) == set(wanted)
    for name, (code, sentence) in wanted.items():
        assert seen[name]["code"] == code and sentence in seen[name]["text"] and seen[name]["usable"], name


def test_words_and_switches_of_a_multimodal_model(browse, serve, multimodal_directory, pictures):
    text = "A red 圆, truly"
    seen = browse(
        "multimodal",
        url=serve(multimodal_directory),
        picture=str(pictures[0]),
        text=text,
        unknown="green red red red red blue",
    )
    assert seen["failures"] == [] and seen["code"] is None and seen["complaints"] == []
    runner = load_runner(multimodal_directory / "float32.tflite")

    def answer(image, words):
        inputs = {
            "image": decode(pictures[0], 16)[None] if image else np.zeros((1, 16, 16, 3)),
            "text": Vocabulary(WORDS).encode([text if words else ""], 4),
            "action": np.zeros((1, 3, 2)),
            "present": np.array([[image, words, 0]], "float32"),
        }
        return runner.predict(inputs)

    agree([seen["words"]], answer(0, 1), FLOAT)
    agree([seen["both"]], answer(1, 1), FLOAT)
    agree([seen["pictureAlone"]], answer(1, 0), FLOAT)
    assert np.abs(answer(1, 1) - answer(1, 0)).max() > 10 * FLOAT  # the words do matter
    nothing = "Give the model at least one thing: a picture or a text."
    assert seen["hint"] == seen["nothing"] == nothing
    assert "Words that the model does not know: green 2 words are cut: the model takes 4." in seen["hints"]
    assert "action: not from this page, counts as absent" in seen["hints"]


def test_the_page_can_be_read_hit_and_named_on_phone_and_desktop(browse, url, pictures):
    seen = browse("looks", url=url, picture=str(pictures[2]))
    assert seen["failures"] == []
    assert {name: found for name, found in seen["complaints"].items() if found} == {}
    assert len(seen["complaints"]) == 10 and seen["checked"] > 200
    phone, desktop = seen["phone"], seen["desktop"]
    assert phone["answers"]["y"] > phone["stage"]["y"] + phone["stage"]["height"]  # below
    assert desktop["answers"]["x"] > desktop["stage"]["x"] + desktop["stage"]["width"]  # beside
    assert desktop["stage"]["height"] < 800 and phone["stage"]["width"] > 300
    manifest = seen["manifest"]
    assert {"name", "short_name", "start_url", "display", "theme_color", "background_color"} <= set(manifest)
    assert manifest["display"] == "standalone"
    icons = {(icon["sizes"], icon.get("purpose")): icon["real"] for icon in manifest["icons"]}
    assert icons["192x192", None] == "192x192"
    assert icons["512x512", None] == icons["512x512", "maskable"] == "512x512"


def test_a_chinese_browser_gets_chinese(browse, url):
    seen = browse("chinese", url=url)
    assert seen["lang"] == "zh-Hans" and "手中的模型" in seen["title"]


def test_the_committed_page_is_what_its_sources_give(web, tmp_path):
    import subprocess

    from keras_vit.mobile_demo.site import PAGE, page_files

    copy = tmp_path / "mobile_demo" / "web"
    copy.parent.mkdir()
    shutil.copytree(web, copy, symlinks=True, ignore=shutil.ignore_patterns("node_modules"))
    (copy / "node_modules").symlink_to(web / "node_modules")
    subprocess.run(
        ["npm", "run", "build", "--silent"], cwd=copy, check=True, capture_output=True, timeout=240
    )
    built, committed = page_files(copy.parent / "page"), page_files(PAGE)
    assert set(built) == set(committed)
    for name, file in built.items():
        if not name.endswith(".gz"):  # which the Node version packs differently
            assert file.read_bytes() == committed[name].read_bytes(), f"{name}: run `make web` and commit it"

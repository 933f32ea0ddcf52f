"""tf.data service: a real process makes the batches, and they are those that are made without it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_vit import ViT
from keras_vit.data.pipeline import training_batches
from keras_vit.data.service import check_service, serve
from keras_vit.distributed.launching import free_ports
from keras_vit.errors import InputError
from keras_vit.training import load_data, pack, recipe, train

SIZE = (12, 16)


def start(*options):
    """(a process that runs `keras-vit serve-data`, what it says once it serves)."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-m", "keras_vit.cli", "serve-data", "--host", "127.0.0.1", *options]
    process = subprocess.Popen(command, env=quiet, stderr=subprocess.PIPE, text=True)
    return process, process.stderr.readline()


@pytest.fixture(scope="module")
def service():
    """The address of a data service with one worker."""
    (port,) = free_ports(1)
    process, said = start("--port", str(port))
    assert said == f"serving at 127.0.0.1:{port}; keras-vit train PACKED --data-service 127.0.0.1:{port}\n"
    yield f"127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def pictures(folder, kind, count=20, size=SIZE):
    """Smooth noise in three classes of different colours: 54 to train, 6 held out."""
    random = np.random.default_rng(0)
    for split, n in (("train", count - 2), ("test", 2)):
        for label in range(3):
            place = folder / split / "abc"[label]
            place.mkdir(parents=True)
            for i in range(n):
                coarse = random.integers(0, 128, (4, 5, 3), np.uint8)
                coarse[..., label] += 127
                image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
                image.save(place / f"{i}.{kind}")
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed set of PNG files of the size that the model takes."""
    folder = tmp_path_factory.mktemp("packed")
    pack(pictures(folder / "pictures", "png"), folder / "png", shards=3)
    return folder / "png"


def batches(data, augment="none", epochs=(0, 2), even=False, skipped=0, steps=None):
    chosen = recipe("thumbnails", image_size=SIZE, batch_size=20, augment=augment, seed=3)
    model = ViT("Nano/4", image_size=SIZE, num_classes=3)
    made = training_batches(data.train, model, chosen, *epochs, even, skipped)
    steps = (epochs[1] - epochs[0]) * 3 - skipped if steps is None else steps
    return list(made.take(steps).as_numpy_iterator())


@pytest.mark.parametrize(("augment", "options"), [("none", {}), ("strong", {"even": True, "skipped": 2})])
def test_one_worker_makes_the_batches_of_training_without_a_service(packed, service, augment, options):
    served = batches(load_data(packed, SIZE, service=service), augment, **options)
    usual = batches(load_data(packed, SIZE), augment, **options)
    assert len(served) == len(usual) > 3
    for one, other in zip(served, usual, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_jpegs_are_decoded_and_resized_as_pillow_does(tmp_path, service):
    pack(pictures(tmp_path / "pictures", "jpg", count=6, size=(40, 30)), tmp_path / "jpg", shards=1)
    served = batches(load_data(tmp_path / "jpg", SIZE, service=service), steps=1)
    usual = batches(load_data(tmp_path / "jpg", SIZE), steps=1)
    np.testing.assert_array_equal(served[0][1], usual[0][1])
    assert np.abs(served[0][0] - usual[0][0]).max() * 127.5 <= 2.001, "two of 255, from two roundings"


def test_two_workers_make_every_batch_once(packed):
    process, said = start()
    address = said.split()[2].rstrip(";")
    other, said = start("--join", address)
    try:
        assert said.startswith(f"working for {address}; ")
        served = batches(load_data(packed, SIZE, service=address), "light", epochs=(0, 10))
        # One worker may be ahead of the other, with steps that come after these.
        usual = batches(load_data(packed, SIZE), "light", epochs=(0, 40))
        sums = np.array([np.abs(images).sum() for images, _ in usual])
        found = [int(np.argmin(np.abs(sums - np.abs(images).sum()))) for images, _ in served]
        assert len(set(found)) == len(served) == 30
        for batch, i in zip(served, found, strict=True):
            np.testing.assert_allclose(batch[0], usual[i][0], atol=1e-5)
    finally:
        for running in (other, process):
            running.send_signal(signal.SIGTERM)
        assert [running.wait(30) for running in (other, process)] == [0, 0]


def test_training_ends_with_the_weights_of_training_without_a_service(packed, service, tmp_path):
    import keras

    chosen = recipe("thumbnails", image_size=SIZE, batch_size=20, epochs=2, seed=3, variant="Nano/4")
    train(load_data(packed, SIZE, service=service), tmp_path / "served", chosen)
    train(load_data(packed, SIZE), tmp_path / "usual", chosen)
    one, other = (
        keras.saving.load_model(tmp_path / name / "model.keras").get_weights() for name in ("served", "usual")
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_shard_that_changed_meanwhile(packed, service, tmp_path):
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in packed.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    data = load_data(folder, SIZE, service=service)
    for file in folder.glob("train-*"):
        file.write_bytes(bytes(file.stat().st_size))
    chosen = recipe("thumbnails", image_size=SIZE, epochs=1, variant="Nano/4")
    with pytest.raises(
        InputError, match=rf"data service at {service} failed .*the packed set at the same path"
    ):
        train(data, tmp_path / "run", chosen)


def test_what_a_service_cannot_read(packed, service, tmp_path):
    with pytest.raises(InputError, match=r"reads packed sets alone: make one by keras-vit pack digits"):
        load_data("digits", service=service)
    pack(pictures(tmp_path / "pictures", "webp", count=4), tmp_path / "webp", shards=2)
    with pytest.raises(
        InputError, match=r"JPEG and PNG alone, and '.*webp' \(6 in all\) is neither: pack .* --image"
    ):
        load_data(tmp_path / "webp", SIZE, service=service)


def test_addresses():
    (port,) = free_ports(1)
    for wrong in ("localhost", "localhost:0", "localhost:x", ":5050", "grpc://"):
        with pytest.raises(InputError, match=r"an address such as 127.0.0.1:5050, not "):
            check_service(wrong)
    with pytest.raises(
        InputError, match=rf"no data service answers at 127.0.0.1:{port} \(Connection refused\): "
    ):
        check_service(f"grpc://127.0.0.1:{port}", seconds=0)
    with pytest.raises(InputError, match=rf"no data service answers at 127.0.0.1:{port} "):
        serve(join=f"127.0.0.1:{port}", seconds=0)


def test_a_port_that_another_service_has(service):
    with pytest.raises(InputError, match=r"cannot listen at port \d+ \(Address already in use\)"):
        serve(int(service.rpartition(":")[2]))


def test_a_service_that_goes_away_ends_the_process_that_would_wait_for_ever():
    (port,) = free_ports(1)
    code = (
        "import time\n"
        "from keras_vit.data.service import ServedSplit, watched\n"
        f"with watched(ServedSplit('127.0.0.1:{port}', (8, 8), []), 'RUN', seconds=0):\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 2
    assert f"the data service at 127.0.0.1:{port} has gone away: RUN has what was saved" in done.stderr

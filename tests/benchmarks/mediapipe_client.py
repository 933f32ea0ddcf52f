"""Does MediaPipe Tasks' ImageClassifier open our files and name the class that our interpreter names?

    python tests/benchmarks/mediapipe_client.py                    # ViT-Ti/16, random weights, 100 pictures
    python tests/benchmarks/mediapipe_client.py runs/cifar10/export --pictures holiday/

2 to 3 minutes on two busy cores; the first time 20 s more, for an environment of its own
(.venv-peers/mediapipe, 540 MB, ignored by git): MediaPipe and tensorflow-model-optimization want
different versions of absl-py. A file without metadata gets it here. The pictures have exactly the
model's size, since MediaPipe stretches others.

Expected: "same class" N of N in every row, and a score difference of 0 for float32, int8 and
int8_static; with uint8 outputs 99% and a few steps of 1/256, since MediaPipe brings another XNNPACK.
The exit code is 1 if that is not so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from peers import PEERS, peer_python

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"int8_full": 0.99}  # of the pictures; 1.0 for the others


def random_pictures(count, size, seed):
    """Coloured noise from fine to coarse: white noise alone looks the same to every model."""
    from PIL import Image

    random = np.random.default_rng(seed)
    pictures = np.empty((count, *size, 3), np.uint8)
    for index in range(count):
        grid = 2 ** (1 + index % 6)
        coarse = random.integers(0, 256, (grid, grid, 3), dtype=np.uint8)
        pictures[index] = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    return pictures


def pictures_in(folder, size):
    from keras_vit.data.decoding import decode, is_image_name

    files = sorted(p for p in Path(folder).rglob("*") if is_image_name(str(p.relative_to(folder))))
    if not files:
        raise SystemExit(f"{folder} has no pictures.")
    return np.stack([decode(file, size) for file in files])


def export_random(variant, image_size, folder):
    """An export directory of a model with random weights, large enough that pictures differ in class."""
    import keras

    import keras_vit
    from keras_vit.export import export
    from keras_vit.export.profiles import PROFILES

    keras.utils.set_random_seed(0)
    model = keras_vit.ViT(variant, image_size=image_size, num_classes=1000)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(weight + random.normal(0, 0.05, weight.shape))
    labels = [f"class {index}" for index in range(1000)]
    calibration = random_pictures(24, model.image_size, seed=1)
    export(model, folder, PROFILES, calibration=calibration, labels=labels)


def with_metadata(directory, folder):
    """Copies of the .tflite files in `directory`, each with metadata, in `folder`."""
    from keras_vit.export.tflite.metadata import add_metadata, read_metadata

    labels = (directory / "labels.txt").read_text(encoding="utf-8").splitlines()
    files = []
    for source in sorted(directory.glob("*.tflite")):
        content = source.read_bytes()
        if read_metadata(content) is None:
            content = add_metadata(content, labels, f"{directory.name} {source.stem}", licence="Apache-2.0")
        files.append(folder / source.name)
        files[-1].write_bytes(content)
    if not files:
        raise SystemExit(f"{directory} has no .tflite file.")
    return files, labels


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, help="of an export; made when left out")
    parser.add_argument("--variant", default="Ti/16", help="of the model when no directory is given")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--count", type=int, default=100, help="of random pictures")
    parser.add_argument("--pictures", help="a folder of pictures, instead of random ones")
    options = parser.parse_args()
    start, python = time.time(), peer_python("mediapipe")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        directory = options.directory
        if directory is None:
            directory = scratch / "random-weights"
            export_random(options.variant, options.image_size, directory)
        (scratch / "files").mkdir()
        files, labels = with_metadata(directory, scratch / "files")

        from keras_vit.export.verification.runners import load_runner

        runners = {path: load_runner(path) for path in files}
        size = runners[files[0]].image_size
        pictures = (
            pictures_in(options.pictures, size)
            if options.pictures
            else random_pictures(options.count, size, seed=2)
        )
        np.save(scratch / "pictures.npy", pictures)
        worker = [python, ROOT / "tests/benchmarks/mediapipe_worker.py", scratch / "pictures.npy", scratch]
        result = subprocess.run([*worker, *files], capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"MediaPipe failed:\n{result.stderr[-2000:]}")

        package = PEERS["mediapipe"][0]
        print(f"{package}, {len(pictures)} pictures of {size[0]} x {size[1]}, {len(labels)} classes")
        print(
            f"{'file':<20}{'same class':>12}{'num_classes named':>15}{'max score difference':>22}   metadata"
        )
        for path in files:
            ours = runners[path].predict(pictures)
            theirs = np.load(scratch / f"{path.stem}.npz")
            metadata = json.loads((scratch / f"{path.stem}.json").read_text())
            assert theirs["names"].tolist() == labels, "MediaPipe has other labels"
            # With uint8 scores two classes may be equal: either of them is the right answer.
            same = ours[np.arange(len(ours)), theirs["top"]] == ours.max(axis=1)
            failed |= bool(same.mean() < LEAST.get(path.stem, 1.0))
            print(
                f"{path.name:<20}{f'{same.sum()} of {len(same)}':>12}{len(set(theirs['top'].tolist())):>15}"
                f"{np.abs(ours - theirs['scores']).max():>22.2g}   {metadata}"
            )
    print(f"{time.time() - start:.0f} s", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

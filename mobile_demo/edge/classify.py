"""Name the five likeliest classes of a picture: python classify.py EXPORT_DIR/int8_static.tflite picture.jpg

Needs `pip install ai-edge-litert pillow` and nothing else (NumPy comes with it): no TensorFlow, no keras_vit.
Turned upright, laid on white, scaled to cover, cropped in the centre: all else is inside the file.
"""

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def picture(path: str | Path, height: int, width: int) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        image = Image.fromarray(((np.asarray(image).astype(int).clip(0, 65535) + 128) // 257).astype("uint8"))
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)), np.float32)


def isolated(classify: Callable[[str, str], None], script: str) -> None:
    """Run classify(model, picture), with the words of the command line, in a process of its own.

    A damaged file can crash the runtime: then this process says so. What is not the file that was exported is
    refused before.
    """
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {script} EXPORT_DIR/int8_static.tflite picture.jpg")
    check(Path(sys.argv[1]))
    ways = multiprocessing.get_all_start_methods()
    process = multiprocessing.get_context("fork" if "fork" in ways else "spawn").Process(
        target=classify, args=sys.argv[1:]
    )
    process.start()
    process.join()
    if process.exitcode < 0:
        sys.exit(f"{sys.argv[1]} crashed its runtime (signal {-process.exitcode}): damaged, copy it again.")
    sys.exit(process.exitcode)


def check(model: Path) -> None:
    """Refuse a file that is not what the manifest.json beside it says, if there is one."""
    if not model.is_file():
        sys.exit(f"there is no file {model}.")
    if not model.with_name("manifest.json").is_file():
        return
    try:
        manifest = json.loads(model.with_name("manifest.json").read_bytes())
        sums = {entry["name"]: entry.get("sha256") for entry in manifest["artifacts"]}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        sys.exit(f"{model.with_name('manifest.json')} is damaged: copy it again.")
    if sums.get(model.name) not in (None, hashlib.sha256(model.read_bytes()).hexdigest()):
        sys.exit(f"{model} is not the file that manifest.json describes: copy it again.")


def classify(model: str, picture_file: str) -> None:
    from ai_edge_litert.interpreter import Interpreter  # here, since mediapipe_classify.py has no LiteRT

    model = Path(model)
    try:
        run = Interpreter(str(model)).get_signature_runner("serving_default")
    except (MemoryError, RuntimeError, ValueError) as error:
        sys.exit(f"{model} cannot be read by LiteRT ({error}): copy it again.")
    inputs, outputs = run.get_input_details(), run.get_output_details()
    answer = "probability" if "probability" in outputs else "logits"  # those of a model with activation=None
    if set(inputs) != {"image"}:
        sys.exit(f"{model} takes {', '.join(inputs)}: this script has a picture alone.")
    height, width, channels = inputs["image"]["shape"][1:]
    if channels not in (1, 3):
        sys.exit(f"{model} takes pictures of {channels} channels, which no picture file has.")
    pixels = picture(picture_file, height, width)
    if channels == 1:
        grey = Image.fromarray(pixels.astype(np.uint8)).convert("L")
        pixels = np.asarray(grey, np.float32)[..., None]
    if inputs["image"]["dtype"] == np.uint8:  # int8_full: real = scale * (stored - zero)
        scale, zero = inputs["image"]["quantization"]
        pixels = np.clip(np.round(pixels / scale + zero), 0, 255).astype(np.uint8)
    values = run(image=pixels[None])[answer][0]
    if outputs[answer]["dtype"] == np.uint8:
        scale, zero = outputs[answer]["quantization"]
        values = (values.astype(np.float32) - zero) * np.float32(scale)
    if not np.isfinite(values).all():
        sys.exit(f"{model} answers with NaN or infinity: export the model again.")
    try:
        labels = model.with_name("labels.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"labels.txt cannot be read ({error}): it belongs beside {model}.")
    if len(values) == 1 and len(labels) == 2 and answer == "probability":  # one class: that of label 1
        values = np.array([1 - values[0], values[0]])
    if len(labels) != len(values):
        sys.exit(f"labels.txt has {len(labels)} lines, {model} {len(values)} classes: they do not fit.")
    for index in np.argsort(-values)[:5]:
        print(f"{values[index]:9.4g}" if answer == "logits" else f"{values[index]:7.2%}", "", labels[index])


if __name__ == "__main__":
    isolated(classify, "classify.py")

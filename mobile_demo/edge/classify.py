"""Name the five likeliest classes of a picture: python classify.py EXPORT_DIR/int8_static.tflite picture.jpg

Needs `pip install ai-edge-litert pillow` and nothing else (NumPy comes with it): no TensorFlow, no keras_vit.
Turned upright, laid on white, scaled to cover, cropped in the centre: all else is inside the file.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def picture(path, height, width):
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


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: python classify.py EXPORT_DIR/int8_static.tflite picture.jpg")
    from ai_edge_litert.interpreter import Interpreter  # here, since mediapipe_classify.py has no LiteRT

    model = Path(sys.argv[1])
    run = Interpreter(str(model)).get_signature_runner("serving_default")
    inputs, outputs = run.get_input_details(), run.get_output_details()
    answer = "probability" if "probability" in outputs else "logits"  # those of a model with activation=None
    if set(inputs) != {"image"}:
        sys.exit(f"{model} takes {', '.join(inputs)}: this script has a picture alone.")
    height, width, channels = inputs["image"]["shape"][1:]
    if channels not in (1, 3):
        sys.exit(f"{model} takes pictures of {channels} channels, which no picture file has.")
    pixels = picture(sys.argv[2], height, width)
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
    labels = model.with_name("labels.txt").read_text(encoding="utf-8").splitlines()
    if len(values) == 1 and len(labels) == 2 and answer == "probability":  # one class: that of label 1
        values = np.array([1 - values[0], values[0]])
    if len(labels) != len(values):
        sys.exit(f"labels.txt has {len(labels)} lines, {model} {len(values)} classes: they do not fit.")
    for index in np.argsort(-values)[:5]:
        print(f"{values[index]:9.4g}" if answer == "logits" else f"{values[index]:7.2%}", "", labels[index])


if __name__ == "__main__":
    main()

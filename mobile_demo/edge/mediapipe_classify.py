"""The same with MediaPipe Tasks: python mediapipe_classify.py EXPORT_DIR/int8_static.tflite picture.jpg

Needs `pip install mediapipe pillow`. The labels are inside the file, in its metadata. MediaPipe would stretch
the picture to the model's shape, so it gets one that has it already, from classify.py.
"""

import json
import sys
from pathlib import Path

import mediapipe
import numpy as np
from classify import picture
from mediapipe.tasks.python import BaseOptions, vision


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python mediapipe_classify.py EXPORT_DIR/int8_static.tflite picture.jpg")
    model = Path(sys.argv[1])
    manifest = json.loads(model.with_name("manifest.json").read_text(encoding="utf-8"))
    if manifest["model"].get("channels", 3) != 3:
        sys.exit(f"MediaPipe classifies pictures in colours alone: ask {model} by classify.py.")
    pixels = picture(sys.argv[2], *manifest["image_size"]).astype(np.uint8)
    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=str(model)), max_results=5)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        answer = classifier.classify(mediapipe.Image(mediapipe.ImageFormat.SRGB, pixels))
    for category in answer.classifications[0].categories:
        print(f"{category.score:7.2%}  {category.category_name}")


if __name__ == "__main__":
    main()

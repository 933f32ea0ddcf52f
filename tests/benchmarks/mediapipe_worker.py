"""What MediaPipe Tasks answers; run by mediapipe_client.py, in an environment that has only MediaPipe.

    python mediapipe_worker.py IMAGES.npy OUT FILE.tflite ...     # uint8 [N, H, W, 3]

For each file OUT/NAME.npz gets `scores` [N, C], `top` [N] and `names` [C], and OUT/NAME.json
what MediaPipe's own copy of the metadata schema reads.
"""

import json
import re
import sys
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
from mediapipe.tasks.python import BaseOptions, vision


def classify(path, images):
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=str(path)), max_results=-1
    )
    answers = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image in images:
            picture = mediapipe.Image(
                image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
            )
            answers.append(classifier.classify(picture).classifications[0].categories)
    scores = np.zeros((len(images), len(answers[0])), np.float32)
    names = [""] * len(answers[0])
    for row, categories in enumerate(answers):
        for category in categories:
            scores[row, category.index] = category.score
            names[category.index] = category.category_name
    return {"scores": scores, "top": [categories[0].index for categories in answers], "names": names}


def read(path):
    content = path.read_bytes()
    # The identifier of the metadata's own flatbuffer, in a buffer that starts at a multiple of 16.
    place = next(m.start() - 4 for m in re.finditer(b"M001", content) if (m.start() - 4) % 16 == 0)
    root = schema.ModelMetadata.GetRootAs(content[place:], 0)
    image = root.SubgraphMetadata(0).InputTensorMetadata(0)
    union = image.ProcessUnits(0).Options()
    normalisation = schema.NormalizationOptions()
    normalisation.Init(union.Bytes, union.Pos)
    return {
        "name": root.Name().decode(),
        "license": (root.License() or b"").decode(),
        "mean": normalisation.Mean(0),
        "std": normalisation.Std(0),
    }


def main():
    images, out = np.load(sys.argv[1]), Path(sys.argv[2])
    for path in map(Path, sys.argv[3:]):
        np.savez(out / f"{path.stem}.npz", **classify(path, images))
        (out / f"{path.stem}.json").write_text(json.dumps(read(path)))


if __name__ == "__main__":
    main()

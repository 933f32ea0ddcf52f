"""One .tflite file, run for `TFLiteProcess` in a process of its own.

    python -m keras_vit.export.verification.tflite_worker JOB.json

The job says `path`, `threads`, and the files `inputs` (.npz, in the order of the model's) and `answers`
(.npy). A line of JSON says what the model is. Then every line {} on standard input is a question: it reads
`inputs`, writes `answers`, and prints {}. A line with `seconds` is answered with `times`. `error` is an
`InputError`; of anything else that went wrong the last line on stderr tells.
"""

import json
import os
import sys

import numpy as np

from keras_vit.errors import InputError
from keras_vit.export.verification.runners import TFLiteRunner

ROOM, TIMES = 2 << 30, 64  # bytes, and times the file's size: what a model may take


def main(job):
    limit_memory(job["path"])
    runner = TFLiteRunner(job["path"], job["threads"])
    say(
        inputs=runner.inputs,
        num_classes=runner.num_classes,
        output=runner.output,
        operators=runner.operators,
        delegated=runner.delegated,
    )
    for line in sys.stdin:
        options = json.loads(line)
        with np.load(job["inputs"]) as file:
            inputs = {name: file[f"arr_{i}"] for i, name in enumerate(runner.inputs)}
        if options:
            say(times=runner.time_one({name: x[0] for name, x in inputs.items()}, **options))
        else:
            np.save(job["answers"], runner.predict(inputs))
            say()


def limit_memory(path):
    """Let this process take no more than a sound model of that size needs: a damaged one may ask for all."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = ROOM + TIMES * os.path.getsize(path)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))


def say(**answer):
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    try:
        main(job)
    except InputError as error:
        say(error=str(error))

"""One .tflite file, run for `TFLiteProcess` in a process of its own.

    python -m keras_vit.export.tflite_worker JOB.json

The job says `path`, `threads`, and the files `inputs` (.npz, in the order of the model's) and `answers`
(.npy). A line of JSON says what the model is. Then every line {} on standard input is a question: it reads
`inputs`, writes `answers`, and prints {}. A line with `seconds` is answered with `times`. `error` is an
`InputError`; of anything else that went wrong the last line on stderr tells.
"""

import json
import sys

import numpy as np

from keras_vit.errors import InputError
from keras_vit.export.runners import TFLiteRunner


def main(job):
    runner = TFLiteRunner(job["path"], job["threads"])
    say(
        inputs=runner.inputs,
        classes=runner.classes,
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


def say(**answer):
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    try:
        main(job)
    except InputError as error:
        say(error=str(error))

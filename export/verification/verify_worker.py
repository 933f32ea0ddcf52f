"""One artifact, asked and timed in a process of its own; `verify` starts it.

    python -m keras_vit.export.verification.verify_worker JOB.json

A runtime that crashes takes this process with it, and not the report. The job says `path`, `inputs`
({name: .npy}), `result` (.npz), `threads` and `seconds`. The last line on stderr is what went wrong.
"""

import json
import sys

import numpy as np

from keras_vit.errors import InputError
from keras_vit.export.verification.runners import open_runner


def main(job):
    if not job["path"].endswith(".tflite"):
        limit_tensorflow(job["threads"])
    ask(job, lambda done, total: print("done", done, flush=True))


def ask(job, progress):
    """Do the job; `progress` is called with (examples done, examples in all)."""
    inputs = {name: np.load(file, mmap_mode="r") for name, file in job["inputs"].items()}
    runner = open_runner(job["path"], threads=job["threads"])
    answers = runner.predict(inputs, progress)
    times = runner.time_one({name: x[0] for name, x in inputs.items()}, seconds=job["seconds"])
    delegated = np.nan if runner.delegated is None else runner.delegated
    np.savez(
        job["result"],
        answers=answers,
        times=times,
        delegated=delegated,
        operators=json.dumps(runner.operators),
    )


def limit_tensorflow(threads):
    """Give TensorFlow the threads that the .tflite files get; it takes no order after its first operation."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    try:
        main(job)
    except InputError as error:
        sys.exit(f"{error}")  # its one line, without the traceback

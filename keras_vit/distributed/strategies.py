"""`strategy`: where to train: on one device, on several of one machine, or on several machines.

Several machines are several processes, one a machine, that run the same command. Each learns from its
environment who the others are: from TF_CONFIG (Kubeflow sets it in Kubernetes; the form is in
`tf.distribute.cluster_resolver.TFConfigClusterResolver`) or from Slurm's variables. They need one file
system: the first worker writes the RUN folder, and all go on from it.
"""

import json
import os
import socket
import time

import tensorflow as tf

from keras_vit.distributed import replicas
from keras_vit.distributed.addresses import bind, is_address, parts, why_silent
from keras_vit.errors import InputError, one_of

STRATEGIES = ("auto", "none", "mirrored", "multiworker")
SECONDS = 60  # to wait for the other workers


def strategy(name="auto", seconds=SECONDS):
    """The `tf.distribute.Strategy` to train under, or None for one device.

    Call it before anything else of TensorFlow. Any `keras.Model` that is made in its scope can `fit` under
    it, also where Keras 3 cannot by itself: see `keras_vit.distributed.replicas`. Nothing of Keras is changed
    outside of the strategy's `run`.

    Args:
        name: "none"; "mirrored" (all GPUs of this machine, or all logical CPU devices); "multiworker"; or
            "auto": multiworker when the environment says that there are several workers, mirrored when there
            are several GPUs, else none.
        seconds: how long to wait for the other workers.

    Raises:
        InputError: an unknown name, no workers in the environment, a TF_CONFIG that is none, workers that
            do not come.
    """
    one_of("strategy", name, STRATEGIES)
    if name == "auto":
        name = "multiworker" if _workers() > 1 else "mirrored" if len(_devices("GPU")) > 1 else "none"
    if name == "none":
        return None
    if name == "mirrored":
        devices = _devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) < 2:
            return None
        return replicas.MirroredStrategy([device.name for device in devices])
    if _workers() == 0:
        raise InputError(
            "there are no workers to train with: set TF_CONFIG in each of them, start them by Slurm, or try "
            "it here: keras-vit launch --workers 2 -- train ..."
        )
    resolver = _resolver()
    wait_for_workers(resolver.cluster_spec().job_tasks("worker"), resolver.task_id, seconds)
    return replicas.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def is_chief(strategy):
    """Whether this process writes what there is to write: always, but for workers after the first."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    return strategy.cluster_resolver.task_id in (0, None)


def check_batch_size(batch_size, strategy):
    """Raise an InputError when a batch cannot be divided into equal parts."""
    count = 1 if strategy is None else strategy.num_replicas_in_sync
    if batch_size % count:
        raise InputError(
            f"a batch of {batch_size} cannot be divided among {count} replicas: use --batch-size "
            f"{max(count, batch_size // count * count)} or {(batch_size // count + 1) * count}."
        )


def _devices(kind):
    return tf.config.list_physical_devices(kind) and tf.config.list_logical_devices(kind)


def _workers():
    """How many workers the environment speaks of; 0 when of none."""
    if os.environ.get("TF_CONFIG", "").strip():
        return len(_tf_config()["cluster"]["worker"])
    return int(os.environ.get("SLURM_NTASKS", 0)) if "SLURM_PROCID" in os.environ else 0


def _resolver():
    if os.environ.get("TF_CONFIG", "").strip():
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    return tf.distribute.cluster_resolver.SlurmClusterResolver()


def _tf_config():
    """TF_CONFIG as a dictionary, after a look at all that can be wrong with it."""
    text = os.environ["TF_CONFIG"]
    expected = (
        'expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, '
        "with another index in each worker"
    )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"TF_CONFIG is not valid JSON ({error}): {expected}.") from None
    cluster, task = (config.get(key) if isinstance(config, dict) else None for key in ("cluster", "task"))
    workers = cluster.get("worker") if isinstance(cluster, dict) else None
    if not isinstance(workers, list) or not workers or not all(is_address(place) for place in workers):
        raise InputError(f"TF_CONFIG has no list of workers' addresses, but {workers!r}: {expected}.")
    others = sorted(set(cluster) - {"worker"})
    if others:
        raise InputError(f"TF_CONFIG has tasks of another type, {', '.join(others)}: {expected}.")
    if not isinstance(task, dict) or task.get("type") != "worker" or type(task.get("index")) is not int:
        raise InputError(f"TF_CONFIG has the task {task!r}: {expected}.")
    if not 0 <= task["index"] < len(workers):
        raise InputError(f"TF_CONFIG has the worker {task['index']} of {len(workers)}: {expected}.")
    return config


def wait_for_workers(workers, index, seconds):
    """Wait until every worker has an open port; without TensorFlow, which would wait for an hour.

    Each listens at its own address meanwhile. Who has seen all of the others goes on: TensorFlow then listens
    there, and counts as well.

    Args:
        workers: list of "host:port".
        index: which of them this process is.
        seconds: to wait.

    Raises:
        InputError: its own port is taken; some do not answer in time, and which.
    """
    end, missing = time.monotonic() + seconds, [place for i, place in enumerate(workers) if i != index]
    with socket.socket() as listener:
        try:
            bind(listener, parts(workers[index])[1])
        except OSError as error:
            raise InputError(
                f"worker {index} cannot listen at {workers[index]} ({error.strerror}): is another process of "
                "an earlier run still there? Stop it, or use another port."
            ) from None
        listener.listen(len(workers))
        while missing := [place for place in missing if why_silent(place)]:
            if time.monotonic() > end:
                raise InputError(
                    f"after {seconds:g} s worker {index} cannot reach {', '.join(missing)}: start all "
                    "workers within that time, with addresses that each of them can reach."
                )
            time.sleep(0.2)

"""tf.data service: other processes or machines read, decode and augment the training pictures.

    keras-vit serve-data --port 5050                                  # there; more of them with --join
    keras-vit train flowers.packed --data-service HOST:5050 --out RUN

The set must be a packed one (`pack`) of JPEG or PNG files, at the same path for all. What travels to the
service is the pipeline, as a graph of TensorFlow's operators: it needs the same version of TensorFlow there.
The steps of a run are dealt out to the service's workers, each step once. With one worker the batches are
those of training without a service, in their order; with several, one that is ready early may come early.
What a worker had in hand when it was lost is left out. Whoever reaches its ports can let it run such a graph:
serve in a network that you trust.
"""

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_vit.distributed.addresses import bind, is_address, parts, why_silent
from keras_vit.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

SECONDS = 10  # to wait for the service at first
LOST = 60  # and when it was there before


@dataclasses.dataclass(frozen=True, eq=False)
class ServedSplit:
    """Pictures that a data service will read, instead of the arrays of a `Split`.

    Attributes:
        service: "HOST:PORT" of its dispatcher.
        image_size: (height, width) to which pictures are brought.
        records: their `packed.Record`s.
        channels: 3, or 1 for grey.
    """

    service: str
    image_size: tuple
    records: list
    channels: int = 3

    def __len__(self):
        return len(self.records)

    def gather(self, indices: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        """(float32 [n, H, W, C] in 0..255, labels int32 [n]) of `indices`, by TensorFlow's operators."""
        import tensorflow as tf

        from keras_vit.data.tf_decoding import picture, to_channels

        # Not resolved: a link may lead elsewhere on the machines of the service.
        paths = sorted({os.path.abspath(record.path) for record in self.records})
        number = {path: i for i, path in enumerate(paths)}
        sizes = tf.constant([os.path.getsize(path) for path in paths], tf.int64)
        places = [(number[os.path.abspath(r.path)], r.offset, r.length) for r in self.records]
        places, labels = tf.constant(places, tf.int64), tf.constant([r.item.label for r in self.records])

        def read(index):
            # TensorFlow's one way to read from the middle of a file: a header, a record, a footer.
            shard, offset, length = tf.unstack(places[index])
            path, footer = tf.gather(paths, shard), sizes[shard] - offset - length
            return tf.data.FixedLengthRecordDataset(path, length, header_bytes=offset, footer_bytes=footer)

        def decode(record):
            example = tf.io.parse_single_example(record, {"image": tf.io.FixedLenFeature([], tf.string)})
            return to_channels(picture(example["image"], self.image_size), self.channels)

        dataset = tf.data.Dataset.from_tensor_slices(indices).flat_map(read)
        dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        images = dataset.batch(tf.size(indices, tf.int64)).get_single_element()
        return images, tf.gather(labels, indices)

    def distribute(self, batches: "tf.data.Dataset") -> "tf.data.Dataset":
        """The same batches, made by the service. Each element of the source goes to one of its workers."""
        import tensorflow as tf

        service = tf.data.experimental.service
        mode = service.ShardingPolicy.DYNAMIC
        return batches.apply(service.distribute(mode, f"grpc://{self.service}"))


def check_service(address: object, seconds: float = SECONDS) -> str:
    """Raise an InputError when nothing answers at "HOST:PORT", where TensorFlow would wait. Returns it."""
    place = str(address).removeprefix("grpc://")
    if not is_address(place):
        raise InputError(f"a data service has an address such as 127.0.0.1:5050, not {address!r}.")
    end = time.monotonic() + seconds
    while why := why_silent(place):
        if time.monotonic() > end:
            raise InputError(
                f"no data service answers at {place} ({why}): start one there with keras-vit "
                f"serve-data --port {parts(place)[1]}, or leave out --data-service."
            )
        time.sleep(0.2)
    return place


@contextlib.contextmanager
def watched(split: object, folder: str | Path, seconds: float = LOST) -> Iterator[None]:
    """Say what it means when the service of a `ServedSplit` fails or goes away, while it is trained on.

    When it does not answer for so many seconds, this process ends: TensorFlow would wait for ever, where
    neither a signal nor an exception can reach it.

    Raises:
        InputError: the service cannot make a batch.
    """
    if not isinstance(split, ServedSplit):
        yield
        return
    import tensorflow as tf

    done = threading.Event()

    def watch():
        while not done.wait(5):
            try:
                check_service(split.service, seconds)
            except InputError:
                if done.is_set():
                    return
                print(
                    f"error: the data service at {split.service} has gone away: {folder} has what was saved "
                    "before. Start the service again, and the same command goes on.",
                    file=sys.stderr,
                    flush=True,
                )
                # The main thread waits in TensorFlow for the next batch, for ever: no exception reaches it.
                os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except tf.errors.OpError as error:
        why = error.message.splitlines()[0][:200]
        raise InputError(
            f"the data service at {split.service} failed ({why}): {folder} has what was saved before. Its "
            "workers need the packed set at the same path, and as it was when training began."
        ) from None
    finally:
        done.set()


def serve(
    port: int = 0, host: str | None = None, join: str | None = None, seconds: float = SECONDS
) -> tuple[str, list]:
    """Start a worker of a data service, and its dispatcher unless it joins another one.

    Args:
        port: where the dispatcher listens; of one that joins, the worker. 0 is any free one.
        host: the name or address by which others reach this machine; its name by default.
        join: "HOST:PORT" of the dispatcher to work for.
        seconds: to wait for that one.

    Returns:
        ("HOST:PORT" of the dispatcher, the servers: they serve as long as these objects live).
    """
    import tensorflow as tf

    host = host or _name()
    if port:
        _check_free(port)
    servers, service = [], tf.data.experimental.service
    if join is None:
        servers.append(service.DispatchServer(service.DispatcherConfig(port=port)))
        join, port = f"{host}:{servers[0].target.rpartition(':')[2]}", 0
    join = check_service(join, seconds)
    config = service.WorkerConfig(dispatcher_address=join, worker_address=f"{host}:%port%", port=port)
    return join, [*servers, service.WorkerServer(config)]


def _check_free(port):
    """TensorFlow would share a port that another server has, and the two would answer in turns."""
    with socket.socket() as listener:
        try:
            bind(listener, port)
        except OSError as error:
            raise InputError(
                f"cannot listen at port {port} ({error.strerror}): is a data service there already? Join it, "
                "or use another port."
            ) from None


def _name():
    """The name of this machine, if it leads here."""
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return "localhost"
    return socket.gethostname()

"""TFRecord shards of tf.train.Example, written and read without TensorFlow.

Several workers must find each other before TensorFlow starts, and data is loaded before that. Protocol
Buffers and the CRC-32C come from Google's libraries. The framing, some 40 lines, is here, as no library has
all of it:

- `tensorflow.core.example.example_pb2` imports the whole of TensorFlow; tensorflow-metadata does not have it.
- tensorboard's `RecordWriter` computes its checksums in Python (7 MB/s), and its reader gives no offsets,
  which `ServedSplit` and `open_packed` read by.
- tfrecord (PyPI) does not check the checksums.
- array_record and riegeli are other formats, which tf.data's operators do not read.

The tests read what is written here by TensorFlow, and the other way round.

A record is: its length (uint64), the masked CRC-32C of these 8 bytes (uint32), the data, its masked CRC-32C.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from keras_vit.data.decoding import MAX_FILE

# The parts of tensorflow/core/example/example.proto that are used.
_PROTO = """
    name: "example.proto" syntax: "proto3"
    message_type { name: "BytesList"
      field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
    }
    message_type { name: "Int64List"
      field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
    }
    message_type { name: "Feature"
      field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".BytesList" }
      field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Int64List" }
    }
    message_type { name: "Features"
      field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
              type_name: ".Features.FeatureEntry" }  # a map, in the form that Protocol Buffers give it
      nested_type { name: "FeatureEntry" options { map_entry: true }
        field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
        field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Feature" }
      }
    }
    message_type { name: "Example"
      field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Features" }
    }
"""


def _message(name):
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


Example = _message("Example")


class DamagedRecord(Exception):
    """A record that is not as it was written; the message says why."""


def to_example(values: Mapping[str, bytes | int]) -> bytes:
    """The bytes of an Example from {name: bytes or integer}."""
    example = Example()
    for name, value in values.items():
        feature = example.features.feature[name]
        (feature.bytes_list if isinstance(value, bytes) else feature.int64_list).value.append(value)
    return example.SerializeToString(deterministic=True)


def from_example(data: bytes) -> dict[str, bytes | int]:
    """{name: bytes or integer} from the bytes of an Example; of several values the first one.

    Features without a value are left out; what is no Example has none.
    """
    try:
        features = Example.FromString(data).features.feature
    except DecodeError:
        return {}
    lists = {
        name: [*feature.bytes_list.value, *feature.int64_list.value] for name, feature in features.items()
    }
    return {name: values[0] for name, values in lists.items() if values}


def write_record(file: BinaryIO, data: bytes) -> None:
    """Append one record to a binary file."""
    length = struct.pack("<Q", len(data))
    file.write(length + _checksum(length) + data + _checksum(data))


def read_records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (offset of the data, data) of each record of a binary file, checksums checked.

    Raises:
        DamagedRecord: a wrong checksum, or the end of the file within a record.
    """
    end = os.fstat(file.fileno()).st_size
    while header := file.read(12):
        length = header[:8]
        if len(header) < 12:
            raise DamagedRecord("the file is cut short")
        if _checksum(length) != header[8:]:
            raise DamagedRecord("the checksum of its length is wrong")
        (length,) = struct.unpack("<Q", length)
        offset = file.tell()
        if offset + length + 4 > end:
            raise DamagedRecord("the file is cut short")
        if length > MAX_FILE + 2**16:  # a picture, its name and its label
            raise DamagedRecord(f"it is larger than {MAX_FILE >> 20} MiB")
        data = file.read(length)
        if _checksum(data) != file.read(4):
            raise DamagedRecord("its checksum is wrong")
        yield offset, data


def _checksum(data):
    """The CRC-32C, turned and shifted, as the checksum of data that holds checksums is weak."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

"""Ways to damage bytes and JSON, all of them chosen by a `numpy.random.Generator` that is given."""

import copy
import json
import struct
import zlib

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000)
WIDE = (*NUMBERS, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFF00)
MOST_BYTES = 300_000  # what one input grows to


def chance(random, share):
    return random.random() < share


def pick(random, choices):
    choices = list(choices)
    return choices[int(random.integers(len(choices)))]


def place(random, length, head=64):
    """An index; every second one in the first bytes, where headers lie."""
    if length < 2:
        return 0
    return int(random.integers(min(length, head) if chance(random, 0.5) else length))


def damaged(data, random, others=(), most=3, limit=MOST_BYTES):
    """`data` (bytes) after one to `most` changes.

    Args:
        others: files of the same kind, pieces of which may get in.
        limit: to how many bytes it may grow.
    """
    data = bytearray(data)
    for _ in range(int(random.integers(1, most + 1))):
        data = bytearray(pick(random, CHANGES)(data, random, others))[:limit]
    return bytes(data)


def _flip(data, random, others):
    for _ in range(int(random.integers(1, 9)) if data else 0):
        data[place(random, len(data))] ^= 1 << int(random.integers(8))
    return data


def _number(data, random, others):
    code = pick(random, ("B", "<H", ">H", "<I", ">I"))
    value = int(pick(random, (*WIDE, len(data), int(random.integers(2**32)))))
    size = struct.calcsize(code)
    at = place(random, len(data))
    data[at : at + size] = struct.pack(code, value % 2 ** (8 * size))
    return data


def _cut(data, random, others):
    return data[: place(random, len(data), len(data))]


def _without(data, random, others):
    at = place(random, len(data))
    del data[at : at + int(random.integers(1, 65))]
    return data


def _twice(data, random, others):
    at, length = place(random, len(data)), int(random.integers(1, 257))
    return data[: at + length] + data[at : at + length] + data[at + length :]


def _more(data, random, others):
    at = place(random, len(data))
    return data[:at] + random.bytes(int(random.integers(1, 33))) + data[at:]


def _zeros(data, random, others):
    at = place(random, len(data))
    length = min(int(random.integers(1, 65)), len(data) - at)
    data[at : at + length] = bytes([pick(random, (0, 255))]) * length
    return data


def _splice(data, random, others):
    other = pick(random, others) if others else bytes(data)
    return data[: place(random, len(data), len(data))] + other[place(random, len(other), len(other)) :]


def _graft(data, random, others):
    other = pick(random, others) if others else bytes(data)
    start, length = place(random, len(other)), int(random.integers(1, 257))
    at, piece = place(random, len(data)), other[start : start + length]
    data[at : at + len(piece)] = piece
    return data


CHANGES = (_flip, _flip, _number, _number, _cut, _without, _twice, _more, _zeros, _splice, _graft)


def png_chunks(data):
    """[[type, body]] of a sound PNG."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append([kind, bytearray(data[at + 8 : at + 8 + length])])
        at += 12 + length
    return chunks


def png_of(chunks):
    """A PNG with a checksum that fits in every chunk."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        body = bytes(body)
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


KINDS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"gAMA", b"iCCP", b"sRGB", b"cHRM", b"sBIT")
KINDS += (
    b"bKGD",
    b"pHYs",
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"tIME",
    b"hIST",
    b"abCD",
    b"ABCD",
)


def damaged_png(data, random, others):
    """One or two changes of a PNG's parts, its checksums right: no reader stops at them."""
    chunks = png_chunks(data)
    for _ in range(int(random.integers(1, 3))):
        i = int(random.integers(len(chunks))) if chunks else 0
        way = int(random.integers(8))
        if not chunks:
            break
        if way == 0:  # a field of the header
            at = int(random.integers(13))
            if chunks[0][1][at : at + 1]:
                chunks[0][1][at] = pick(random, (0, 1, 2, 3, 4, 5, 6, 8, 16, int(random.integers(256))))
        elif way == 1:
            chunks[i][1] = bytearray(damaged(chunks[i][1], random, others, most=1))
        elif way == 2:
            del chunks[i]
        elif way == 3:
            chunks.insert(int(random.integers(len(chunks) + 1)), [chunks[i][0], bytearray(chunks[i][1])])
        elif way == 4:
            body = random.bytes(int(random.integers(0, 40)))
            chunks.insert(int(random.integers(len(chunks) + 1)), [pick(random, KINDS), bytearray(body)])
        elif way == 5:  # what is packed: filters and pixels
            packed = [chunk for chunk in chunks if chunk[0] == b"IDAT"]
            try:
                pixels = zlib.decompress(b"".join(bytes(body) for _, body in packed))
            except zlib.error:
                continue
            if packed:
                packed[0][1] = bytearray(zlib.compress(damaged(pixels, random, (), most=1)))
                chunks = [chunk for chunk in chunks if chunk[0] != b"IDAT" or chunk is packed[0]]
        elif way == 6:
            j = int(random.integers(len(chunks)))
            chunks[i], chunks[j] = chunks[j], chunks[i]
        else:  # in several pieces
            body, cut = chunks[i][1], int(random.integers(len(chunks[i][1]) + 1))
            chunks[i : i + 1] = [[chunks[i][0], body[:cut]], [chunks[i][0], body[cut:]]]
    return png_of(chunks)


def jpeg_segments(data):
    """([marker and body of each segment up to the scan], the rest)."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        segments.append([data[at + 1], bytearray(data[at + 4 : at + 2 + length])])
        at += 2 + length
    return segments, data[at:]


def jpeg_of(segments, rest):
    parts = [b"\xff\xd8"]
    for marker, body in segments:
        body = bytes(body)[:65533]
        parts += [bytes([0xFF, marker]), struct.pack(">H", len(body) + 2), body]
    return b"".join(parts) + bytes(rest)


def damaged_jpeg(data, random, others):
    """One or two changes of a JPEG's segments, their lengths right."""
    segments, rest = jpeg_segments(data)
    for _ in range(int(random.integers(1, 3))):
        if not segments:
            break
        i, way = int(random.integers(len(segments))), int(random.integers(7))
        if way == 0:
            segments[i][1] = bytearray(damaged(segments[i][1], random, others, most=1))
        elif way == 1:
            del segments[i]
        elif way == 2:
            segments.insert(int(random.integers(len(segments) + 1)), copy.deepcopy(segments[i]))
        elif way == 3:
            j = int(random.integers(len(segments)))
            segments[i], segments[j] = segments[j], segments[i]
        elif way == 4:
            marker = pick(
                random, (0xE0, 0xE1, 0xE2, 0xEE, 0xED, 0xFE, 0xDD, 0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xCC)
            )
            body = pick(random, (exif(random), b"Adobe\0d\0\0\0\0" + random.bytes(2), random.bytes(8)))
            segments.insert(int(random.integers(len(segments) + 1)), [marker, bytearray(body)])
        elif way == 5:
            rest = damaged(rest, random, (), most=1)
        else:  # a field of the frame: depth, height, width, components, sampling
            frames = [body for marker, body in segments if 0xC0 <= marker <= 0xC2]
            if frames and frames[0]:
                frame = pick(random, frames)
                frame[int(random.integers(len(frame)))] = pick(
                    random, (0, 1, 2, 3, 4, 8, 0x11, 0x21, 0x22, 255)
                )
    return jpeg_of(segments, rest)


def exif(random):
    """An APP1 segment's body with an orientation, one in three not quite as it should be."""
    little = chance(random, 0.5)
    order, mark = ("<", b"II*\0") if little else (">", b"MM\0*")
    entries = [(0x010E, 2, 4, b"abc\0"), (0x0112, pick(random, (3, 3, 3, 4, 1)), 1, None)]
    if chance(random, 0.5):
        entries.reverse()
    body = mark + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in entries:
        number = int(random.integers(0, 11))
        value = value or (
            struct.pack(f"{order}HH", number, 0) if kind == 3 else struct.pack(f"{order}I", number)
        )
        body += struct.pack(f"{order}HHI", tag, kind, count) + value
    body = b"Exif\0\0" + body + bytes(4)
    return damaged(body, random, (), most=1) if chance(random, 0.33) else body


HOSTILE = (
    None, True, False, 0, 1, -1, 3, 1.5, -0.0, 2**31, 2**63, 10**40, 1e308, float("nan"), float("inf"), "",
    " ", "0", "1", "a", "é\u2028\n", "\0", "../..", "/", "/dev/zero", "x" * 5000, "cls", "mean", "float32",
    [], [0], [None], [[]], [1, 2], [8, 8], [10**9, 10**9], ["a"], ["a", "a"], {}, {"a": 1}, {"name": "a"},
    {"": None},
)  # fmt: skip


def places(tree, path=()):
    """The path of each part of a JSON tree, the root first."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def damaged_tree(tree, random, most=2):
    """A JSON tree after one to `most` changes of its values, keys and shape."""
    box = {"": copy.deepcopy(tree)}
    for _ in range(int(random.integers(1, most + 1))):
        found = [path for path in places(box) if path]
        path = pick(random, found)
        *above, key = path
        parent = box
        for step in above:
            parent = parent[step]
        value, way = parent[key], int(random.integers(9))
        if way <= 3:
            parent[key] = copy.deepcopy(pick(random, HOSTILE))
        elif way == 4 and len(path) > 1:
            del parent[key]
        elif way == 5 and isinstance(parent, dict) and len(path) > 1:
            parent[pick(random, (f"{key}x", key.upper(), "", "name", "x" * 300))] = parent.pop(key)
        elif way == 6:
            parent[key] = pick(random, ([value], {"a": value}, str(value), [value] * 3))
        elif way == 7:
            other = box
            for step in pick(random, found):
                other = other[step] if not isinstance(other, dict) or step in other else other
            parent[key] = copy.deepcopy(other) if len(json.dumps(other)) < 20_000 else 0
        elif isinstance(value, list) and value:
            parent[key] = pick(random, (value[::-1], value[:-1], value + value[:1], value * 50))
        elif isinstance(value, int | float):
            parent[key] = pick(random, (-value, value + 1, value * 1000, str(value), float(value), value / 3))
        elif isinstance(value, str):
            parent[key] = pick(
                random, (value[:-1], value + "x", value.upper(), [value], value + "\n", f"../{value}")
            )
    return box[""]


def damaged_json(text, random):
    """The bytes of a JSON file: mostly valid JSON of another content, at times no JSON."""
    data = text if isinstance(text, bytes) else text.encode()
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):  # it was damaged before
        return damaged(data, random)
    if chance(random, 0.8):
        made = json.dumps(damaged_tree(tree, random), ensure_ascii=chance(random, 0.5))
        data = made.encode("utf-8", errors="surrogatepass")
        way = int(random.integers(20))
        if way == 0:
            data = b"\xef\xbb\xbf" + data
        elif way == 1:
            data = data.decode("utf-8", "replace").encode("utf-16")
        elif way == 2:
            data = b"[" * 100_000 + data
        return data
    return damaged(data, random)

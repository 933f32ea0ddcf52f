"""Damaged checkpoints: .safetensors, .npz, and the config.json beside them."""

import io
import json
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np

from fuzz.archives import Archives
from fuzz.harness import Difference, write
from fuzz.mutate import chance, damaged, damaged_json, damaged_tree, pick
from fuzz.tables import array
from keras_vit.errors import InputError
from keras_vit.weights.read import read_checkpoint

FIXTURES = Path(__file__).parents[1] / "weights" / "fixtures"
NAMES = ("model.safetensors", "vit.npz", "config.json", "preprocessor_config.json")
TYPES = ("F32", "F16", "BF16", "F64", "I32", "I64", "U8", "BOOL", "F8_E4M3", "F4", "f32", "", "C64")


class Checkpoints:
    refusals = (InputError,)

    def __init__(self, folder):
        self.folder = folder
        self._sound = [
            {name: (fixture / name).read_bytes() for name in NAMES if (fixture / name).is_file()}
            for fixture in sorted(FIXTURES.iterdir())
            if fixture.is_dir()
        ]
        self._archives = Archives(folder)

    def make(self, random):
        files = dict(pick(random, self._sound))
        for _ in range(int(random.integers(1, 3))):
            name = pick(random, files)
            if name.endswith(".json"):
                files[name] = damaged_json(files[name], random)
            elif name.endswith(".npz"):
                files[name] = self._npz(files[name], random)
            else:
                files[name] = self._safetensors(files[name], random)
        if chance(random, 0.03):
            del files[pick(random, files)]
        return files

    def _safetensors(self, data, random):
        if chance(random, 0.25):
            return damaged(data, random, [next(iter(f.values())) for f in self._sound[:2]])
        length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
        try:
            header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
        except ValueError:  # it was damaged before
            return damaged(data, random)
        if not isinstance(header, dict) or not header:
            return damaged(data, random)
        way, name = int(random.integers(6)), pick(random, header)
        entry = header[name] if isinstance(header[name], dict) else {}
        if way == 0:
            header = damaged_tree(header, random)
        elif way == 1 and "dtype" in entry:
            entry["dtype"] = pick(random, TYPES)
        elif way == 2 and entry.get("data_offsets"):
            i = int(random.integers(2))
            entry["data_offsets"][i] = pick(random, (-4, 0, 2**40, len(body), entry["data_offsets"][i] + 4))
        elif way == 3 and "shape" in entry:
            shape = entry["shape"]
            entry["shape"] = pick(random, (shape[::-1], [*shape, 1], [], [2**31, 2**33], [0], [-1, -1]))
        elif way == 4 and len(body) >= 4:  # numbers that are none
            at = int(random.integers(len(body) // 4)) * 4
            body[at : at + 4] = np.array(pick(random, (np.nan, np.inf, -np.inf, 3e38)), "<f4").tobytes()
        elif name != "__metadata__":
            header[pick(random, (f"model.{name}", f"module.{name}", f"{name}x", "", "x" * 300))] = header.pop(
                name
            )
        text = json.dumps(header).encode()
        length = (
            len(text) if chance(random, 0.95) else int(pick(random, (0, 2**63, len(text) + 1, len(data))))
        )
        return struct.pack("<Q", length) + text + bytes(body)

    def _npz(self, data, random):
        way = random.random()
        if way < 0.2:
            return damaged(data, random)
        if way < 0.5:
            return self._archives._edited(data, random)
        file = io.BytesIO()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(file, "w") as out:
                members = {name: archive.read(name) for name in archive.namelist()}
                name = pick(random, members)
                change = int(random.integers(4))
                if change == 0:
                    members[name] = array(random)
                elif change == 1:
                    members[name] = damaged(members[name], random)
                elif change == 2:
                    del members[name]
                else:
                    members[pick(random, (f"{name}x", f"model/{name}", "../x.npy", "x.npy"))] = members.pop(
                        name
                    )
                for name, content in members.items():
                    out.writestr(
                        zipfile.ZipInfo(name),
                        content,
                        pick(random, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)),
                    )
        except Exception:  # it was damaged before
            return damaged(data, random)
        return file.getvalue()

    def check(self, files):
        shutil.rmtree(self.folder, ignore_errors=True)
        write(files or {"none": b""}, self.folder)
        path = self.folder / "vit.npz"
        checkpoint = read_checkpoint(path if path.is_file() else self.folder)
        for name, tensor in checkpoint.tensors.items():
            if not np.isfinite(np.asarray(tensor)).all():
                raise Difference(f"what is no number was taken: {name}")
        return "accepted"

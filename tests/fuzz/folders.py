"""Damaged JSON files of RUN and export folders, read by the commands that read them.

What takes minutes in a command is left out: training, the converter, the runtimes. All that reads the files
and works with what they say is the command's own.
"""

import contextlib
import hashlib
import io
import json
import shutil
import types
from unittest import mock

import numpy as np
import typer

from fuzz.harness import write
from fuzz.mutate import chance, damaged_json, pick
from keras_vit.errors import InputError
from keras_vit.mobile_demo import site

HISTORY = [{"epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}]
COMPARED = {"float": 0.5, "post_training": 0.4, "trained": 0.5, "kept": "trained"}


def plain(modality):
    """As a manifest notes it."""
    config = {key: value for key, value in modality["config"].items() if key != "dtype"}
    return {key: modality[key] for key in ("module", "class_name", "registered_name")} | {"config": config}


def packed(value):
    return json.dumps(value).encode()


class Folders:
    refusals = (InputError,)

    def __init__(self, folder):
        import keras

        from keras_vit import cli, modalities
        from keras_vit.data import image_data
        from keras_vit.export import directory, ownership
        from keras_vit.export.quantization import finetune
        from keras_vit.export.verification import manifest as manifests
        from keras_vit.export.verification import raw_inputs
        from keras_vit.export.verification import verify as verification
        from keras_vit.training import callbacks, runs

        self._export = types.SimpleNamespace(ownership=ownership, manifest=manifests, raw_inputs=raw_inputs)

        self._runs, self._callbacks = runs, callbacks
        self._line = typer.main.get_command(cli.app)
        self.run, self.dist, self.out = folder / "run", folder / "dist", folder / "out"
        run, manifest = (
            site.CIFAR10.parent / "run",
            json.loads((site.CIFAR10 / "manifest.json").read_text()),
        )
        parts = {
            "image": modalities.Image(8, 4, name="a"),
            "text": modalities.Text(["a", "b"], length=3, name="b"),
        }
        senses = {
            name: value for name, value in manifest.items() if name not in ("image_size", "preprocessing")
        }
        senses["modalities"] = json.loads(
            json.dumps(
                [[name, plain(keras.saving.serialize_keras_object(part))] for name, part in parts.items()]
            )
        )
        senses["inputs"] = {
            name: {**part.signature(), "shape": list(part.signature()["shape"])}
            for name, part in parts.items()
        }
        names = [entry["name"] for key in ("sources", "artifacts") for entry in manifest[key]]
        self._beside = {f"dist/{name}": name.encode() for name in names}
        self._beside |= {"run/model.keras": b"a", "run/quantized/int8/model.keras": b"b"}
        for key in ("sources", "artifacts"):
            for entry in manifest[key]:
                content = entry["name"].encode()
                entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        self._config = json.loads((run / "config.json").read_text())
        self._sound = {
            "run/config.json": packed(self._config),
            "run/history.json": packed(HISTORY),
            "run/quantized/int8/config.json": packed({"recipe": self._config["recipe"], "model": "a" * 64}),
            "run/quantized/int8/comparison.json": packed(COMPARED),
            "run/quantized/int8/history.json": packed(HISTORY),
            "dist/manifest.json": packed(manifest),
            "senses/manifest.json": packed(senses),
        }
        self.folder, self._inputs = folder, senses["inputs"]
        self._beside["senses/float32.tflite"] = b"c"
        images, labels = np.zeros((20, 32, 32, 3), "uint8"), np.arange(20, dtype="int32") % 10
        split = image_data.Split(images, labels, [str(i) for i in range(20)])
        known = self._config["data"]["fingerprint"]
        loaded = image_data.ImageData(split, split, self._config["labels"], "data", known, [])
        model = types.SimpleNamespace(
            save=lambda path: path.write_bytes(b"d"),
            num_classes=len(self._config["labels"]),
            activation="softmax",
        )
        answers = {"probabilities": np.full((20, 10), 0.1, "float32"), "times": np.ones(20), "delegated": 1.0}
        self._without = [
            mock.patch("keras_vit.commands.common.load_images", lambda *_, **__: loaded),
            mock.patch("keras_vit.commands.evaluate.load_images", lambda *_, **__: loaded),
            mock.patch.object(finetune, "load_model", lambda run: model),
            mock.patch.object(finetune, "load_trained", lambda run: {"int8": model}),
            mock.patch.object(finetune, "post_training", lambda *_: model),
            mock.patch.object(finetune, "top1", lambda *_: 0.5),
            mock.patch.object(finetune, "fit", self._fit),
            mock.patch.object(finetune, "draw_curves", lambda *_: None),
            mock.patch.object(directory, "export", lambda *_, **__: None),
            mock.patch.object(verification, "_run", lambda *_, **__: {**answers, "operators": "{}"}),
            mock.patch("keras_vit.export.verification.report.pictures_of", lambda *_: None),
            mock.patch("keras_vit.export.verification.report.write_report", lambda *_, **__: None),
        ]

    def _fit(self, model, data, folder, recipe, console, name, keep, loss=None):
        progress = self._callbacks.RunCheckpoint.__new__(
            self._callbacks.RunCheckpoint
        )  # one that saves nothing
        progress.folder, progress.history, progress.keep, progress.patience = folder, [], keep, 0
        progress.restore_history()
        return progress.history or HISTORY

    def make(self, random):
        files, kind = dict(self._sound), pick(random, ("run/", "dist/", "dist/", "senses/"))
        chosen = [name for name in files if name.startswith(kind)]
        for _ in range(1 if chance(random, 0.8) else 2):
            name = pick(random, chosen[:1] if chance(random, 0.5) else chosen)
            files[name] = damaged_json(files[name], random)
        return files

    def check(self, files):
        shutil.rmtree(self.folder, ignore_errors=True)
        write({**self._beside, **files}, self.folder)
        (changed,) = {name.partition("/")[0] for name in files if files[name] != self._sound.get(name)} or {
            "run"
        }
        refused = None
        for way in getattr(self, f"_ways_with_{changed}")():
            try:
                with contextlib.ExitStack() as stack:
                    for patch in self._without:
                        stack.enter_context(patch)
                    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
                    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                    way()
            except InputError as error:
                refused = error
        if refused:
            raise refused
        return "accepted"

    def _ways_with_run(self):
        yield lambda: self._command("export", self.run, "--out", self.out, "--profiles", "float32,int8")
        yield lambda: self._runs.open_run(self.run, self._config)
        yield lambda: self._fit(None, None, self.run, None, None, None, "last")
        yield lambda: self._command("quantize", self.run, "--profile", "int8", "--data", self.folder)

    def _ways_with_dist(self):
        yield lambda: self._command("evaluate", self.dist, "data")
        yield lambda: site.check_export(self.dist)
        yield lambda: self._export.ownership.check_ours(self.dist)
        yield lambda: self._export.manifest.entries(self._export.manifest.read_manifest(self.dist))

    def _ways_with_senses(self):
        inputs = {name: (tuple(entry["shape"]), entry["dtype"]) for name, entry in self._inputs.items()}
        runner = types.SimpleNamespace(path=self.folder / "senses" / "float32.tflite", inputs=inputs)
        yield lambda: self._export.raw_inputs.raw_inputs(runner, {"text": "a b"})
        yield lambda: self._export.manifest.entries(self._export.manifest.read_manifest(runner.path.parent))
        yield lambda: site.check_export(runner.path.parent)

    def _command(self, *words):
        """As the command line does it, but that an exception comes out."""
        self._line.main([str(word) for word in words], standalone_mode=False)

"""The command line, `keras-vit`. Importing this file imports neither Keras nor TensorFlow."""

import contextlib
import errno
import functools
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import typer

from keras_vit.config import PRESETS, VARIANTS
from keras_vit.errors import InputError, Interrupted, Notice, one_of
from keras_vit.scenarios import SCENARIOS

app = typer.Typer(
    name="keras-vit",
    help="Vision Transformers in Keras 3: train, quantize, export, and prove that all copies agree.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    str,
    typer.Argument(
        help="A folder or .zip of class folders; a folder with train.csv and test.csv for several "
        "modalities; 'digits', 'cifar10' or a scenario."
    ),
]
Run = Annotated[Path, typer.Argument(help="A folder made by `keras-vit train`.")]
SkipBad = Annotated[bool, typer.Option(help="Leave out pictures that cannot be read, and count them.")]


@app.command("import")
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="An original .npz, a timm .safetensors or a Hugging Face folder.")
    ],
    out: Annotated[Path, typer.Option(help="The RUN folder; appears whole or not at all.")],
    classes: Annotated[int | None, typer.Option(help="A fresh head for so many classes.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file, one class name in each line.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Resize the positions, e.g. 384 or 64x96.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads, for a file that does not say.")] = None,
):
    """Turn a published ViT or DeiT checkpoint into a RUN, to fine-tune, quantize and export."""
    size = _image_size(image_size)
    _import_tensorflow()
    from keras_vit.training.imports import import_run

    with _without_chatter():
        model, kind = import_run(
            checkpoint, out, classes=classes, labels=labels, image_size=size, heads=heads
        )
    height, width = model.image_size
    _say(
        f"{out}: {kind}, {model.count_params():,} parameters, width {model.config.width}, "
        f"{model.config.depth} blocks, patch {'x'.join(map(str, model.config.patch_size))}, "
        f"images {height}x{width}, {model.classes} classes"
    )


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="The RUN folder; the same command continues an interrupted run.")],
    start: Annotated[
        Path | None,
        typer.Option(
            help="Fine-tune this RUN, model.keras or checkpoint; a head that does not fit is fresh."
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help=f"Model: {', '.join((*VARIANTS, *PRESETS))} with a patch size, e.g. Ti/16."),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Pixels, e.g. 224 or 64x96 (height x width). Default: suits the data.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="thumbnails, small or standard. Default: by image size.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="cls or mean.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images for each step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Length of the warm-up.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of the label given to all classes.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout rate in the model.")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor on the learning rate from each block to the one before.")
    ] = None,
    freeze: Annotated[
        int | None, typer.Option(help="Keep the patches and that many first blocks as they are.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="none, affine (no mirroring) or light (crop, mirror).")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or mixed_bfloat16.")] = None,
    early_stop: Annotated[
        int | None,
        typer.Option(help="Stop after N epochs without a better held-out accuracy; keep the best."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation, dropout.")] = None,
    fusion: Annotated[
        str | None, typer.Option(help="Several modalities: single_stream or bottleneck.")
    ] = None,
    modality_dropout: Annotated[
        float | None, typer.Option(help="Several modalities: how often one is left out in training.")
    ] = None,
    sentence: Annotated[
        int | None, typer.Option(help="Make a visual sentence of so many tokens of each text.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="auto, none, mirrored (GPUs of this machine) or multiworker.")
    ] = "auto",
    skip_bad: SkipBad = False,
):
    """Train a Vision Transformer on your pictures, or on several modalities."""
    size = _image_size(image_size)
    if _is_multimodal(data):
        _train_multimodal(
            data,
            out,
            strategy,
            {
                "--start": start,
                "--recipe": recipe,
                "--pooling": pooling,
                "--layer-decay": layer_decay,
                "--freeze": freeze,
                "--augment": augment,
            },
            {"image_size": size, "variant": variant, "sentence": sentence},
            {"fusion": fusion, "modality_dropout": modality_dropout},
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_epochs=warmup_epochs,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            dropout=dropout,
            precision=precision,
            early_stop=early_stop,
            seed=seed,
        )
        return
    if any(value is not None for value in (fusion, modality_dropout, sentence)):
        raise InputError(
            "--fusion, --modality-dropout and --sentence are for several modalities, and "
            f"{data} has pictures alone: see the README on a folder with train.csv and test.csv."
        )
    devices, started = None, None
    if start is not None:
        devices = _devices(strategy)  # before the model: workers must meet before TensorFlow does anything
        from keras_vit.training.imports import load_start, start_options

        with _without_chatter():
            started = load_start(start)
        size = size or started.image_size
        variant, pooling = start_options(started, variant, pooling)
    from keras_vit.training.data import suggest_image_size

    size = size or (suggest_image_size(data),) * 2
    from keras_vit.training import recipes

    chosen = recipes.recipe(
        recipe,
        image_size=size,
        variant=variant,
        pooling=pooling,
        layer_decay=layer_decay,
        freeze=freeze,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        dropout=dropout,
        augment=augment,
        precision=precision,
        early_stop=early_stop,
        seed=seed,
    )
    loaded = _load(data, size, skip_bad)
    if started is None:
        devices = _devices(strategy)
    from keras_vit.training.trainer import train

    history = train(loaded, out, chosen, _console(), start=started, strategy=devices)
    _say(f"{out}: held-out top-1 {history[-1]['val_accuracy']:.4f} after {len(history)} epochs")


@app.command()
def launch(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="What each of them runs: train ...")
    ],
    workers: Annotated[int, typer.Option(min=1, help="How many processes.")] = 2,
):
    """Train in several worker processes on this machine, to try out what many machines will do."""
    from keras_vit.training.launching import launch

    sys.exit(launch(command, workers))


@app.command()
def quantize(
    run: Run,
    profile: Annotated[str, typer.Option(help="int8 or int8_static.")],
    data: Annotated[str | None, typer.Option(help="The run's data, if it has moved.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: a tenth of the run's, 3 to 10.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: a tenth of the run's.")] = None,
    distill: Annotated[
        float, typer.Option(help="Weight of a loss that pulls the answers to the float model's; 0 is off.")
    ] = 0.0,
    skip_bad: SkipBad = False,
):
    """Fine-tune a run under fake quantization, into RUN/quantized/PROFILE; keep the best epoch."""
    from keras_vit.export.profiles import profile_named

    profile_named(profile, quantized=True)  # before anything slow
    if not 0 <= distill < float("inf"):
        raise InputError(f"--distill is the weight of a loss, 0 or more, not {distill:g}.")
    loaded = _data_of_run(run, data, skip_bad)
    _import_tensorflow()
    from keras_vit.export.finetune import finetune

    history = finetune(run, profile, loaded, epochs, learning_rate, _console(), distill)
    best = max(history, key=lambda row: (row["val_accuracy"], row["epoch"]))  # the one that is kept
    before = json.loads((run / "quantized" / profile / "comparison.json").read_text())
    _say(
        f"{run}/quantized/{profile}: held-out top-1 {best['val_accuracy']:.4f} in epoch {best['epoch']} "
        f"(post-training quantization {before['post_training']:.4f}, float {before['float']:.4f})"
    )
    if before["kept"] == "post_training":
        _say("no epoch was better than post-training quantization, so that is kept: try --learning-rate")


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="The export directory; appears whole or not at all.")],
    profiles: Annotated[str, typer.Option(help="Separated by commas.")] = "float32,int8,int8_static",
    data: Annotated[
        str | None, typer.Option(help="The run's data, if it has moved (for calibration).")
    ] = None,
    post_training: Annotated[
        bool, typer.Option("--post-training", help="Quantize the float model, also where one was fine-tuned.")
    ] = False,
    calibrate: Annotated[int, typer.Option(help="Training pictures from which ranges are set.")] = 256,
    calibration_method: Annotated[str, typer.Option(help="mean, minmax or percentile.")] = "mean",
    seed: Annotated[int, typer.Option(help="Which pictures, for ranges and --max-drop.")] = 0,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Keep in float what it takes to lose at most that many points of top-1."),
    ] = None,
    sample: Annotated[int, typer.Option(help="Held-out pictures on which --max-drop is measured.")] = 512,
    protect: Annotated[
        str | None, typer.Option(help="Parts to keep in float, e.g. block_0.mlp,block_11.mlp or head.")
    ] = None,
    serve: Annotated[str, typer.Option(help="The profile that the SavedModel computes.")] = "float32",
    version: Annotated[int, typer.Option(help="Of the SavedModel, for TF Serving.")] = 1,
    skip_bad: SkipBad = False,
):
    """Write .tflite files and a SavedModel; profiles that were not fine-tuned are calibrated."""
    from keras_vit.export.layout import check_ours
    from keras_vit.export.profiles import profile_named
    from keras_vit.training.runs import read_run

    names = _names(profiles)
    chosen = [profile_named(name) for name in names]
    if max_drop is not None and protect is not None:
        raise InputError("--protect names the parts, --max-drop finds them: give one of the two.")
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise InputError(f"--max-drop is a number of points of top-1, from 0 to 100, not {max_drop:g}.")
    config = read_run(run)
    check_ours(out)
    from keras_vit.export.calibration import Calibration, checked_integer

    calibration = Calibration(None, calibrate, seed, calibration_method)  # before anything slow
    checked_integer("--sample", sample, least=1)
    _import_tensorflow()
    from keras_vit.export.directory import export
    from keras_vit.export.finetune import about_run, load_aware, load_model

    model, aware = load_model(run), {} if post_training else load_aware(run)
    aware = {name: model for name, model in aware.items() if name in names}
    calibrated = [profile for profile in chosen if profile.quantized and profile.name not in aware]
    if not calibrated and (max_drop is not None or protect is not None):
        option = "--max-drop" if protect is None else "--protect"
        raise InputError(
            f"{option} is for profiles that are quantized without training, and none of {', '.join(names)} "
            "is: --post-training makes them so."
        )
    loaded = None
    if max_drop is not None or any(profile.has_trained_ranges for profile in calibrated):
        loaded = _data_of_run(run, data, skip_bad)
        calibration = Calibration(loaded, calibrate, seed, calibration_method)
    protected = {profile.name: _names(protect or "") for profile in calibrated}
    if max_drop is not None:
        for name in protected:
            protected[name] = _protected(model, name, calibration, loaded, max_drop, sample, seed)
    export(
        model,
        out,
        names,
        calibration if loaded else None,
        config["labels"],
        aware,
        protected,
        source=about_run(run, config, aware),
        served=serve,
        version=version,
        status=_say,
    )
    files = ", ".join(
        f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in sorted(out.glob("*.tflite"))
    )
    _say(f"{out}: {files}, saved_model/{version}")


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def _protected(model, profile, calibration, data, max_drop, sample, seed):
    """The parts of `profile` to keep in float; says what each brings."""
    from keras_vit.export.sensitivity import choose_protected, sentences, table

    with _task(f"{profile}: what each part loses") as progress:
        choice = choose_protected(
            model, profile, calibration, data, max_drop, sample, seed, progress=progress
        )
    _wide_console().print(table(choice))
    for line in sentences(choice):
        _say(line)
    return choice.protect


@app.command()
def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder made by `keras-vit export`.")],
    data: Data,
    limit: Annotated[int | None, typer.Option(min=1, help="Use that many of the held-out images.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to time each artifact.")] = 1.0,
    skip_bad: SkipBad = False,
):
    """Run every copy of the model on the same held-out images; write report.json and report.html."""
    from keras_vit.export.verify import read_manifest, verify

    manifest = read_manifest(directory)
    if "inputs" in manifest:
        _import_tensorflow()
        loaded = _load_multimodal(data, modalities=_modalities(manifest["modalities"]))
    elif _is_multimodal(data):
        raise InputError(f"{directory} takes pictures alone, and {data} has several modalities.")
    else:
        loaded = _load(data, tuple(manifest["image_size"]), skip_bad)
    if list(loaded.labels) != list(manifest["labels"]):
        raise InputError(
            f"{data} has the classes {', '.join(loaded.labels[:5])} ({len(loaded.labels)}), the model "
            f"{', '.join(manifest['labels'][:5])} ({len(manifest['labels'])}): give data that has those."
        )
    with _task("evaluating") as progress:
        report = verify(directory, loaded.test, limit=limit, seconds=seconds, progress=progress)
    from keras_vit.export.report import pictures_of, table, write_report

    write_report(report, directory, pictures_of(loaded.test))
    _wide_console().print(table(report))
    print(directory / "report.html")
    refused = [row for row in report["artifacts"] if row["refused"]]
    if refused:
        names = ", ".join(row["name"] for row in refused)
        raise InputError(f"refused {names} of {directory}: {refused[0]['error']}")


@app.command()
def benchmark(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A .tflite of any tool, a .keras, .onnx or OpenVINO .xml file, a SavedModel folder, "
            "or a folder made by `keras-vit export` for all in it.",
        ),
    ],
    threads: Annotated[str, typer.Option(help="Numbers of CPU threads, separated by commas.")] = "1,2",
    seconds: Annotated[float, typer.Option(help="How long to time each file at each of them.")] = 3.0,
    operators: Annotated[
        bool, typer.Option("--operators", help="Also the time per kind of operator of each .tflite.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
):
    """Latency, memory and size of models, side by side; the first is what the others are compared with."""
    from keras_vit.export.benchmark import benchmark, pages

    with _task("measuring") as progress:
        report = benchmark(files, threads, seconds, operators, progress)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(*pages(report), sep="\n")


Text = Annotated[str | None, typer.Option(help="Words, for a model that reads.")]
Audio = Annotated[Path | None, typer.Option(help="A .wav file, for a model that hears.")]
Video = Annotated[Path | None, typer.Option(help="A .npy or .gif file, for a model that sees clips.")]
Action = Annotated[Path | None, typer.Option(help="A .npy or .csv file, for a model of tracks.")]


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model.keras, a .tflite or a SavedModel folder.")],
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE...]", help="Picture files.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture file, beside other modalities.")] = None,
    text: Text = None,
    audio: Audio = None,
    video: Video = None,
    action: Action = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
):
    """Name what is on pictures: the most probable classes. Modalities that are not given are absent."""
    import numpy as np

    images = [*(images or []), *([image] if image else [])]
    given = {"text": text, "audio": audio, "video": video, "action": action}
    given = {name: value for name, value in given.items() if value is not None}
    if not images and not given:
        raise InputError("nothing is given: name a picture, or --image, --text, --audio, --video, --action.")
    from keras_vit.export.runners import load_runner

    if model.exists() and model.suffix != ".tflite":
        _import_tensorflow()
    with _without_chatter():
        runner = load_runner(model)
    if runner.image_size is None:
        from keras_vit.export.modalities_near import raw_inputs

        if len(images) > 1:
            raise InputError(f"{model} takes one example at a time, not {len(images)} pictures.")
        if images:
            given["image"] = images[0]
        _import_tensorflow()
        names = [" ".join(f"{name}={value}" for name, value in given.items())]
        answers = runner.predict(raw_inputs(runner, given))
    else:
        from keras_vit.training.images import decode

        if given:
            raise InputError(f"{model} takes pictures alone, not {', '.join(given)}.")
        names = [str(path) for path in images]
        answers = runner.predict(np.stack([decode(path, runner.image_size) for path in images]))
    results = []
    for name, row in zip(names, answers, strict=True):
        order = np.argsort(-row)[:top]
        labels = runner.labels or [str(i) for i in range(len(row))]
        results.append(
            {
                "image" if runner.image_size else "inputs": name,
                "predictions": [{"label": labels[i], "probability": round(float(row[i]), 6)} for i in order],
            }
        )
    if as_json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    for name, result in zip(names, results, strict=True):
        print(name)
        for prediction in result["predictions"]:
            print(f"  {prediction['probability']:7.2%}  {prediction['label']}")


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="A RUN folder or its model.keras.")],
    out: Annotated[Path, typer.Option(help="The picture to write, e.g. why.png.")],
    picture: Annotated[Path | None, typer.Argument(metavar="[IMAGE]", help="A picture file.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture file, beside other modalities.")] = None,
    text: Text = None,
    audio: Audio = None,
    video: Video = None,
    action: Action = None,
):
    """Show what the model looked at: attention over patches and words, beside its answer."""
    if picture is not None and image is not None:
        raise InputError(f"two pictures are given, {picture} and {image}: give one.")
    if all(value is None for value in (picture, image, text, audio, video, action)):
        raise InputError("nothing is given: name a picture, or --image, --text, --audio, --video, --action.")
    _import_tensorflow()
    from keras_vit import inspect

    with _without_chatter():
        predictions = inspect.explain(
            model, picture or image, out, text=text, audio=audio, video=video, action=action
        )
    for label, probability in predictions:
        print(f"  {probability:7.2%}  {label}")
    _say(str(out))


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Where everything goes; runs/demo by default.")] = None,
    scenario: Annotated[
        str | None, typer.Option(help=f"A multimodal one instead: {', '.join(SCENARIOS)}.")
    ] = None,
):
    """The whole way on handwritten digits: train, quantize, export, evaluate, predict."""
    if scenario is not None:
        one_of("scenario", scenario, SCENARIOS)
        _import_tensorflow()
        from keras_vit.scenarios.running import notes, run, table

        folder = out or Path("runs") / scenario
        found = run(scenario, folder, _console())
        _wide_console().print(table(found))
        for line in notes(found):
            print(line)
        also = f"; {folder / 'run'} is a RUN like any other: quantize, export, explain"
        _say(f"{folder / 'scores.json'}{also if (folder / 'run').exists() else ''}")
        return
    out = out or Path("runs/demo")
    run, directory, sample = out / "run", out / "export", out / "sample.png"

    def step(function, *arguments, **options):
        words = [function.__name__]
        for argument in arguments:
            words += argument if isinstance(argument, list) else [argument]
        for key, value in options.items():
            words += [f"--{key}", value]
        _say("\n$ keras-vit " + " ".join(map(str, words)))
        function(*arguments, **options)

    step(train, "digits", out=run)
    for profile in ("int8", "int8_static"):
        step(quantize, run, profile=profile)
    step(export, run, out=directory, profiles="float32,int8,int8_static")
    from PIL import Image

    from keras_vit.training.data import load_data

    picture = load_data("digits").test
    Image.fromarray(picture.images[-1]).save(sample)
    step(predict, directory / "int8_static.tflite", [sample])
    step(evaluate, directory, "digits")


def main():
    """Run the command line: 0 success, 1 failure, 2 bad input or no room, 130 interrupted."""
    warnings.showwarning = functools.partial(_note, warnings.showwarning)
    try:
        app()
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except Interrupted as error:
        sys.exit(_fail(str(error), 130))
    except OSError as error:
        what = ": ".join(filter(None, [error.filename, error.strerror])) or str(error)
        sys.exit(_fail(f"{what}. What was there before is unchanged: {_way_out(error)}.", 2))
    except Exception as error:
        if os.environ.get("KERAS_VIT_TRACEBACK"):
            raise
        line = (str(error).strip().splitlines() or [""])[0]
        sys.exit(_fail(f"{type(error).__name__}: {line} (KERAS_VIT_TRACEBACK=1 shows where)", 1))


def _note(usual, message, category, *where, **more):
    """Show a `Notice` as a line, other warnings as usual."""
    if issubclass(category, Notice):
        print(f"note: {message}", file=sys.stderr)
    else:
        usual(message, category, *where, **more)


def _fail(message, code):
    print(f"error: {message}", file=sys.stderr)
    return code


def _way_out(error):
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room, or give another --out, and run it again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "give an --out that you may write to"
    return "put it right and run it again"


def _say(line):
    sys.stderr.write(f"{line}\n")  # in one piece, since threads say things too
    sys.stderr.flush()


def _import_tensorflow():
    """Import Keras and TensorFlow without the lines that TensorFlow writes on the way."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']!r}: the command line needs tensorflow. Unset it."
        )
    with _without_chatter():
        import tensorflow

    tensorflow.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def _without_chatter():
    """Keep back what TensorFlow and LiteRT write to standard error, unless the block fails.

    They write before they have read any setting, and below Python: only the descriptor catches it.
    """
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except InputError:
            raise
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _wide_console():
    """Standard output, wide enough for every column of a table also where it is a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _console():
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def _task(title):
    """A progress bar; yields a function of (done, total) or (note, done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(title), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=_console(), transient=True) as bar:
        task = bar.add_task("", total=None, note="")

        def update(*arguments):
            *note, done, total = arguments
            bar.update(task, completed=done, total=total, note=" ".join(note))

        yield update


def _load(data, size, skip_bad):
    from keras_vit.training.data import load_data

    with _task("reading pictures") as progress:
        loaded = load_data(data, size, skip_bad=skip_bad, progress=progress)
    if loaded.skipped:
        _say(f"{len(loaded.skipped)} bad pictures left out: {', '.join(loaded.skipped[:5])}")
    _say(f"{data}: {len(loaded.train)} to train, {len(loaded.test)} held out, {len(loaded.labels)} classes")
    return loaded


def _is_multimodal(data):
    from keras_vit.training.multimodal_data import is_multimodal

    return data in SCENARIOS or is_multimodal(data)


def _load_multimodal(data, options=None, modalities=None):
    from keras_vit.scenarios import scenario
    from keras_vit.training.multimodal_data import load_examples

    with _without_chatter():
        loaded = scenario(data).make() if data in SCENARIOS else load_examples(data, options, modalities)
    _say(
        f"{data}: {', '.join(loaded.modalities)}; {len(loaded.train)} to train, {len(loaded.test)} held out, "
        f"{len(loaded.labels)} classes"
    )
    return loaded


def _modalities(pairs):
    """{name: modality} of what a manifest or a recipe notes."""
    from keras_vit.modalities import deserialized

    return deserialized(pairs)


def _devices(strategy):
    """The `tf.distribute.Strategy` called `strategy`, or None."""
    _import_tensorflow()
    from keras_vit.training import strategies

    with _without_chatter():
        return strategies.strategy(strategy)


def _train_multimodal(data, out, strategy, idle, shape, model, **training):
    """`train` for several modalities.

    Args:
        strategy: what --strategy says.
        idle: {option: value} of those that have no meaning here.
        shape: what --image-size, --variant and --sentence say.
        model: arguments of `MultimodalViT`.
        training: fields of the recipe.
    """
    for option, value in idle.items():
        if value is not None:
            raise InputError(f"{option} is for models of images alone, and {data} has several modalities.")
    devices = _devices(strategy)
    from keras_vit.scenarios import scenario
    from keras_vit.training.multimodal_data import Options
    from keras_vit.training.recipes import multimodal_recipe, trunk
    from keras_vit.training.trainer import train

    model = {key: value for key, value in model.items() if value is not None}
    variant, patch_size = trunk(shape["variant"])
    if data in SCENARIOS:
        if any(value is not None for value in shape.values()):
            raise InputError(f"the scenario {data} has its own model: leave out {', '.join(SHAPE_OPTIONS)}.")
        ours = scenario(data)
        if hasattr(ours, "run"):
            raise InputError(
                f"{data} trains more than one model: `keras-vit demo --scenario {data}` does it all."
            )
        variant = ours.MODEL
        training = {**ours.TRAINING, **{key: value for key, value in training.items() if value is not None}}
    loaded = _load_multimodal(data, Options(shape["image_size"], patch_size, sentence=shape["sentence"]))
    chosen = multimodal_recipe(loaded, variant={**variant, **model}, **training)
    history = train(loaded, out, chosen, _console(), strategy=devices)
    _say(f"{out}: held-out top-1 {history[-1]['val_accuracy']:.4f} after {len(history)} epochs")


SHAPE_OPTIONS = ("--image-size", "--variant", "--sentence")


def _data_of_run(run, data, skip_bad):
    """Load what a run was trained on."""
    from keras_vit.training.runs import read_run
    from keras_vit.training.sources import BUILT_IN

    config = read_run(run)
    if "modalities" in config["recipe"]:
        return _multimodal_data_of_run(run, config, data)
    if (run / "state.safetensors").exists():
        _say(f"note: {run} is not finished; this goes on from its last full epoch")
    source = config["data"]["source"]
    if data is None and source is None:
        raise InputError(f"{run} was imported and has no data of its own: say --data PATH.")
    if data is None and source not in BUILT_IN and not Path(source).exists():
        raise InputError(f"the data of {run}, {source}, is not there (any more): say --data PATH.")
    return _load(data or config["data"]["source"], tuple(config["recipe"]["image_size"]), skip_bad)


def _multimodal_data_of_run(run, config, data):
    source = data or config["data"]["source"]
    if source not in SCENARIOS and not Path(source).exists():
        raise InputError(f"the data of {run}, {source}, is not there (any more): say --data PATH.")
    _import_tensorflow()
    return _load_multimodal(source, modalities=_modalities(config["recipe"]["modalities"]))


def _image_size(text):
    """ "224" or "64x96" to (height, width)."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise InputError(
            f"--image-size is a number of pixels such as 224 or 64x96 (height x width), not {text!r}."
        )
    return int(parts[0]), int(parts[-1])


if __name__ == "__main__":
    main()

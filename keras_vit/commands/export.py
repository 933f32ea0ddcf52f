"""`keras-vit export`: a RUN becomes .tflite files and a SavedModel."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import check_data, load_data_of_run, split_names
from keras_vit.commands.options import Run, SkipBad, takes
from keras_vit.commands.terminal import import_tensorflow, say, task, wide_console
from keras_vit.errors import InputError


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What `keras-vit export` takes."""

    run: Run
    out: Annotated[Path, typer.Option(help="The export directory; appears whole or not at all.")]
    profiles: Annotated[str, typer.Option(help="Separated by commas.")] = "float32,int8,int8_static"
    data: Annotated[str | None, typer.Option(help="The run's data, if it has moved (for calibration).")] = (
        None
    )
    post_training: Annotated[
        bool, typer.Option("--post-training", help="Quantize the float model, also where one was fine-tuned.")
    ] = False
    calibrate: Annotated[int, typer.Option(help="Training pictures from which ranges are set.")] = 256
    calibration_method: Annotated[str, typer.Option(help="mean, minmax or percentile.")] = "mean"
    seed: Annotated[int, typer.Option(help="Which pictures, for ranges and --max-drop.")] = 0
    max_drop: Annotated[
        float | None,
        typer.Option(help="Keep in float what it takes to lose at most that many points of top-1."),
    ] = None
    sample: Annotated[int, typer.Option(help="Held-out pictures on which --max-drop is measured.")] = 512
    protect: Annotated[
        str | None, typer.Option(help="Parts to keep in float, e.g. block_0.mlp,block_11.mlp or head.")
    ] = None
    rollout: Annotated[
        bool, typer.Option("--rollout", help="A second output: how much of each patch reached the answer.")
    ] = False
    serve: Annotated[str, typer.Option(help="The profile that the SavedModel computes.")] = "float32"
    version: Annotated[int, typer.Option(help="Of the SavedModel, for TF Serving.")] = 1
    skip_bad: SkipBad = False


@takes(ExportOptions)
def export(options: ExportOptions) -> None:
    """Write .tflite files and a SavedModel; profiles that were not fine-tuned are calibrated."""
    from keras_vit.export.ownership import check_ours
    from keras_vit.export.profiles import profile_named
    from keras_vit.training.runs import read_run

    names = split_names(options.profiles)
    chosen = [profile_named(name) for name in names]
    if options.max_drop is not None and options.protect is not None:
        raise InputError("--protect names the parts, --max-drop finds them: give one of the two.")
    if options.max_drop is not None and not 0 <= options.max_drop <= 100:
        raise InputError(
            f"--max-drop is a number of points of top-1, from 0 to 100, not {options.max_drop:g}."
        )
    config = read_run(options.run)
    check_data(options.data)
    check_ours(options.out)
    from keras_vit.export.quantization.calibration import Calibration, checked_integer

    # Before anything slow.
    calibration = Calibration(None, options.calibrate, options.seed, options.calibration_method)
    checked_integer("--sample", options.sample, least=1)
    import_tensorflow()
    from keras_vit.export.directory import export
    from keras_vit.export.options import About, Serving
    from keras_vit.export.quantization.finetune import about_run, load_model, load_trained

    model, trained = load_model(options.run), {} if options.post_training else load_trained(options.run)
    trained = {name: model for name, model in trained.items() if name in names}
    calibrated = [profile for profile in chosen if profile.quantized and profile.name not in trained]
    if not calibrated and (options.max_drop is not None or options.protect is not None):
        option = "--max-drop" if options.protect is None else "--protect"
        raise InputError(
            f"{option} is for profiles that are quantized without training, and none of {', '.join(names)} "
            "is: --post-training makes them so."
        )
    loaded = None
    if options.max_drop is not None or any(profile.has_trained_ranges for profile in calibrated):
        loaded = load_data_of_run(options.run, options.data, options.skip_bad)
        calibration = Calibration(loaded, options.calibrate, options.seed, options.calibration_method)
    protected = {profile.name: split_names(options.protect or "") for profile in calibrated}
    if options.max_drop is not None:
        for name in protected:
            protected[name] = _protected(
                model, name, calibration, loaded, options.max_drop, options.sample, options.seed
            )
    export(
        model,
        options.out,
        names,
        calibration if loaded else None,
        config["labels"],
        trained=trained,
        protect=protected,
        serving=Serving(options.serve, options.version),
        about=About(source=about_run(options.run, config, trained)),
        rollout=options.rollout,
        status=say,
    )
    files = ", ".join(
        f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in sorted(options.out.glob("*.tflite"))
    )
    say(f"{options.out}: {files}, saved_model/{options.version}")


def _protected(model, profile, calibration, data, max_drop, sample, seed):
    """The parts of `profile` to keep in float; says what each brings."""
    from keras_vit.export.quantization.sensitivity import choose_protected
    from keras_vit.export.quantization.sensitivity_report import sentences, table

    with task(f"{profile}: what each part loses") as progress:
        choice = choose_protected(
            model, profile, calibration, data, max_drop, sample, seed, progress=progress
        )
    wide_console().print(table(choice))
    for line in sentences(choice):
        say(line)
    return choice.protect

"""`keras-vit quantize`: quantization-aware fine-tuning of a RUN."""

from typing import Annotated

import typer

from keras_vit.commands.common import load_data_of_run
from keras_vit.commands.options import Run, SkipBad
from keras_vit.commands.terminal import console, import_tensorflow, say
from keras_vit.errors import InputError


def quantize(
    run: Run,
    profile: Annotated[
        str, typer.Option(help="int8, int8_mixed, int8_static, int8_full, int4 or int4_block.")
    ],
    data: Annotated[str | None, typer.Option(help="The run's data, if it has moved.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: a tenth of the run's, 3 to 10.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: a tenth of the run's.")] = None,
    distill: Annotated[
        float, typer.Option(help="Weight of a loss that pulls the answers to the float model's; 0 is off.")
    ] = 0.0,
    skip_bad: SkipBad = False,
) -> None:
    """Fine-tune a run under fake quantization, into RUN/quantized/PROFILE; keep the best epoch."""
    from keras_vit.export.profiles import profile_named

    profile_named(profile, quantized=True)  # before anything slow
    if not 0 <= distill < float("inf"):
        raise InputError(f"--distill is the weight of a loss, 0 or more, not {distill:g}.")
    loaded = load_data_of_run(run, data, skip_bad)
    import_tensorflow()
    from keras_vit.export.quantization.finetune import finetune

    history = finetune(run, profile, loaded, epochs, learning_rate, console(), distill)
    best = max(history, key=lambda row: (row["val_accuracy"], row["epoch"]))  # the one that is kept
    from keras_vit.export.quantization.finetune_schema import Comparison
    from keras_vit.formats import read_document

    before = read_document(run / "quantized" / profile / "comparison.json", Comparison, "quantize again")
    say(
        f"{run}/quantized/{profile}: held-out top-1 {best['val_accuracy']:.4f} in epoch {best['epoch']} "
        f"(post-training quantization {before['post_training']:.4f}, float {before['float']:.4f})"
    )
    if before.get("kept") == "post_training":
        say("no epoch was better than post-training quantization, so that is kept: try --learning-rate")

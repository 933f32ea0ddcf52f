"""What several commands do with their options: sizes, devices, models and data that these name."""

import os
from pathlib import Path

from keras_vit.commands.terminal import import_tensorflow, say, task, without_chatter
from keras_vit.errors import InputError
from keras_vit.scenarios import SCENARIOS


def split_names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_image_size(text):
    """ "224" or "64x96" to (height, width)."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise InputError(
            f"--image-size is a number of pixels such as 224 or 64x96 (height x width), not {text!r}."
        )
    return int(parts[0]), int(parts[-1])


def check_path(path: Path | None, message: str) -> None:
    """Refuse a path where nothing lies, with `message`, and a pipe or a device.

    To be called before TensorFlow is imported, which takes seconds.
    """
    if path is None:
        return
    if not os.path.exists(path):
        raise InputError(message)
    if not os.path.isdir(path):
        from keras_vit.files import open_regular

        open_regular(path).close()


def check_model(path: Path | None, option: str) -> None:
    """`check_path` of what `training.imports.load_start` takes."""
    check_path(path, f"{path} does not exist: {option} takes a RUN, a model.keras or a checkpoint.")


def check_data(data: str | None) -> None:
    """`check_path` of DATA, which may also be a name."""
    from keras_vit.data.sources import found_path, is_name

    if data is not None and data not in SCENARIOS and not is_name(data):
        check_path(found_path(data), "")


def say_ignored(ignored: dict, why: str = "no pictures that are read, or outside the class folders") -> None:
    """Say how many files were passed over, see `ImageData.ignored`."""
    if ignored:
        kinds = [f"{count} {suffix or 'without a suffix'}" for suffix, count in ignored.items()]
        more = f" and {len(kinds) - 5} more kinds" if len(kinds) > 5 else ""
        say(f"{sum(ignored.values())} files passed over ({why}): {', '.join(kinds[:5])}{more}")


def find_devices(strategy):
    """The `tf.distribute.Strategy` called `strategy`, or None."""
    import_tensorflow()
    from keras_vit.distributed import strategies

    with without_chatter():
        return strategies.strategy(strategy)


def start_from(options):
    """What --start, --image-size, --variant and --pooling of a command come to.

    Returns:
        (the `ViT` to fine-tune or None, {"image_size": (height, width), "variant": ..., "pooling": ...}).
    """
    from keras_vit.data.image_data import suggest_image_size

    started, size = None, parse_image_size(options.image_size)
    variant, pooling = options.variant, options.pooling
    if options.start is not None:
        from keras_vit.training.imports import load_start, start_options

        with without_chatter():
            started = load_start(options.start)
        size = size or started.image_size
        variant, pooling = start_options(started, variant, pooling)
    size = size or (suggest_image_size(options.data),) * 2
    return started, {"image_size": size, "variant": variant, "pooling": pooling}


def is_multimodal(data):
    from keras_vit.data.example_tables import is_multimodal

    return data in SCENARIOS or is_multimodal(data)


def load_images(data, size, skip_bad, service=None, channels=3):
    from keras_vit.data.image_data import load_data

    with task("reading pictures") as progress:
        loaded = load_data(
            data, size, skip_bad=skip_bad, progress=progress, service=service, channels=channels
        )
    if loaded.skipped:
        say(f"{len(loaded.skipped)} bad pictures left out: {', '.join(loaded.skipped[:5])}")
    say_ignored(loaded.ignored)
    say(f"{data}: {_parts(loaded)}, {len(loaded.labels)} classes")
    return loaded


def _parts(loaded):
    if loaded.val is None:
        return f"{len(loaded.train)} to train, {len(loaded.test)} held out"
    return f"{len(loaded.train)} to train, {len(loaded.val)} to choose by, {len(loaded.test)} to test"


def load_multimodal(data, options=None, modalities=None, skip_bad=False):
    from keras_vit.data.multimodal import load_examples
    from keras_vit.scenarios import scenario

    with without_chatter():
        if data in SCENARIOS:
            loaded = scenario(data).make()
        else:
            loaded = load_examples(data, options, modalities, skip_bad=skip_bad)
    if loaded.skipped:
        say(f"{len(loaded.skipped)} bad rows left out: {'; '.join(loaded.skipped[:5])}")
    say(f"{data}: {', '.join(loaded.modalities)}; {_parts(loaded)}, {len(loaded.labels)} classes")
    return loaded


def restored_modalities(pairs):
    """{name: modality} of what a manifest or a recipe notes."""
    from keras_vit.modalities import deserialized

    return deserialized(pairs)


def load_data_of_run(run, data, skip_bad):
    """Load what a run was trained on."""
    from keras_vit.data.sources import is_name
    from keras_vit.training.recipes import recipe_from
    from keras_vit.training.runs import read_run

    config = read_run(run)
    check_data(data)
    if "modalities" in config["recipe"]:
        return _multimodal_data_of_run(run, config, data, skip_bad)
    if (run / "state.safetensors").exists():
        say(f"note: {run} is not finished; this goes on from its last full epoch")
    source = config["data"]["source"]
    if data is None and source is None:
        raise InputError(f"{run} was imported and has no data of its own: say --data PATH.")
    if data is None and not is_name(source) and not os.path.exists(source):
        raise InputError(f"the data of {run}, {source}, is not there (any more): say --data PATH.")
    recipe = recipe_from(config["recipe"])
    return load_images(data or source, recipe.image_size, skip_bad, channels=recipe.model_config().channels)


def _multimodal_data_of_run(run, config, data, skip_bad):
    source = data or config["data"]["source"]
    if source not in SCENARIOS and not os.path.exists(source):
        raise InputError(f"the data of {run}, {source}, is not there (any more): say --data PATH.")
    import_tensorflow()
    modalities = restored_modalities(config["recipe"]["modalities"])
    return load_multimodal(source, modalities=modalities, skip_bad=skip_bad)

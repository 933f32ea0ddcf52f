"""From what people have (a picture file, words, a sound) to the raw inputs of one example for a runner."""

from keras_vit.data.multimodal import one_example
from keras_vit.errors import InputError
from keras_vit.export.verification.manifest import read_manifest


def raw_inputs(runner, given):
    """{name: array [1, ...]} for `runner.predict`; what is not given is blank, and not present.

    Args:
        runner: a `Runner` of a multimodal model.
        given: {name: path, or the words of a text}.

    Raises:
        InputError: a name that the model does not have, a file that cannot be read, no manifest.json near.
    """
    modalities = modalities_of(runner)
    for name, modality in modalities.items():
        if name not in runner.inputs or runner.inputs[name][0] != tuple(modality.signature()["shape"]):
            raise InputError(f"{runner.path.name} and its manifest.json do not fit: export the model again.")
    return one_example(modalities, given)


def modalities_of(runner):
    """{name: `Modality`} of the model that a runner has: its own, or those of the nearest manifest.json."""
    model = getattr(runner, "model", None)
    model = getattr(model, "model", model)  # inside of a quantization-aware one
    if model is not None:
        return model.modalities
    from keras_vit.modalities import deserialized

    folder = runner.path.resolve()
    for place in list(folder.parents)[:3]:
        if (place / "manifest.json").is_file():
            noted = read_manifest(place).get("modalities")
            if noted:
                return deserialized(noted)
    raise InputError(
        f"{runner.path} takes several modalities, and no manifest.json is near that says how to read them: "
        "leave it in its export directory."
    )

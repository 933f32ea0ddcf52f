"""What the modalities share whose raw input is pixels: pictures and clips."""

from keras import ops

from keras_vit.errors import InputError


class Pixels:
    """Mixed into a `Modality` with `channels`: raw pixels 0..255 become (pixel / 255 - mean) / std.

    The layer itself takes normalised pixels, as its weights expect them; `prepare` makes them so. Training,
    prediction and every export call it.

    `take_preprocessing` is called in the constructor with {"mean": [C], "std": [C]}, or None for 0.5 each.
    """

    def take_preprocessing(self, value):
        self.preprocessing = checked_preprocessing(value, self.channels)

    def prepare(self, raw):
        pixels = ops.cast(raw, "float32")
        mean, std = (self.preprocessing[key] for key in ("mean", "std"))
        scale = [1 / (255 * s) for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        return pixels * ops.convert_to_tensor(scale, "float32") + ops.convert_to_tensor(shift, "float32")


def limits(preprocessing):
    """(lowest, highest) number that a normalised pixel can be."""
    pairs = list(zip(preprocessing["mean"], preprocessing["std"], strict=True))
    return min(-m / s for m, s in pairs), max((1 - m) / s for m, s in pairs)


def checked_preprocessing(value, channels):
    """`value` as {"mean": [floats], "std": [floats]}; None stands for 0.5 in every channel.

    Raises:
        InputError: another form, another number of channels, a deviation that is not above 0.
    """
    if value is None:
        return {"mean": [0.5] * channels, "std": [0.5] * channels}
    try:
        mean, std = ([float(number) for number in value[key]] for key in ("mean", "std"))
    except (TypeError, ValueError, KeyError):
        mean = std = ()
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise InputError(
            f"preprocessing must be {{'mean': [{channels} numbers], 'std': [{channels} numbers above 0]}}, "
            f"not {value!r}."
        )
    return {"mean": mean, "std": std}

"""`post_training`: a quantized model without any training; ranges come from pictures alone."""

from keras_vit.errors import InputError
from keras_vit.export.quantization.calibration import Calibration
from keras_vit.export.quantization.model import quantize_aware


def post_training(model, profile, calibration=None, protect=()):
    """`quantize_aware` with a note of the seed.

    Args:
        model: the float `ViT`.
        profile: name of a quantized profile.
        calibration: a `Calibration` or just pictures; None for noise.
        protect: names of layers, or of what contains them, that stay float.

    Raises:
        InputError: as `quantize_aware`; or nothing would be left to quantize.
    """
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    method = calibration.method if calibration else "mean"
    aware = quantize_aware(model, profile, calibration, protect, method)
    if not aware.spec:
        raise InputError(
            f"with {', '.join(protect)} in float, {profile} quantizes nothing: protect less, or use float32."
        )
    if calibration and aware.calibration:
        aware.calibration = {**aware.calibration, "seed": calibration.seed}
    return aware

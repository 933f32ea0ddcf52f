"""`find_rate`: a learning rate that suits a model and its data, from one short training (Smith 2017).

The rate grows exponentially from step to step, and the loss first falls, then explodes (arXiv:1506.01186).
Where it falls fastest is a good peak for a schedule.
"""

import dataclasses
import math

import keras
import numpy as np

from keras_vit.data.pipeline import training_batches
from keras_vit.errors import InputError
from keras_vit.inspect.plots import save
from keras_vit.training.trainer import built, check_channels, compile_for

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTHING = 3  # steps: the deviation of the Gaussian that smooths the losses
EXPLODED = 2.0  # times the first loss, in the mean of three steps


@dataclasses.dataclass(frozen=True)
class Rates:
    """What was found.

    Attributes:
        rates, losses: of each step; the last loss may not be finite.
        smooth: the losses, smoothed.
        best: the rate at which the smoothed loss falls fastest; None when it never fell.
        exploded: whether that ended it.
    """

    rates: list
    losses: list
    smooth: list
    best: float | None
    exploded: bool

    @property
    def lowest(self):
        """The rate of the lowest smoothed loss."""
        return self.rates[int(np.argmin(self.smooth))]


def find_rate(data, recipe, start=None, steps=STEPS, lowest=LOWEST, highest=HIGHEST, progress=None):
    """Train for `steps` steps with growing rates; leaves nothing behind.

    Args:
        data: an `ImageData`.
        recipe: its model, batches, augmentation, loss, weight decay and clipping are used.
        start: a `ViT` to fine-tune instead of fresh weights, as of `train`.
        lowest, highest: the rates of the first and the last step.
        progress: called as `progress(done, total)`.

    Raises:
        InputError: rates that do not grow, or fewer than 10 steps.
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(f"rates from {lowest:g} to {highest:g} do not grow.")
    if steps < 10:
        raise InputError(f"{steps} steps are too few to see a loss fall: use at least 10.")
    check_channels(data.train, recipe.model_config().channels)
    keras.utils.set_random_seed(recipe.seed)
    model = built(data, recipe, start)
    growth = math.log(highest / lowest) / (steps - 1)
    schedule = keras.optimizers.schedules.ExponentialDecay(lowest, 1, math.exp(growth))
    training = compile_for(model, recipe, steps, schedule)
    epochs = math.ceil(steps * recipe.batch_size / len(data.train))
    rates, losses, exploded = [], [], False
    for step, batch in enumerate(training_batches(data.train, model, recipe, 0, epochs).take(steps)):
        training.reset_metrics()  # or it would be the mean since the first step
        losses.append(float(training.train_on_batch(*batch, return_dict=True)["loss"]))
        rates.append(lowest * math.exp(growth * step))
        if progress:
            progress(step + 1, steps)
        exploded = not np.mean(losses[-3:]) <= EXPLODED * losses[0]  # so also when it is NaN
        if exploded:
            break
    smooth = _smoothed(losses)
    return Rates(rates, losses, smooth, _steepest(rates, smooth), exploded)


def _smoothed(losses):
    """Over both neighbours alike: an average of what came before would point to too high a rate."""
    from scipy.ndimage import gaussian_filter1d

    most = EXPLODED * losses[0]
    bounded = np.nan_to_num(np.minimum(losses, most), nan=most)
    return gaussian_filter1d(bounded, SMOOTHING, mode="nearest").tolist()


def _steepest(rates, smooth):
    """The rate at which the loss falls fastest over the logarithm of the rate, before its lowest point."""
    end = int(np.argmin(smooth)) + 1
    if end < 3:
        return None
    slopes = np.gradient(smooth[:end], np.log(rates[:end]))
    return rates[int(np.argmin(slopes))]


def draw_rates(found, path):
    """Draw loss against rate into a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.semilogx(found.rates, found.losses, alpha=0.35, label="loss of each step")
    axis.semilogx(found.rates, found.smooth, label="smoothed")
    if found.best is not None:
        axis.axvline(found.best, color="grey", linestyle="--", label=f"falls fastest at {found.best:.2g}")
    low, high = min(found.smooth), max(found.smooth)
    axis.set(
        xlabel="learning rate", ylabel="loss", ylim=(low - 0.2 * (high - low), high + 0.2 * (high - low))
    )
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path, dpi=120)

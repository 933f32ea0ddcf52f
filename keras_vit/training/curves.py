"""curves.png: loss and accuracy over the epochs."""

from keras_vit.inspect.plots import save


def draw_curves(history, path):
    """Draw a list of epochs (dicts with loss, accuracy, val_loss, val_accuracy) into a PNG.

    Without labels there is no accuracy, and the loss alone is drawn.
    """
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    names = [name for name in ("loss", "accuracy") if f"val_{name}" in history[-1]]
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "held out")):
            axis.plot(
                epochs, [row.get(key) for row in history], label=label, marker="." if len(epochs) < 30 else ""
            )
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
        known = [row[f"val_{name}"] for row in history if f"val_{name}" in row]
        best = (min if name == "loss" else max)(known)
        axis.set_title(f"held out: last {history[-1][f'val_{name}']:.4f}, best {best:.4f}")
    save(figure, path, dpi=120)

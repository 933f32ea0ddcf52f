"""curves.png: loss and accuracy over the epochs."""

from keras_vit.files import atomic_write


def draw_curves(history, path):
    """Draw a list of epochs (dicts with loss, accuracy, val_loss, val_accuracy) into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "held out")):
            axis.plot(
                epochs, [row.get(key) for row in history], label=label, marker="." if len(epochs) < 30 else ""
            )
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    best = max(row["val_accuracy"] for row in history)
    axes[1].set_title(f"held out: last {history[-1]['val_accuracy']:.4f}, best {best:.4f}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)

"""Arguments that had other names, and what says the same now: files that were saved then still load."""

from typing import Any

from keras_vit.mixin import Mixin

# Arguments that had another name before version 0.2. Files that were saved then still load.
RENAMED = {"classes": "num_classes", "heads": "num_heads"}


def with_new_names(config: dict) -> dict:
    """The arguments of a saved layer, model or recipe under the names that they have now."""
    return {RENAMED.get(name, name): value for name, value in config.items()}


# In files saved before version 0.2, `folded` names the parameters that a model lacks. What says the same now:
# arguments of an `Attention`, of layers with a norm, and fields of a `ViTConfig`.
ATTENTION_OF_FOLDED: dict[str, dict] = {
    "attention_scale": {"scale": 1.0, "average": False},
    "key_bias": {"key_bias": False},
    "value_bias": {"value_bias": False},
}
NORM_OF_FOLDED: dict[str, dict] = {"norms": {"affine": False}, "means": {"centre": False}}
CONFIG_OF_FOLDED: dict[str, dict] = {
    "attention_scale": {"attention_scale": 1.0, "attention_average": False},
    "key_bias": {"key_bias": False},
    "value_bias": {"value_bias": False},
    "patch_bias": {"patch_bias": False},
    "norms": {"norm_affine": False},
    "means": {"norm_centre": False},
}


def without_folded(config: dict, arguments: dict[str, dict]) -> dict:
    """`config` of a saved layer or model with the arguments that stand for the names in its `folded`."""
    config = dict(config)
    for name in config.pop("folded", ()):
        config |= arguments.get(name, {})
    return config


class Renamed(Mixin):
    """Mixin of layers and models: `from_config` takes what was saved before version 0.2 as well.

    Attributes:
        of_folded: names of the arguments that stand for `folded`; "attention" is a dictionary with those that
            concern attention.
    """

    of_folded: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: dict) -> Any:
        return super().from_config(cls.with_new_arguments(config))

    @classmethod
    def with_new_arguments(cls, config: dict) -> dict:
        """The arguments of a saved layer or model as they are called now."""
        config = with_new_names(config)
        folded = {"folded": config.pop("folded", ())}
        attention = without_folded(folded, ATTENTION_OF_FOLDED)
        arguments = attention | without_folded(folded, NORM_OF_FOLDED)
        if attention and "attention" in cls.of_folded:
            config["attention"] = {**(config.get("attention") or {}), **attention}
        return {**config, **{name: arguments[name] for name in cls.of_folded if name in arguments}}

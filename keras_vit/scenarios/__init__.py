"""Small worlds that show what the multimodal models can do; each makes its own data.

A scenario is a module with `make(seed)` (a `MultimodalData`), `MODEL` (arguments of `MultimodalViT`) and
`TRAINING` (fields of a `MultimodalRecipe`). Its name stands for a data set wherever a command takes one. It
may also have

- `pretrain(model, callbacks)`: a training of parts of the fresh model, such as its vision module, in place,
  of `PRETRAINING["steps"]` steps;
- `ALONE`: names of modalities for which a further model is trained that never sees the others;
- `controls(examples)`: {name: other `Examples`} to score the model on;
- `more(model, data, scores, out)`: {name: number} of further figures; it may leave a picture in `out`.

One that is all different has a `run(out, console)` of its own, and is for `keras-vit demo` alone.
"""

import importlib
from types import ModuleType

SCENARIOS = {  # name -> module
    "sort-of-clevr": "sort_of_clevr",
    "two-stage": "two_stage",
    "missing-text": "missing_text",
    "digits-audio": "digits_audio",
    "moving-digits": "moving_digits",
    "gestures": "gestures",
    "pretraining": "pretraining",
}


def scenario(name: str) -> ModuleType:
    """The module of the scenario called `name`."""
    return importlib.import_module(f"keras_vit.scenarios.{SCENARIOS[name]}")

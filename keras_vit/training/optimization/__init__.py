"""How weights are updated: the optimizer and its schedule, averaging, accumulation of gradients."""

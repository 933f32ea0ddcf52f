"""Other ways to train: distillation, masked pretraining, linear probing, the learning-rate finder."""

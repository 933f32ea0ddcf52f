"""The type of an augmentation step; what it maps is said in the package."""

from collections.abc import Callable

import tensorflow as tf

# (images, labels, seed) -> (images, labels)
Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

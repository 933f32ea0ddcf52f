"""Random rectangles, as crops, erasing and CutMix need them."""

import tensorflow as tf


def sides(draw: tf.Tensor, area: tuple[float, float], ratio: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Two sides float32 [B], at most 1, of rectangles of random area and aspect, as shares of the picture's.

    Args:
        draw: float32 [2, B], uniform from 0 to 1.
        area: (least, most) share of the area.
        ratio: the quotient of the sides is between 1 / ratio and ratio, log-uniformly.
    """
    area = area[0] + (area[1] - area[0]) * draw[0]
    quotient = tf.exp((2 * draw[1] - 1) * tf.math.log(ratio))
    return tf.minimum(tf.sqrt(area * quotient), 1.0), tf.minimum(tf.sqrt(area / quotient), 1.0)


def random_mask(
    share_high: tf.Tensor, share_wide: tf.Tensor, size: tuple[int, int], seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Rectangles of whole pixels around random middles; what would hang over the edge is cut off.

    Args:
        share_high, share_wide: float32 [B], the sides as shares of the picture's.
        size: (height, width) of the picture in pixels.
        seed: int32 [2].

    Returns:
        (mask bool [B, H, W, 1], share float32 [B]): where the rectangle is, and its exact part of the area.
    """
    middles = tf.random.stateless_uniform([2, tf.shape(share_high)[0]], seed)
    inside, lengths = [], []
    for full, side, middle in zip(size, (share_high, share_wide), tf.unstack(middles), strict=True):
        length = tf.round(side * full)
        start = tf.floor(middle * full) - tf.floor(length / 2)
        low, high = tf.maximum(start, 0.0), tf.minimum(start + length, full)
        places = tf.range(full, dtype=tf.float32)
        inside.append((places >= low[:, None]) & (places < high[:, None]))
        lengths.append(high - low)
    mask = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return mask, lengths[0] * lengths[1] / (size[0] * size[1])

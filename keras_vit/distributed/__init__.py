"""Several devices, processes and machines: tf.distribute strategies, local workers, addresses."""

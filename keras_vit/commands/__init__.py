"""The commands of `keras-vit`, one file each. Importing them imports neither Keras nor TensorFlow."""

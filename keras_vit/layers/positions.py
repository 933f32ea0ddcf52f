"""Position encodings: each adds to tokens what tells them where they are."""

import keras


@keras.saving.register_keras_serializable("keras_vit")
class LearnedPositions(keras.layers.Layer):
    """Adds one learned vector to each token: [B, N, D] -> [B, N, D].

    Dosovitskiy et al. 2020, equation 1. The table starts at normal(0, 0.02) and belongs to a
    fixed number of tokens N.
    """

    def build(self, input_shape):
        self.table = self.add_weight(
            shape=(1, *input_shape[1:]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="table",
        )

    def call(self, tokens):
        return tokens + self.table

    def compute_output_shape(self, input_shape):
        return input_shape

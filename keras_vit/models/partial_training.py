"""A model that trains a part of its layers only."""

from keras_vit.mixin import Mixin


class TrainsPart(Mixin):
    """Mixed into a model with a method `idle`: the layers that it names are not trained."""

    def idle(self) -> list:
        """The layers that are not trained."""
        raise NotImplementedError

    def _trained(self, variables):
        idle = {id(variable) for layer in self.idle() for variable in layer.variables}
        return [variable for variable in variables if id(variable) not in idle]

    @property
    def trainable_variables(self) -> list:
        return self._trained(super().trainable_variables)

    @property
    def trainable_weights(self) -> list:
        return self._trained(super().trainable_weights)

    @property
    def non_trainable_variables(self) -> list:
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in trained]

    @property
    def non_trainable_weights(self) -> list:
        trained = {id(variable) for variable in self.trainable_weights}
        return [variable for variable in self.weights if id(variable) not in trained]

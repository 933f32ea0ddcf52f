"""How a `MultimodalViT` learns to predict what the picture's features would be, from its visual sentence."""

from keras import ops

from keras_vit.config import Tensor
from keras_vit.errors import InputError
from keras_vit.mixin import Mixin
from keras_vit.modalities import Text, visual_prediction_loss
from keras_vit.modalities.image import Image


class PredictsFeatures(Mixin):
    """Mixed into a model with `modalities`, `mean` and `prediction`, the layer that predicts (or None)."""

    _predicted: tuple | None  # what `prediction_loss` takes of the latest call

    def _pair_to_predict(self):
        """(name of the visual sentence, name of the image)."""
        sentences = [key for key, m in self.modalities.items() if isinstance(m, Text) and m.sentence]
        pictures = [key for key, m in self.modalities.items() if isinstance(m, Image)]
        if not sentences or not pictures:
            raise InputError(
                "visual_weight needs a visual sentence and an image to predict: Text(..., sentence=K) and "
                f"Image(...), not only {', '.join(self.modalities)}."
            )
        return sentences[0], pictures[0]

    def _prediction(self, tokens, masks):
        """(predicted features [B, width], those to predict, where both are present [B])."""
        sentence, seen = tokens[self._sentence], masks[self._sentence]
        predicted = self.prediction(sentence, mask=seen)
        target = self.mean(tokens[self._picture], mask=masks[self._picture])
        both = ops.logical_and(ops.any(seen, axis=1), ops.any(masks[self._picture], axis=1))
        return predicted, target, both

    def prediction_loss(self, sample_weight: Tensor | None = None) -> Tensor:
        """`visual_weight` times the visual sentence's loss in the latest call with `training=True`, once.

        `compute_loss`, and so `fit`, adds it; add it in a training loop of your own. It is not in
        `losses`, as it heeds the weights of the examples: those that fill up a batch have none.

        Args:
            sample_weight: [B].

        Returns:
            a scalar; 0 without such a call, or where the text or the image was not given.
        """
        if self._predicted is None:
            return 0.0
        (predicted, target, both), self._predicted = self._predicted, None
        loss = visual_prediction_loss(predicted, target, self.visual_loss, both, sample_weight)
        return self.visual_weight * loss

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        extra = self.prediction_loss(sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training) + extra

    def visual_features(self, images: Tensor) -> Tensor:
        """What the vision module makes of images, [B, width]: the mean of their tokens."""
        tokens, mask = self.modalities[self._picture_name()](images)
        return self.mean(tokens, mask=mask)

    def predicted_features(self, texts: Tensor) -> Tensor:
        """What the visual sentence of texts (ids [B, length]) predicts these features to be, [B, width]."""
        if self.prediction is None:
            raise InputError("this model learned no prediction: build it with visual_weight above 0.")
        sentence, mask = self.modalities[self._sentence](texts)
        return self.prediction(sentence, mask=mask)

    def _picture_name(self):
        for key, modality in self.modalities.items():
            if isinstance(modality, Image):
                return key
        raise InputError(f"this model has no Image: it has {', '.join(self.modalities)}.")

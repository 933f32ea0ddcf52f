"""One file per modality; each is a layer: raw input -> (tokens [B, N, width], mask [B, N])."""

from keras_vit.modalities.action import Action
from keras_vit.modalities.audio import Audio
from keras_vit.modalities.base import Modality, deserialized
from keras_vit.modalities.captions import CaptionDecoder, caption_targets
from keras_vit.modalities.image import Image
from keras_vit.modalities.logmel import LogMel
from keras_vit.modalities.sentence import VisualPrediction, visual_prediction_loss
from keras_vit.modalities.text import Text
from keras_vit.modalities.video import Video
from keras_vit.modalities.vocabulary import Vocabulary
from keras_vit.modalities.waveforms import load_audio, prepare_audio

__all__ = [
    "Action",
    "Audio",
    "CaptionDecoder",
    "Image",
    "LogMel",
    "Modality",
    "Text",
    "Video",
    "VisualPrediction",
    "Vocabulary",
    "caption_targets",
    "deserialized",
    "load_audio",
    "prepare_audio",
    "visual_prediction_loss",
]

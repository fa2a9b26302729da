"""The models: a looped Transformer and a decoder, made of the same layers."""

from relay_jax.models.decoder import Decoder
from relay_jax.models.looped import LoopedModel

MODELS = {"looped": LoopedModel, "decoder": Decoder}

__all__ = ["MODELS", "Decoder", "LoopedModel"]

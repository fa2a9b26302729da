"""The models by config: the class that a `ModelConfig` stands for, and one way to run it."""

import flax.linen as nn

from relay_jax.base import AnyArray, Array, Int, Key, PyTree, Scratchpad
from relay_jax.config import ModelConfig
from relay_jax.models.decoder import Decoder
from relay_jax.models.differences import DifferenceModel
from relay_jax.models.feedback import FeedbackLoopedModel, TeacherForcing
from relay_jax.models.looped import LoopedModel, LoopedOutput
from relay_jax.models.soft_feedback import SoftFeedbackModel

LOOPED_MODELS = {  # by input_injection, feedback and differences
    ("hidden", "discrete", False): LoopedModel,  # the paper's
    ("feedback", "discrete", False): FeedbackLoopedModel,
    ("feedback", "soft", False): SoftFeedbackModel,
    ("feedback", "discrete", True): DifferenceModel,
}


def make_model(config: ModelConfig) -> nn.Module:
    """The linen module of a config.

    Raises:
      ValueError: no looped model has this combination of settings.
    """
    if config.kind == "decoder":
        return Decoder(config)
    kind = config.input_injection, config.feedback, config.differences
    if kind not in LOOPED_MODELS:
        names = "input_injection, feedback and differences"
        valid = "; ".join(", ".join(map(str, each)) for each in LOOPED_MODELS)
        raise ValueError(
            f"no looped model has {names} = {', '.join(map(str, kind))}; valid are {valid}"
        )
    return LOOPED_MODELS[kind](config)


def run_looped(
    params: PyTree,
    problem: Int[AnyArray, "b n"],
    num_rounds: Int[AnyArray, " b"],
    *,
    num_loops: int,
    model: ModelConfig,
    scratchpad: Scratchpad | None = None,
    teacher: TeacherForcing | None = None,
    key: Key[Array, ""] | None = None,
    columns: int = 0,
) -> LoopedOutput:
    """Applies a looped model; with a key it trains (dropout on, logits kept).

    Args:
      problem: right-aligned problem tokens.
      num_rounds: T of each example, at most `num_loops`.
      scratchpad: of `num_loops` iterations; only for models with round feedback.
      teacher: true rounds to feed back; only for these models.
      columns: r, the number of last columns in which rounds are predicted; 0: all n.
    """
    feedback = (scratchpad, teacher) if model.uses_feedback else ()
    return make_model(model).apply(  # type: ignore[return-value]
        {"params": params},
        problem,
        num_rounds,
        *feedback,
        num_loops=num_loops,
        train=key is not None,
        keep_logits=key is not None,
        columns=columns,
        rngs=None if key is None else {"dropout": key},
    )

"""One training step, jitted: (state, batch) -> (state, metrics)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from relay_jax.base import (
    Array,
    DecoderBatch,
    Float,
    Int,
    Key,
    LoopedBatch,
    PyTree,
    Scratchpad,
)
from relay_jax.config import LossConfig, TrainConfig
from relay_jax.data.text import Text
from relay_jax.jax_settings import make_key, standard_settings
from relay_jax.models.registry import make_model
from relay_jax.models.sharding import ROUNDS_FIRST, constrain
from relay_jax.tasks import Task
from relay_jax.training.objective import OBJECTIVES
from relay_jax.training.optimizer import make_optimizer

INIT, TRAIN = 0, 1  # purposes of the run's key
Gradient = Callable[[LoopedBatch | DecoderBatch, Key[Array, ""]], tuple[PyTree, dict]]


class TrainState(NamedTuple):
    """What a training step updates and a checkpoint saves."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


@standard_settings()
def init_params(config: TrainConfig) -> PyTree:
    """Fresh parameters, a function of the seed and of the model's config alone."""
    key = jax.random.fold_in(make_key(config.seed), INIT)
    model = make_model(config.model)
    problem = jnp.ones((1, 8), jnp.int32)
    if config.model.kind == "decoder":
        return jax.jit(model.init)(key, problem)["params"]
    inputs = problem, jnp.ones(1, jnp.int32)
    if config.model.uses_feedback:
        inputs += (full_scratchpad(problem),)
    init = functools.partial(model.init, num_loops=1)
    return jax.jit(lambda key: init(key, *inputs))(key)["params"]


def full_scratchpad(problem: Int[Array, "b n"]) -> Scratchpad:
    """A scratchpad of one round that uses every parameter that a model can have."""
    unused = jnp.full((1, *problem.shape), -1)
    return Scratchpad(
        initial=problem,
        copy_from=unused,
        constants=unused,
        pointers=jnp.zeros((*unused.shape, 2), jnp.int32),
        shows_problem=True,
        has_differences=True,
    )


def init_state(config: TrainConfig, params: PyTree) -> TrainState:
    """The state before the first step."""
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def teacher_forcing(config: LossConfig, progress: Float[Array, ""]):
    """The probability of feeding back a true round, linear over the run.

    Args:
      progress: the fraction of the run's steps that are done.
    """
    return config.forcing_start + progress * (config.forcing_end - config.forcing_start)


def make_train_step(config: TrainConfig, shardings: PyTree = None):
    """The jitted step. It compiles once per (task, number of loops, batch shape).

    Args:
      shardings: of each part of the state (`models.sharding.param_shardings`).

    Returns:
      A function (state, batch, *, task, num_loops) -> (state, metrics), which donates
      the state.
    """
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    objective = OBJECTIVES[config.model.kind]
    run_key = jax.random.fold_in(make_key(config.seed), TRAIN)
    options = {}
    if shardings:  # metrics are replicated, as the step's number is
        options = {"out_shardings": (shardings, shardings.step)}

    @functools.partial(
        jax.jit,
        static_argnames=("task", "num_loops"),
        donate_argnums=0,
        **options,
    )
    @standard_settings()
    def train_step(
        state: TrainState,
        batch: LoopedBatch | DecoderBatch,
        *,
        task: Task | Text,
        num_loops: int,
    ) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(run_key, state.step)
        forcing = teacher_forcing(config.loss, state.step / config.num_steps)

        def gradient(batch, key):
            return jax.grad(objective, has_aux=True)(
                state.params,
                batch,
                key,
                forcing,
                task=task,
                num_loops=num_loops,
                model=config.model,
                loss=config.loss,
            )

        grads, metrics = accumulate(gradient, batch, key, config.data.accumulate)
        if shardings:
            grads = jax.lax.with_sharding_constraint(grads, shardings.params)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def accumulate(gradient: Gradient, batch, key: Key[Array, ""], num: int):
    """The gradient and metrics of a batch, computed in `num` parts one after the other.

    They are those of the whole batch: each part is weighted by the number of tokens or
    examples that it trains. Only the noise (dropout, teacher forcing, augmentations)
    differs: each part draws from a key of its own.
    """
    if num == 1:
        return gradient(batch, key)
    parts, keys = split(batch, num), jax.random.split(key, num)
    trained = jax.vmap(_num_trained)(parts).astype(jnp.float32)
    shares = trained / jnp.maximum(trained.sum(), 1)

    def add(total, inputs):
        part, key, share = inputs
        result = gradient(part, key)
        return jax.tree.map(lambda t, x: t + share * x, total, result), None

    first = jax.tree.map(lambda x: x[0], (parts, keys))
    like = jax.eval_shape(gradient, *first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), like)
    total, _ = jax.lax.scan(add, zeros, (parts, keys, shares))
    return jax.tree.map(lambda x, kind: x.astype(kind.dtype), total, like)


def split(batch: LoopedBatch | DecoderBatch, num: int) -> LoopedBatch | DecoderBatch:
    """A batch in `num` parts, along a new first axis.

    Part i has every `num`-th example from the i-th on, so that each device has examples
    of every part.
    """

    def cut(name, x):
        axis = 1 if name in ROUNDS_FIRST else 0
        shape = (*x.shape[:axis], -1, num, *x.shape[axis + 1 :])
        x = jnp.moveaxis(x.reshape(shape), axis + 1, 0)
        names = "batch", *[None] * (x.ndim - axis - 2)
        return constrain(x, *names)

    return batch._replace(**{k: cut(k, x) for k, x in batch._asdict().items()})


def _num_trained(batch: LoopedBatch | DecoderBatch) -> Int[Array, ""]:
    """The number of terms of the loss: trained tokens of a decoder, else examples."""
    if isinstance(batch, DecoderBatch):
        return batch.trained[:, 1:].sum()
    return jnp.array(len(batch.problem))

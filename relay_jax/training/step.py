"""One training step, jitted: (state, batch) -> (state, metrics)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from relay_jax.arrays import Array, Float, Int, PyTree
from relay_jax.config import LossConfig, TrainConfig
from relay_jax.data.align import DecoderBatch, LoopedBatch
from relay_jax.data.text import Text
from relay_jax.models import MODELS
from relay_jax.tasks import TASKS, Task
from relay_jax.training.loss import LOSSES
from relay_jax.training.optimizer import make_optimizer

INIT, TRAIN = 0, 1  # purposes of the run's key


class TrainState(NamedTuple):
    """Everything that a checkpoint holds."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


def init_params(config: TrainConfig) -> PyTree:
    """Fresh parameters: a function of the seed and the model's config."""
    key = jax.random.fold_in(jax.random.key(config.seed), INIT)
    model = MODELS[config.model.kind](config.model)
    problem = jnp.ones((1, 8), jnp.int32)
    if config.model.kind == "decoder":
        return jax.jit(model.init)(key, problem)["params"]
    workspace = TASKS["edit_distance"]().workspace(problem, 1)
    workspace = workspace if config.model.loop_input == "feedback" else None
    num_rounds = jnp.ones(1, jnp.int32)
    init = functools.partial(model.init, num_loops=1)
    return jax.jit(lambda k: init(k, problem, workspace, num_rounds))(key)["params"]


def init_state(config: TrainConfig, params: PyTree) -> TrainState:
    """The state before the first step."""
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def teacher_forcing(config: LossConfig, progress: Float[Array, ""]):
    """The share of rounds that the teacher feeds back, linear over the run."""
    return config.forcing_start + progress * (config.forcing_end - config.forcing_start)


def make_train_step(config: TrainConfig):
    """The jitted step. It compiles once per (task, number of loops, batch shape)."""
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    loss = LOSSES[config.model.kind]
    run_key = jax.random.fold_in(jax.random.key(config.seed), TRAIN)

    @functools.partial(jax.jit, static_argnames=("task", "num_loops"), donate_argnums=0)
    def train_step(
        state: TrainState,
        batch: LoopedBatch | DecoderBatch,
        *,
        task: Task | Text,
        num_loops: int,
    ) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(run_key, state.step)
        forcing = teacher_forcing(config.loss, state.step / config.num_steps)
        gradient = jax.grad(loss, has_aux=True)
        grads, metrics = gradient(
            state.params,
            batch,
            key,
            forcing,
            task=task,
            num_loops=num_loops,
            model=config.model,
            loss=config.loss,
        )
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step

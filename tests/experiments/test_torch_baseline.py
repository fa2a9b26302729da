"""The PyTorch baseline computes what our models compute, so that times are comparable."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax import config as configs
from relay_jax import config_io
from relay_jax.data import loader
from relay_jax.data.buckets import open_buckets
from relay_jax.models.sharding import named_leaves
from relay_jax.training.objective import OBJECTIVES
from relay_jax.training.step import init_params, init_state, make_train_step

torch = pytest.importorskip("torch", reason="the PyTorch baseline needs torch")

from experiments.benchmarks import torch_baseline
from experiments.configs import paper, quickstart

LESS = {"dim": 32, "mlp_dim": 48, "num_heads": 4, "num_layers": 2, "dropout": 0.0}
CONFIGS = {
    "quickstart": (quickstart, "arithmetic/looped_aligned", {}),
    "quickstart_ar": (quickstart, "arithmetic/ar", {}),
    "paper": (paper, "arithmetic/looped_aligned", {}),
    "paper_ar": (paper, "arithmetic/ar", {"norm": "rms", "activation": "swiglu"}),
    "paper_lis": (paper, "lis/looped_aligned", {"input_injection": "feedback"}),
    "paper_edit_distance": (
        paper,
        "edit_distance/looped_aligned",
        {"qkv_bias": True, "activation": "relu"},
    ),
}


def small_config(name):
    file, run, changes = CONFIGS[name]
    values = file.get_config(run).to_dict()
    values["model"] |= LESS | changes
    values["data"]["batch_size"] = 4
    values["model"]["position"]["slope_reach"] = 5
    values["optimizer"] |= {"kind": "adamw", "warmup_share": 0.0}
    for bucket in values["data"]["buckets"].values():
        bucket["lengths"] = (1, 12 if bucket["task"] == "lis" else 3)
    config = config_io.build(configs.TrainConfig, values)
    buckets = [b for b in open_buckets(config) if b.num_loops > 1]
    return config, loader.step_at(0, buckets[:1], config)


def shaken(params):
    """Without zeros, which would hide errors."""
    rng = np.random.default_rng(0)

    def shake(leaf):
        return leaf + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)

    return jax.tree.map(shake, params)


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_equal_ours(name):
    config, step = small_config(name)
    params = shaken(init_params(config))
    work = {"task": step.task, "num_loops": step.num_loops}
    work |= {"model": config.model, "loss": config.loss}
    run = functools.partial(OBJECTIVES[config.model.kind], **work)
    (loss, _), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(
        params, step.batch, jax.random.key(0), jnp.ones(())
    )
    trainer = torch_baseline.Trainer(config, params)
    batch, scratchpad, weight = trainer.prepare(step)
    value = trainer.model(batch, scratchpad, 1.0, weight)
    value.backward()
    np.testing.assert_allclose(value.item(), loss, rtol=1e-4)
    ours, unused = named_leaves(grads), []
    for path, param in trainer.model.named_parameters():
        found = torch_baseline.translate(path, ours)
        if param.grad is None:
            unused.append(found)
            continue
        atol = 1e-4 * max(np.abs(found).max(), 1e-3)
        np.testing.assert_allclose(
            param.grad, found, rtol=1e-4, atol=atol, err_msg=path
        )
    assert not any(np.any(values) for values in unused)


@pytest.mark.parametrize("name", ("quickstart", "paper"))
def test_training_steps_equal_ours(name):
    config, work = small_config(name)
    optimizer = dataclasses.replace(config.optimizer, learning_rate=1e-2)
    config = dataclasses.replace(config, optimizer=optimizer, num_steps=8)
    params = init_params(config)
    trainer = torch_baseline.Trainer(config, params)
    step, state = make_train_step(config), init_state(config, params)
    for _ in range(6):
        state, metrics = step(
            state, work.batch, task=work.task, num_loops=work.num_loops
        )
        loss = trainer.step(*trainer.prepare(work))
        np.testing.assert_allclose(loss.item(), metrics["loss"], rtol=1e-3)


def test_unsupported_settings_are_named():
    config, _ = small_config("quickstart")
    model = dataclasses.replace(config.model, number_code="digits", num_kv_heads=2)
    with pytest.raises(
        ValueError, match="implement model.number_code='digits', model.num_"
    ):
        torch_baseline.check(dataclasses.replace(config, model=model))

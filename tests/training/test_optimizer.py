"""The optimizers: the schedule, the parameters that Muon updates, the average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import ModelConfig, OptimizerConfig, TrainConfig
from relay_jax.training.optimizer import make_optimizer, make_schedule, trained_params
from relay_jax.training.step import init_params

SMALL = {"num_layers": 2, "dim": 16, "num_heads": 2, "mlp_dim": 32, "num_numbers": 8}


def test_schedule_is_linear_with_warm_up():
    config = OptimizerConfig(learning_rate=2.0, warmup_share=0.1)
    schedule = make_schedule(config, 100)
    values = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
    assert values == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])
    flat = OptimizerConfig(learning_rate=2.0, warmup_share=0.1, constant_share=0.5)
    schedule = make_schedule(flat, 100)
    values = [float(schedule(step)) for step in (10, 60, 80, 100)]
    assert values == pytest.approx([2.0, 2.0, 1.0, 0.0])


def first_update(kind, params, grads):
    config = OptimizerConfig(
        kind=kind, learning_rate=1.0, warmup_share=0.0, weight_decay=0.0, clip_norm=1e9
    )
    optimizer = make_optimizer(config, 100)
    update = jax.jit(optimizer.update)
    _, state = update(grads, optimizer.init(params), params)  # warm-up: rate 0
    return update(grads, state, params)[0]


@pytest.mark.parametrize("kind", ["looped", "decoder"])
def test_muon_orthogonalises_the_kernels_of_layers_and_nothing_else(kind):
    params = init_params(TrainConfig(model=ModelConfig(kind=kind, **SMALL)))
    keys = iter(jax.random.split(jax.random.key(0), 100))
    grads = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), params)
    muon, adam = (first_update(k, params, grads) for k in ("muon", "adamw"))
    found = set()
    for path, update in jax.tree_util.tree_leaves_with_path(muon):
        names = [entry.key for entry in path]
        same = adam
        for name in names:
            same = same[name]
        if names[0].startswith("layer") and names[-1] == "kernel":
            found.add(names[-2])
            stacked = update if names[0] == "layers" else update[None]
            for matrix in stacked:
                matrix = np.asarray(matrix.reshape(matrix.shape[0], -1))
                values = np.linalg.svd(matrix, compute_uv=False)
                # All singular values are about as large: 0.2 sqrt(the longer side).
                size = 0.2 * np.sqrt(max(matrix.shape))
                assert np.all((0.5 * size < values) & (values < 1.4 * size))
        else:
            ratio = np.asarray(
                update / same
            )  # optax's AdamW has Nesterov momentum here
            assert 1.0 < ratio.min() and np.ptp(ratio) < 1e-3
    assert found == {"query", "key", "value", "out", "up", "down"}


def test_muon_decays_weights():
    params = {"layer_0": {"kernel": jnp.ones((4, 4))}, "words": jnp.ones((3, 4))}
    config = OptimizerConfig(kind="muon", learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(config, 100)
    zero = jax.tree.map(jnp.zeros_like, params)
    state = optimizer.init(params)
    _, state = optimizer.update(zero, state, params)
    updates, _ = optimizer.update(zero, state, params)
    for update in jax.tree.leaves(updates):
        np.testing.assert_allclose(update, -0.1 * 0.5, rtol=1e-5)


def test_the_average_is_over_the_last_share_of_the_steps():
    share, steps = 0.2, 400
    config = OptimizerConfig(learning_rate=0.1, average_share=share, b2=0.9)
    plain = OptimizerConfig(learning_rate=0.1, b2=0.9)
    params = {"words": jnp.zeros(3)}
    optimizer, without = make_optimizer(config, steps), make_optimizer(plain, steps)
    state, other, passed = optimizer.init(params), without.init(params), []
    update, update_without = jax.jit(optimizer.update), jax.jit(without.update)
    assert trained_params(params, other) is params
    for step in range(steps):
        grads = {"words": jnp.sin(jnp.arange(3.0) + step)}
        updates, state = update(grads, state, params)
        expected, other = update_without(grads, other, params)
        np.testing.assert_array_equal(updates["words"], expected["words"])
        params = {"words": params["words"] + updates["words"]}
        passed.append(np.asarray(params["words"]))
    # The weight of the parameters after step t rises as t to the power 1 / share - 1.
    weights, left = np.zeros(steps), 1.0
    for step in range(steps, 0, -1):
        rate = min(1.0, 1 / (share * step))
        weights[step - 1], left = left * rate, left * (1 - rate)
    assert weights.sum() == pytest.approx(1)
    assert weights[: steps // 2].sum() < 0.05 < weights[-2 * steps // 5 :].sum() - 0.8
    found = trained_params(params, state)["words"]
    np.testing.assert_allclose(found, weights @ np.array(passed), rtol=1e-4, atol=1e-6)

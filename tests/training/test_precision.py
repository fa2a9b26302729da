"""Training in bfloat16: compute, parameters, and the types that loops carry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.data import loader
from relay_jax.data.buckets import open_buckets
from relay_jax.training.step import init_params, init_state, make_train_step
from tests.training.runs import small

MODEL = {"num_layers": 1, "dim": 16, "num_heads": 2, "mlp_dim": 16, "num_numbers": 8}


def take_steps(config, num_steps):
    """The losses of some steps, and the parameters' types before and after them."""
    buckets = open_buckets(config)
    step, state = make_train_step(config), init_state(config, init_params(config))
    types, losses = [[x.dtype for x in jax.tree.leaves(state.params)]], []
    for now in (loader.step_at(i, buckets, config) for i in range(num_steps)):
        static = {"task": now.task, "num_loops": now.num_loops}
        state, metrics = step(state, now.batch, **static)
        losses.append(float(metrics["loss"]))
    types.append([x.dtype for x in jax.tree.leaves(state.params)])
    return losses, *types


@pytest.mark.parametrize("kind", ["hidden", "soft", "decoder"])
def test_parameters_of_bfloat16_train(kind):
    """The scan over loops carries one type, for every type of the parameters."""
    model = {
        "hidden": {"input_injection": "hidden"},
        "soft": {"input_injection": "feedback", "feedback": "soft"},
        "decoder": {"kind": "decoder"},
    }[kind]
    config = small(model=MODEL | model | {"param_dtype": "bfloat16"})
    losses, before, after = take_steps(config, 2)
    assert jnp.dtype("bfloat16") in before
    assert np.isfinite(losses).all()
    assert after == before


@pytest.mark.parametrize("kind", ["hidden", "feedback", "decoder"])
def test_bfloat16_computes_nearly_the_same_and_keeps_float32_parameters(kind):
    model = {"kind": "decoder"} if kind == "decoder" else {"input_injection": kind}
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = small(model=MODEL | model | {"dropout": 0.0, "dtype": dtype})
        losses[dtype], _, types = take_steps(config, 3)
        assert set(types) == {jnp.dtype("float32")}
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)

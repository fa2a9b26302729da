"""One training step: on any mesh, in any number of parts, it is the same step."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import tiny
from relay_jax import config as configs
from relay_jax import config_io
from relay_jax.config import MeshConfig
from relay_jax.data import loader
from relay_jax.data.buckets import open_buckets
from relay_jax.models.sharding import (
    make_mesh,
    named_leaves,
    param_shardings,
    shard_batch,
)
from relay_jax.training import step as steps
from relay_jax.training.step import init_params, init_state, make_train_step

MESHES = [(4, 1, 1), (1, 4, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2), (2, 2, 2)]
KINDS = [("looped", "adamw"), ("decoder", "muon")]
REST = [("looped", "muon"), ("decoder", "adamw")]


def config(kind, optimizer="adamw", **changes):
    values = tiny.get_config().to_dict()
    values["model"] |= {"num_layers": 1, "dim": 16, "mlp_dim": 32, "dropout": 0.1}
    if kind == "decoder":
        values["model"] |= {"kind": "decoder", "input_injection": "hidden"}
    values["model"] |= changes.pop("model", {})
    values["data"] |= {"batch_size": 16} | changes.pop("data", {})
    values["optimizer"] |= {"kind": optimizer, "average_share": 0.5}
    return config_io.build(configs.TrainConfig, values | changes)


def begin(settings, mesh):
    make = lambda: init_state(settings, init_params(settings))
    where = param_shardings(jax.eval_shape(make), mesh)
    return jax.jit(make, out_shardings=where)(), where


def run(settings, sizes=(1, 1, 1), num=3):
    """The first steps: losses, gradients' norms, and the state after them."""
    mesh, buckets = make_mesh(MeshConfig(*sizes)), open_buckets(settings)
    state, where = begin(settings, mesh)
    train_step, history = make_train_step(settings, where), []
    for now in (loader.step_at(i, buckets, settings) for i in range(num)):
        batch = shard_batch(now.batch, mesh, settings.data.batch_size)
        state, metrics = train_step(
            state, batch, task=now.task, num_loops=now.num_loops
        )
        history.append(jax.device_get(metrics))
    return history, state


@functools.cache
def alone(kind, optimizer, **changes):
    return run(config(kind, optimizer, **changes))


def near(one, other):
    for x, y in zip(one[0], other[0], strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_allclose(x[name], y[name], rtol=2e-5, atol=1e-7)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=5e-5), one[1], other[1]
    )


def marked(kinds, fast):
    every = [(*kind, sizes) for kind in kinds for sizes in MESHES]
    slow = pytest.mark.slow
    return [each if each in fast else pytest.param(*each, marks=slow) for each in every]


FAST = [(*kind, (2, 2, 2)) for kind in KINDS] + [("looped", "adamw", (4, 1, 1))]


@pytest.mark.parametrize("kind, optimizer, sizes", marked(KINDS + REST, FAST))
def test_every_mesh_trains_as_one_device_does(kind, optimizer, sizes):
    """Dropout too: its noise does not depend on where it is drawn."""
    near(run(config(kind, optimizer), sizes), alone(kind, optimizer))


@pytest.mark.parametrize("kind", ["looped", "decoder"])
def test_bfloat16_and_remat_train_alike_on_a_mesh(kind):
    model = {"dtype": "bfloat16", "remat": True}
    history, state = run(config(kind, model=model), (2, 2, 2))
    plain, _ = alone(kind, "adamw" if kind == "looped" else "muon")
    losses = [[x["loss"] for x in metrics] for metrics in (history, plain)]
    np.testing.assert_allclose(losses[0][:1], losses[1][:1], rtol=0.02)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_no_device_holds_a_whole_matrix(optimizer):
    """Parameters, moments and the average, after initialization and after a step."""
    settings = config("decoder", optimizer, model={"num_numbers": 7})  # 48 tokens
    _, state = run(settings, (2, 2, 2), num=1)
    for tree in (begin(settings, make_mesh(MeshConfig(2, 2, 2)))[0], state):
        parts = named_leaves(tree)
        matrices = [name for name, x in parts.items() if x.size >= 16 * 16]
        assert len(matrices) > 20
        for name in matrices:
            shard_size = parts[name].addressable_shards[0].data.size
            assert shard_size == parts[name].size // 4, name


def test_init_does_not_depend_on_the_mesh():
    one, _ = begin(config("looped"), make_mesh(MeshConfig()))
    for sizes in ((1, 8, 1), (2, 2, 2)):
        other, _ = begin(config("looped"), make_mesh(MeshConfig(*sizes)))
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    "kind, sizes",
    [
        ("looped", (2, 2, 1)),
        ("decoder", (1, 1, 1)),
        pytest.param("looped", (1, 1, 1), marks=pytest.mark.slow),
        pytest.param("decoder", (2, 2, 1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_accumulated_parts_equal_the_whole_batch(kind, sizes):
    """Without noise. The decoder's parts have different numbers of trained tokens."""
    quiet = {"dropout": 0.0}
    whole = run(config(kind, model=quiet))
    near(run(config(kind, model=quiet, data={"accumulate": 4}), sizes), whole)


def test_parts_are_weighted_by_their_trained_tokens(monkeypatch):
    """With equal weights for all parts the test above would fail."""
    monkeypatch.setattr(steps, "_num_trained", lambda batch: jnp.ones(()))
    quiet = {"dropout": 0.0}
    parts, _ = run(config("decoder", model=quiet, data={"accumulate": 4}), num=1)
    whole, _ = run(config("decoder", model=quiet), num=1)
    assert abs(parts[0]["loss"] / whole[0]["loss"] - 1) > 1e-4


def test_parts_draw_independent_noise():
    key, batch = jax.random.key(0), np.ones((4, 2), np.int32)
    draw = lambda part, key: (jax.random.uniform(key), {})
    parts = steps.DecoderBatch(batch, batch > 0)
    noise = {float(steps.accumulate(draw, parts, key, num)[0]) for num in (1, 2, 4)}
    assert len(noise) == 3


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_the_step_compiles_once(sizes, caplog):
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        run(config("decoder", data={"accumulate": 2}), sizes, num=3)
    assert caplog.text.count("Compiling jit(train_step)") == 1

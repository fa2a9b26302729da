"""The decoder and its cache: cached = uncached, causality, generation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import ModelConfig, PositionConfig, TrainConfig
from relay_jax.models.decoder import run_decoder, unstack_layers
from relay_jax.models.kv_cache import make_cache, write_cache
from relay_jax.training.step import init_params

ROPE = ModelConfig(
    kind="decoder", num_layers=2, dim=16, mlp_dim=32, num_heads=4, num_numbers=8
)
CONFIGS = {
    "rope": ROPE,
    "bias": dataclasses.replace(
        ROPE,
        position=PositionConfig(scheme="relative_bias", log_length_scaling=True),
    ),
    "llama": dataclasses.replace(
        ROPE, num_kv_heads=2, norm="rms", activation="swiglu", remat=True
    ),
}


@functools.cache
def make_params(model):
    """Parameters without zeros, which would hide what they do."""
    params = init_params(TrainConfig(model=model))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), params
    )


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, tokens, **inputs):
    return run_decoder(params, tokens, model=model, **inputs)


def prompts(num, width, seed=0):
    return np.random.default_rng(seed).integers(5, 49, size=(num, width))


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_uncached(name):
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    tokens = jnp.asarray(prompts(3, 9))
    whole, _ = apply(model, params, tokens)
    cache, parts = make_cache(model, 3, 12), []
    for start, stop in ((0, 4), (4, 8), (8, 9)):
        logits, new = apply(model, params, tokens[:, start:stop], cache=cache)
        cache = write_cache(cache, new)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-4)
    np.testing.assert_array_equal(cache.length, [9, 9, 9])


@pytest.mark.parametrize("name", CONFIGS)
def test_later_tokens_get_no_gradient_from_earlier_logits(name):
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    tokens = jnp.asarray(prompts(1, 6))
    embedded = params["words"]["words"]

    @jax.jit
    def logits(table):
        changed = params | {"words": {"words": table}}
        return apply(model, changed, tokens)[0][0].sum(axis=-1)

    gradients = jax.jit(jax.jacrev(logits))(embedded)
    for row, gradient in enumerate(gradients):
        seen = set(np.flatnonzero(np.abs(gradient).max(axis=1) > 0).tolist())
        assert seen == set(np.asarray(tokens)[0, : row + 1].tolist())


def test_write_cache_appends_the_accepted_positions():
    model = ROPE
    cache = make_cache(model, 2, 5)._replace(length=jnp.array([1, 3]))
    shape = (model.num_layers, 2, 3, 4, 4)
    values = jnp.broadcast_to(jnp.arange(1.0, 4.0)[None, None, :, None, None], shape)
    new = cache.key_values._replace(keys=values, values=values)
    accepted = jnp.array([[True, False, True], [False, True, False]])
    longer = write_cache(cache, new, accepted)
    keys = longer.key_values.keys[1, :, :, 0, 0]
    np.testing.assert_array_equal(keys, [[0, 1, 3, 0, 0], [0, 0, 0, 2, 0]])
    np.testing.assert_array_equal(longer.length, [3, 4])


@pytest.mark.parametrize("name", CONFIGS)
def test_unstacked_layers_compute_the_same(name):
    model, tokens = CONFIGS[name], jnp.asarray(prompts(3, 8))
    cache, results = make_cache(model, 3, 12), []
    for params in (make_params(model), unstack_layers(copy(make_params(model)))):
        logits, new = apply(model, params, tokens[:, :4], cache=cache)
        longer = write_cache(cache, new)
        more, _ = apply(model, params, tokens[:, 4:], cache=longer)
        results.append((logits, more, longer))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *results)


def copy(params):
    """`unstack_layers` deletes its argument."""
    return jax.tree.map(jnp.array, params)


def test_unstacking_frees_the_stack():
    params = copy(make_params(ROPE))
    stacked = jax.tree.leaves(params["layers"])
    unstacked = unstack_layers(params)
    assert all(leaf.is_deleted() for leaf in stacked)
    assert sorted(unstacked) == ["head", "layers_0", "layers_1", "norm", "words"]

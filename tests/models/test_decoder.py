"""The decoder and its cache: cached = uncached, causality, generation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import ModelConfig, PositionConfig, TrainConfig
from relay_jax.models.decoder import Decoder, run_decoder, unstack_layers
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


def make_params(model):
    params = init_params(TrainConfig(model=model))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return jax.tree.unflatten(tree, noisy)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, tokens, **rest):
    return Decoder(model).apply({"params": params}, tokens, **rest)


def prompts(num, width, seed=0):
    return np.random.default_rng(seed).integers(5, 49, size=(num, width))


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_uncached(name):
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    tokens = jnp.asarray(prompts(3, 9))
    whole, _ = apply(model, params, tokens)
    cache, parts = make_cache(model, 3, 12), []
    for start, stop in ((0, 4), (4, 5), (5, 9)):
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
        touched = set(np.flatnonzero(np.abs(gradient).max(axis=1) > 0).tolist())
        assert touched == set(np.asarray(tokens)[0, : row + 1].tolist())


def test_write_cache_keeps_what_is_marked():
    model = ROPE
    cache = make_cache(model, 2, 5)._replace(length=jnp.array([1, 3]))
    shape = (model.num_layers, 2, 3, 4, 4)
    values = jnp.broadcast_to(jnp.arange(1.0, 4.0)[None, None, :, None, None], shape)
    new = cache.key_values._replace(keys=values, values=values)
    accepted = jnp.array([[True, False, True], [False, True, False]])
    updated = write_cache(cache, new, accepted)
    keys = updated.key_values.keys[1, :, :, 0, 0]
    np.testing.assert_array_equal(keys, [[0, 1, 3, 0, 0], [0, 0, 0, 2, 0]])
    np.testing.assert_array_equal(updated.length, [3, 4])


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_by_themselves_say_what_the_stack_says(name):
    model, tokens = CONFIGS[name], jnp.asarray(prompts(2, 9))
    cache = make_cache(model, 2, 12)
    wanted = []
    for params in (make_params(model), unstack_layers(make_params(model))):
        logits, new = run_decoder(params, tokens[:, :5], model=model, cache=cache)
        filled = write_cache(cache, new)
        more, _ = run_decoder(params, tokens[:, 5:], model=model, cache=filled)
        wanted.append((logits, more, filled))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *wanted)


def test_unstacking_frees_the_stack():
    params = make_params(ROPE)
    stacked = jax.tree.leaves(params["layers"])
    apart = unstack_layers(params)
    assert all(leaf.is_deleted() for leaf in stacked)
    assert sorted(apart) == ["head", "layers_0", "layers_1", "norm", "words"]

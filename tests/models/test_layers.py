"""Positions, masks and number codes, each against a literal or a slow reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import ModelConfig, PositionConfig
from relay_jax.models.embeddings import Embedding, number_waves
from relay_jax.models.layers import Attention
from relay_jax.models.positions import RelativeBias, apply_rope, directional_mask
from relay_jax.vocabulary import FIRST_NUMBER

MODEL = ModelConfig(dim=16, num_heads=4, mlp_dim=32, dropout=0.0)


def attend(model, x, positions, mask, params=None, seed=0):
    attention = Attention(model)
    if params is None:
        params = attention.init(jax.random.key(seed), x, positions, mask, None)
    return attention.apply(params, x, positions, mask, None)[0], params


def slow_attention(model, params, x, positions, mask):
    """Attention by loops over heads, queries and keys."""
    p, scheme_config = params["params"], model.position
    size = model.dim // model.num_heads
    groups = model.num_kv_heads or model.num_heads

    def project(name):
        return np.einsum("nd,dhe->nhe", x, np.asarray(p[name]["kernel"]))

    q, k, v = project("query"), project("key"), project("value")
    if scheme_config.scheme == "rope":
        at = jnp.asarray(positions)[None]
        q = np.asarray(apply_rope(jnp.asarray(q)[None], at, scheme_config))[0]
        k = np.asarray(apply_rope(jnp.asarray(k)[None], at, scheme_config))[0]
    out = np.zeros((len(x), model.num_heads, size))
    for h in range(model.num_heads):
        for i in range(len(x)):
            g = h // (model.num_heads // groups)
            left = h < model.num_heads // 2
            keys = [j for j in range(len(x)) if mask[i, j]]
            seen = max(len(keys), 2)  # on both sides, in either direction of the head
            if scheme_config.directional_heads:
                side = -1 if left else 1
                keys = [j for j in keys if side * (positions[j] - positions[i]) >= 0]
            scores = np.array([q[i, h] @ k[j, g] for j in keys]) / np.sqrt(size)
            if scheme_config.log_length_scaling:
                scores = scores * np.log(seen) / np.log(scheme_config.reference_length)
            if scheme_config.scheme == "relative_bias":
                table = (
                    np.asarray(p["relative_bias"]["table"]) * scheme_config.bias_scale
                )
                clip = scheme_config.max_distance
                clipped = [
                    np.clip(positions[j] - positions[i], -clip, clip) for j in keys
                ]
                scores = scores + table[np.array(clipped) + clip, h]
                if scheme_config.distance_slopes:
                    slopes = (
                        np.asarray(p["relative_bias"]["slopes"])
                        * scheme_config.bias_scale
                    )
                    step = np.array([positions[j] - positions[i] for j in keys])
                    if scheme_config.slope_reach:
                        step = np.clip(
                            step, -scheme_config.slope_reach, scheme_config.slope_reach
                        )
                    scores = scores - slopes[(step > 0).astype(int), h] * np.abs(step)
            weights = np.exp(scores - scores.max())
            out[i, h] = (weights / weights.sum()) @ np.stack([v[j, g] for j in keys])
    return out.reshape(len(x), -1) @ np.asarray(p["out"]["kernel"])


@pytest.mark.parametrize("directional", [False, True])
@pytest.mark.parametrize("log_length", [False, True])
@pytest.mark.parametrize("scheme", ["rope", "relative_bias"])
@pytest.mark.parametrize("kv_heads", [0, 2])
def test_attention_matches_a_slow_reference(scheme, log_length, directional, kv_heads):
    scheme_config = PositionConfig(
        scheme=scheme,
        max_distance=2,
        log_length_scaling=log_length,
        directional_heads=directional,
        distance_slopes=log_length,
        slope_reach=6 if directional else 0,
    )
    model = dataclasses.replace(MODEL, position=scheme_config, num_kv_heads=kv_heads)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 16)).astype(np.float32)
    positions = np.array([0, 1, 2, 4, 5, 9, 10])
    mask = (rng.random((7, 7)) < 0.6) | np.eye(7, dtype=bool)
    arguments = [jnp.asarray(part)[None] for part in (x, positions, mask)]
    _, params = attend(model, *arguments)
    params = jax.tree.map(
        lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), params
    )
    fast, _ = attend(model, *arguments, params)
    slow = slow_attention(model, params, x, positions, mask)
    np.testing.assert_allclose(fast[0], slow, atol=2e-4)


def test_a_row_without_keys_stays_finite():
    x = jnp.ones((1, 3, 16))
    mask = jnp.zeros((1, 3, 3), bool)
    out, _ = attend(MODEL, x, jnp.arange(3)[None], mask)
    assert np.isfinite(out).all()


def test_rotation_depends_on_distance_only():
    x, y = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    rope = PositionConfig(rope_base=100.0)

    def product(i, j):
        positioned = (x, i), (y, j)
        turned = [
            apply_rope(jnp.asarray(a), jnp.array([[p]]), rope) for a, p in positioned
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    assert product(3, 5) == pytest.approx(product(13, 15), abs=1e-4)
    assert product(3, 5) != pytest.approx(product(5, 3), abs=1e-2)


def test_relative_bias_is_clipped_and_scaled():
    scheme_config = PositionConfig(
        scheme="relative_bias", max_distance=1, bias_scale=8.0
    )
    table = jnp.array([[1.0], [2.0], [3.0]])  # left or further, here, right or further
    at = jnp.arange(4)[None]
    bias = RelativeBias(1, scheme_config).apply({"params": {"table": table}}, at, at)
    expected = [[2, 3, 3, 3], [1, 2, 3, 3], [1, 1, 2, 3], [1, 1, 1, 2]]
    np.testing.assert_array_equal(bias[0, 0], 8.0 * np.array(expected))


def test_directional_mask_drawn():
    seen = directional_mask(2, jnp.arange(3)[None], jnp.arange(3)[None])
    np.testing.assert_array_equal(seen[0, 0], np.tril(np.ones((3, 3), bool)))
    np.testing.assert_array_equal(seen[0, 1], np.triu(np.ones((3, 3), bool)))


def test_digits_share_their_position():
    model = dataclasses.replace(MODEL, number_code="digits", num_numbers=256)
    params = Embedding(model).init(jax.random.key(0))
    table = np.asarray(Embedding(model).apply(params))
    digits = np.asarray(params["params"]["digits"])
    assert table.shape == (FIRST_NUMBER + 256, 16)
    expected = digits[0, 7] + digits[1, 4] + digits[2, 2]
    np.testing.assert_allclose(table[FIRST_NUMBER + 247], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("token", ("words", "words")),
        ("digits", ("digits", "digits")),
        ("waves", ("waves", "waves")),
        ("ordinal", ("waves", "digits")),
    ],
)
def test_what_input_and_output_know_of_a_number(code, parts):
    model = dataclasses.replace(MODEL, number_code=code, num_numbers=30)
    for is_output, part in zip((False, True), parts):
        params = Embedding(model, output=is_output).init(jax.random.key(0))["params"]
        assert set(params) == {"words", part}


@pytest.mark.parametrize("is_output", [False, True])
def test_with_waves_a_sum_is_a_rotation(is_output):
    """What distinguishes v + 3 from v is the same for every v."""
    model = dataclasses.replace(MODEL, number_code="waves", num_numbers=60, dim=64)
    embedding = Embedding(model, output=is_output)
    params = embedding.init(jax.random.key(0))
    numbers = embedding.apply(params)[FIRST_NUMBER:]
    waves = number_waves(60)
    np.testing.assert_allclose(numbers, waves @ params["params"]["waves"], rtol=1e-5)
    sines, cosines = np.split(np.asarray(waves, np.float64), 2, axis=1)
    phases = cosines + 1j * sines
    turns = phases[3:] / phases[:-3]
    np.testing.assert_allclose(turns, np.broadcast_to(turns[0], turns.shape), atol=1e-4)
    assert turns[0] == pytest.approx(np.exp(2j * np.pi * 3 / wavelengths(60)), abs=1e-4)
    size = np.mean(np.sum(np.asarray(numbers) ** 2, axis=1))
    assert size == pytest.approx(1.0 if is_output else 64.0, rel=0.4)


def wavelengths(num_numbers):
    return 4.0 * num_numbers ** (np.arange(16) / 15)

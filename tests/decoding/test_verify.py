"""Choosing and accepting: against sorting, a walk, and the exact distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import SamplingConfig
from relay_jax.decoding.decode import request_keys
from relay_jax.decoding.draft_tree import END, DraftSequences, make_tree
from relay_jax.decoding.verify import accept, filter_logits, sample


def by_sorting(logits, sampling):
    """The tokens that may be sampled, in the usual formulation."""
    logits = logits.astype(np.float64) / sampling.temperature
    order = np.argsort(-logits)
    allowed = order[: sampling.top_k] if sampling.top_k else order
    shares = np.exp(logits[allowed] - logits[allowed].max())
    before = np.cumsum(shares / shares.sum()) - shares / shares.sum()
    return set(allowed[(before < sampling.top_p) | (sampling.top_p == 1)])


@pytest.mark.parametrize("top_k", [0, 1, 7])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_filters_agree_with_sorting(top_k, top_p, temperature):
    sampling = SamplingConfig(temperature, top_p, top_k)
    logits = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32) * 3
    logits[:, 7] = 0.0  # where positive and negative numbers meet
    allowed = np.isfinite(filter_logits(jnp.asarray(logits), sampling))
    for row, mask in zip(logits, allowed):
        assert set(np.flatnonzero(mask)) == by_sorting(row, sampling)


@pytest.mark.parametrize("largest", [1.0, -1.0, 2e-38])
def test_neighbouring_numbers_are_told_apart(largest):
    below = np.nextafter(np.float32(largest), np.float32(-9))
    row = jnp.asarray([below, largest, below, -5.0], jnp.float32)
    for sampling in (SamplingConfig(1.0, 1.0, 1), SamplingConfig(1.0, 0.1)):
        allowed = np.isfinite(filter_logits(row[None], sampling))
        assert allowed.tolist() == [[False, True, False, False]]


def test_rounding_never_filters_everything():
    logits = jnp.asarray([[0.0] * 50_000])
    assert np.isfinite(filter_logits(logits, SamplingConfig(1.0, 0.9999999))).all()


def choose_one(logits, sampling, keys, positions):
    """The token at each of `positions`: [b] logits rows, one node each."""
    none = jnp.zeros((len(positions), 1), jnp.int32)
    return sample(logits[:, None], sampling, keys, positions, none, 0).token[:, 0]


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_samples_have_the_exact_distribution(top_p):
    """Chi-square over 40,000 draws at different positions and of different requests."""
    sampling = SamplingConfig(0.7, top_p)
    logits = jnp.asarray([1.0, 0.2, -0.5, 2.0, 0.0, -2.0])
    exact = np.asarray(jax.nn.softmax(filter_logits(logits, sampling)))
    counts = np.zeros(6)
    run = jax.jit(choose_one, static_argnums=1)
    for seed in range(20):
        keys = request_keys(seed, 2000)
        rows = jnp.broadcast_to(logits, (2000, 6))
        counts += np.bincount(run(rows, sampling, keys, jnp.arange(2000)), minlength=6)
    expected = exact * counts.sum()
    live = expected > 0
    assert counts[~live].sum() == 0
    statistic = np.sum((counts - expected)[live] ** 2 / expected[live])
    assert statistic < 25  # 5 degrees of freedom: one in ten thousand


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_probability_of_a_token_is_the_models_own(temperature):
    """Whatever the temperature is."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 9)), jnp.float32)
    depth = jnp.asarray([[0, 1, 1, 2]] * 3)
    found = sample(
        *(logits, SamplingConfig(temperature, 0.9), request_keys(0, 3)),
        *(jnp.arange(3), depth, 2),
    )
    weight = np.exp(np.asarray(logits, np.float64))
    share = weight / weight.sum(axis=-1, keepdims=True)
    expected = np.take_along_axis(share, np.asarray(found.token)[..., None], axis=-1)
    np.testing.assert_allclose(found.probability, expected[..., 0], rtol=1e-5)


def test_noise_depends_on_request_and_position_alone():
    """A node d below the root at position p draws like a root at position p + d."""
    sampling = SamplingConfig(1.0)
    keys = request_keys(0, 2)
    logits = jnp.zeros((2, 3, 40))
    depth = jnp.asarray([[0, 1, 2], [0, 1, 1]])
    sampled = sample(logits, sampling, keys, jnp.asarray([5, 9]), depth, 2).token
    alone = [
        choose_one(logits[:, 0], sampling, keys, jnp.asarray([5, 9]) + below)
        for below in (0, 1, 2)
    ]
    np.testing.assert_array_equal(sampled[0], [alone[0][0], alone[1][0], alone[2][0]])
    np.testing.assert_array_equal(sampled[1], [alone[0][1], alone[1][1], alone[1][1]])
    assert len(set(np.asarray(sampled).ravel().tolist())) > 2


def walk(tree, token, row):
    """The branch that the model predicts, node by node."""
    path = [0]
    while True:
        following = [
            i + 1
            for i in range(tree.tokens.shape[1])
            if tree.valid[row, i]
            and tree.parent[row, i] == path[-1]
            and tree.tokens[row, i] == token[row, path[-1]]
        ]
        if not following:
            return path
        path += following


@pytest.mark.parametrize("seed", range(6))
def test_the_accepted_branch_is_that_of_a_walk(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 3, (16, 10, 5))
    tokens = np.where(np.arange(5) < rng.integers(0, 6, (16, 10, 1)), tokens, END)
    weight = rng.integers(0, 3, (16, 10))
    tree = make_tree(DraftSequences(jnp.asarray(tokens), jnp.asarray(weight)), 12)
    token = jnp.asarray(rng.integers(0, 3, (16, 13)))
    path, count = accept(tree, token, 5)
    lengths = set()
    for b in range(16):
        expected = walk(tree, token, b)
        assert count[b] == len(expected)
        np.testing.assert_array_equal(path[b, : count[b]], expected)
        lengths.add(len(expected))
    assert len(lengths) > 2


@pytest.mark.parametrize(
    "values",
    [
        *({"temperature": value} for value in (-1.0, float("nan"), float("inf"))),
        *({"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"top_k": 2**31}),
    ],
)
def test_bad_sampling(values):
    with pytest.raises(ValueError, match="must be 0 or more and finite, top_p above"):
        SamplingConfig(**values)


@pytest.mark.parametrize(
    "low",
    [
        *({"temperature": value} for value in (1e-29, 1e-37, 1e-38, 1e-46, 5e-324)),
        *({"temperature": 1.0, "top_p": value} for value in (1e-30, 1e-40, 1e-300)),
        *({"temperature": 1.0, "min_p": 1.0}, {"temperature": 1.0, "top_k": 1}),
        {"temperature": 1e-20, "min_p": 1e-300},
    ],
)
def test_the_lowest_settings_are_greedy(low):
    """Without overflow, by which all tokens would be infinitely unlikely."""
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 1e3, (4, 50)), jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.arange(4))
    found = choose_one(logits, SamplingConfig(**low), keys, jnp.arange(4))
    np.testing.assert_array_equal(found, jnp.argmax(logits, axis=-1))


@pytest.mark.parametrize("min_p", [0.05, 0.3, 0.999])
def test_min_p_is_that_of_transformers(min_p):
    generation = pytest.importorskip("transformers.generation", reason="the oracle")
    torch = pytest.importorskip("torch", reason="the oracle")
    logits = np.random.default_rng(1).normal(0, 2, (8, 40)).astype(np.float32)
    sampling = SamplingConfig(0.7, 0.9, 20, min_p)
    found = filter_logits(jnp.asarray(logits), sampling)
    warpers = generation.LogitsProcessorList(
        [
            generation.TemperatureLogitsWarper(0.7),
            generation.TopKLogitsWarper(20),
            generation.TopPLogitsWarper(0.9),
            generation.MinPLogitsWarper(min_p),
        ]
    )
    expected = warpers(None, torch.tensor(logits)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 8 <= np.isfinite(found).sum() < 8 * 20

"""Another JAX model behind the loop: a second Flax decoder, written for this test.

It shares nothing with ours: learned absolute positions, attention without heads,
entries laid out by layer, a cache that is a dictionary. Its oracle reads the whole text
again for every token.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import DraftConfig, SamplingConfig
from relay_jax.decoding import decode
from relay_jax.decoding.target_model import TargetModel
from relay_jax.decoding.verify import sample
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import make_drafter
from relay_jax.rest.index import load_index

VOCAB, WIDTH, DEPTH, ROOM, NEW = 24, 16, 2, 40, 20
PROMPTS = [[5, 6, 7, 5, 6], [9], [3, 4, 3, 4, 3, 4, 3, 4, 3, 4]]
SIZES = {"num_draft": 12, "depth": 5, "num_store_rows": 8, "num_text_rows": 8}
DRAFTS = [
    DraftConfig(name, num_paper_rows=8, num_paths=6, **SIZES)
    for name in ("prompt_lookup", "rest_paper", "rest", "token_recycling", "mixed")
]


class OtherDecoder(nn.Module):
    @nn.compact
    def __call__(self, tokens, positions, mask, past):
        """Logits and each layer's keys and values, `[b, q, d]`.

        Args:
          mask: `[b, q, q]`.
          past: each layer's keys and values `[b, m, d]`, and which exist, `[b, m]`.
        """
        x = nn.Embed(VOCAB, WIDTH, name="tokens")(tokens)
        x += nn.Embed(ROOM, WIDTH, name="positions")(positions)
        layers, exists = past
        q = tokens.shape[1]
        seen = jnp.broadcast_to(exists[:, None], (len(x), q, exists.shape[1]))
        seen = jnp.concatenate([seen, mask], axis=2)
        entries = []
        for old_keys, old_values in layers:
            y = nn.LayerNorm()(x)
            query, keys, values = jnp.split(nn.Dense(3 * WIDTH)(y), 3, axis=-1)
            entries.append((keys, values))
            keys = jnp.concatenate([old_keys, keys], axis=1)
            values = jnp.concatenate([old_values, values], axis=1)
            score = jnp.einsum("bqd,bkd->bqk", query, keys) / WIDTH**0.5
            weights = jax.nn.softmax(jnp.where(seen, score, -1e30), axis=-1)
            x += nn.Dense(WIDTH)(jnp.einsum("bqk,bkd->bqd", weights, values))
            x += nn.Dense(WIDTH)(nn.relu(nn.Dense(32)(nn.LayerNorm()(x))))
        return nn.Dense(VOCAB, name="head")(nn.LayerNorm()(x)), tuple(entries)


def apply(params, tokens, positions, mask, cache):
    size = cache["layers"][0][0].shape[1]
    exists = jnp.arange(size)[None] < cache["length"][:, None]
    past = cache["layers"], exists
    return OtherDecoder().apply({"params": params}, tokens, positions, mask, past)


def init_cache(batch_size, size):
    empty = jnp.zeros((batch_size, size, WIDTH))
    length = jnp.zeros(batch_size, jnp.int32)
    return {"layers": tuple((empty, empty) for _ in range(DEPTH)), "length": length}


def write_cache(cache, entries, nodes, mask):
    size = cache["layers"][0][0].shape[1]
    row = jnp.arange(len(mask))[:, None]
    slot = cache["length"][:, None] + jnp.cumsum(mask, axis=1) - 1
    slot = jnp.where(mask, slot, size)  # outside: dropped

    def append(old, new):
        return old.at[row, slot].set(new[row, nodes], mode="drop")

    layers = jax.tree.map(append, cache["layers"], entries)
    return {"layers": layers, "length": cache["length"] + mask.sum(axis=1)}


OTHER = TargetModel(apply, init_cache, write_cache, VOCAB)


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def params():
    tokens = jnp.zeros((1, 1), jnp.int32)
    past = init_cache(1, 1)["layers"], jnp.zeros((1, 1), bool)
    mask = jnp.ones((1, 1, 1), bool)
    fresh = OtherDecoder().init(jax.random.key(0), tokens, tokens, mask, past)["params"]
    leaves, structure = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return jax.tree.unflatten(structure, noisy)


def generate_naively(params, sampling):
    """One text at a time, the whole of it read again for every token."""

    @jax.jit
    def next_token(tokens, length, key):
        positions = jnp.arange(ROOM)[None]
        mask = jnp.tril(jnp.ones((1, ROOM, ROOM), bool))
        past = init_cache(1, 1)["layers"], jnp.zeros((1, 1), bool)
        logits, _ = OtherDecoder().apply(
            {"params": params}, tokens, positions, mask, past
        )
        last = logits[:, length - 1][:, None]
        depth = jnp.zeros((1, 1), jnp.int32)
        chosen = sample(last, sampling, key[None], length[None], depth, 0)
        return chosen.token[0, 0]

    texts, keys = [], decode.request_keys(0, len(PROMPTS))
    for prompt, key in zip(PROMPTS, keys):
        tokens = np.zeros((1, ROOM), np.int32)
        tokens[0, : len(prompt)] = prompt
        for length in range(len(prompt), len(prompt) + NEW):
            tokens[0, length] = next_token(tokens, jnp.int32(length), key)
        texts.append(tokens[0, : len(prompt) + NEW])
    return texts


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(0.7, 0.9)])
def test_another_model_is_decoded_exactly(params, sampling, tmp_path):
    """With and without drafts, greedy and sampled; drafts from its texts are right."""
    expected = generate_naively(params, sampling)
    vocab_info = {"tokenizer": "test", "vocab_size": VOCAB, "eos_id": 0}
    index = load_index(build_datastore(expected, tmp_path / "store", **vocab_info))
    settings = {"model": OTHER, "max_new_tokens": NEW, "sampling": sampling}
    plain = decode.decode(params, PROMPTS, **settings)
    for draft in [None, *DRAFTS]:
        state = plain
        if draft is not None:
            drafter = make_drafter(draft)
            state = decode.decode(params, PROMPTS, drafter, index, **settings)
        for row, text in zip(np.asarray(state.tokens), expected):
            np.testing.assert_array_equal(row[: len(text)], text)
        if draft is not None and draft.drafter.startswith("rest"):
            assert state.steps.sum() < 0.5 * plain.steps.sum()
    assert len(np.unique(np.concatenate(expected))) > 4


def test_an_equal_config_is_not_compiled_again(params):
    """A drafter is a static argument: made once per config, it is the same object."""
    settings = {"model": OTHER, "max_new_tokens": NEW}
    config = {"drafter": "prompt_lookup", **SIZES}
    one = make_drafter(DraftConfig(**config))
    decode.decode(params, PROMPTS, one, **settings)
    programs = decode.advance._cache_size(), decode.read_prompts._cache_size()
    again = make_drafter(DraftConfig(**config))
    assert again is one and hash(again) == hash(one)
    decode.decode(params, PROMPTS, again, **settings)
    assert programs == (
        decode.advance._cache_size(),
        decode.read_prompts._cache_size(),
    )

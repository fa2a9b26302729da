"""What a decode step has to read, and that the real loop is timed."""

import dataclasses

import jax
import pytest

from relay_jax.config import DraftConfig, ModelConfig
from relay_jax.decoding import decode
from relay_jax.models.decoder import unstack_layers
from relay_jax.rest import roofline
from relay_jax.rest.drafters import PLAIN

MODEL = ModelConfig(
    kind="decoder",
    num_layers=2,
    dim=16,
    num_heads=4,
    num_kv_heads=2,
    mlp_dim=32,
    norm="rms",
    activation="swiglu",
    text_vocab_size=64,
)


def test_read_bytes_by_hand():
    attention = 16 * 16 + 2 * 16 * 8 + 16 * 16  # query, key and value, out
    layer = attention + 3 * 16 * 32 + 2 * 16
    cache = 2 * 2 * 10 * 2 * 4  # keys and values, layers, tokens, groups, width
    numbers = 2 * layer + 16 + 64 * 16 + 1 * 16 + cache  # norm, head, one token
    params = roofline.random_params(MODEL)
    assert roofline.read_bytes(params, MODEL, 10, 1) == 4 * numbers
    apart = unstack_layers(roofline.random_params(MODEL))
    assert roofline.read_bytes(apart, MODEL, 10, 1) == 4 * numbers
    more = roofline.read_bytes(params, MODEL, 10, 3)  # two more tokens, two more caches
    assert more == 4 * (numbers + 2 * 16 + 2 * cache)


def test_tied_embeddings_are_read_as_the_head():
    tied = dataclasses.replace(MODEL, tie_embeddings=True)
    both = [
        roofline.read_bytes(roofline.random_params(m), m, 0, 1) for m in (MODEL, tied)
    ]
    assert both[0] - both[1] == 4 * 16  # the one token that is read besides


@pytest.mark.parametrize("draft", [PLAIN, DraftConfig("prompt_lookup", 4, depth=2)])
def test_steps_are_those_of_the_loop(draft, monkeypatch):
    taken = []
    advance = decode.advance

    def watched(*arguments, **rest):
        state = advance(*arguments, **rest)
        taken.append((int(state.steps[0]), bool(state.done.any())))
        return state

    monkeypatch.setattr(decode, "advance", watched)
    params = roofline.random_params(MODEL)
    work = {"text_length": 8, "batch_size": 2, "num_steps": 3}
    found = roofline.time_steps(params, MODEL, draft, None, **work)
    assert 0 < found.min <= found.seconds <= found.max
    steps = [3 * i for i in range(1, roofline.ROUNDS + 2)]
    assert taken == [
        (step, step == steps[-1] and not draft.num_draft) for step in steps
    ]


def test_bandwidth_is_a_rate():
    assert 1e8 < roofline.bandwidth(2**22) < 1e14


def test_random_params_are_those_of_the_shape():
    shapes = jax.tree.map(lambda x: x.shape, roofline.random_params(MODEL))
    assert shapes["layers"]["attention"]["key"]["kernel"] == (2, 16, 2, 4)

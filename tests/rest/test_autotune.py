"""The choice of the tree size, by simulated times: no test measures anything."""

import dataclasses

import jax
import numpy as np
import pytest

from relay_jax.config import DraftConfig, ModelConfig, TrainConfig
from relay_jax.decoding import decode, result
from relay_jax.rest import autotune
from relay_jax.rest.autotune import choose
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import make_drafter
from relay_jax.rest.index import load_index
from relay_jax.rest.replay import replay
from relay_jax.training.step import init_params

SIZES = [0, 4, 16]
DRAFT = DraftConfig(num_store_rows=8, num_text_rows=8, num_paper_rows=8, depth=4)
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=12
)


@pytest.mark.parametrize(
    ("seconds", "rates", "size"),
    [
        ({0: 1.0, 4: 1.1, 16: 1.2}, {0: 1.0, 4: 2.0, 16: 3.0}, 16),
        ({0: 1.0, 4: 1.1, 16: 2.0}, {0: 1.0, 4: 2.0, 16: 3.0}, 4),
        ({0: 1.0, 4: 2.1, 16: 3.1}, {0: 1.0, 4: 2.0, 16: 3.0}, 0),
        ({0: 1.0, 4: 1.0, 16: 9.0}, {0: 1.0, 4: 1.04, 16: 3.0}, 0),  # too little
        ({0: 1.0}, {0: 1.0}, 0),
    ],
)
def test_the_size_with_the_highest_rate_is_chosen(seconds, rates, size):
    fit = choose(DRAFT, seconds, rates)
    assert fit.draft.num_draft == size
    assert fit.draft.drafter == ("rest" if size else "none")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "store"
    texts = np.random.default_rng(0).integers(2, 12, (40, 30))
    texts[:, 5:] = np.arange(25) % 9 + 2  # half of it is predictable
    vocab = {"tokenizer": "test", "vocab_size": 12, "eos_id": 1}
    return build_datastore(list(texts), path, **vocab)


def test_tokens_a_step_are_those_of_decoding(store):
    """Counted at once for all sizes; the same as replaying the text with each."""
    index = load_index(store)
    rng = np.random.default_rng(1)
    truth = rng.integers(2, 12, (3, 60)).astype(np.int32)
    truth[:, 20:50] = np.arange(30) % 9 + 2
    first, length = np.array([4, 9, 7], np.int32), np.array([55, 60, 30], np.int32)
    truth[np.arange(60)[None] >= length[:, None]] = 0
    replays = {
        size: replay(
            *(truth, first, length, index),
            drafter=make_drafter(autotune.resize(DRAFT, size)),
        )
        for size in SIZES
    }
    rates = autotune.tokens_per_step(replays[4], first, index, DRAFT, SIZES)
    for size, state in replays.items():
        assert rates[size] == pytest.approx(result.tokens_per_step(state, first))
    assert rates[16] > rates[4] > 1.3 > rates[0] == 1.0


@pytest.mark.parametrize(
    "cost, drafter", [(0.01, "rest"), (1.0, "rest"), (0.01, "token_recycling")]
)
def test_tuning_decodes_a_prefix_and_selects_a_size(
    store, tmp_path, monkeypatch, cost, drafter
):
    """A step costs 1 + C x cost: cheap drafts are used, expensive ones are not."""
    monkeypatch.setattr(
        autotune, "_time_steps", lambda *args: {c: 1.0 + c * cost for c in args[-1]}
    )
    monkeypatch.setattr(autotune, "PROBE", 24)
    params, index = init_params(TrainConfig(model=MODEL)), load_index(store)
    tokens, length = decode.pad_prompts([[2, 3], [4, 5, 6]], 12, 4)
    settings = {"model": MODEL, "max_new_tokens": 40}
    draft = dataclasses.replace(DRAFT, drafter=drafter)
    state = decode.start(
        *(params, tokens, length, decode.request_keys(0, 2)),
        make_drafter(autotune.resize(draft, 1)),
        **settings,
    )
    state, fit = autotune.autotune(
        *(params, state, index), model=MODEL, draft=draft, cache_file=tmp_path / "c"
    )
    assert int(state.steps[0]) == 24 and not state.done.any()
    assert fit.seconds[4] == 1.0 + 4 * cost and fit.rates[0] == 1.0
    drafted = fit.draft.num_draft > 0
    assert drafted == (cost < 1.0)
    assert ("draft nodes" if drafted else "without drafts") in fit.summary()
    drafter = make_drafter(fit.draft)
    state = decode.advance(params, state, drafter, index, model=MODEL)
    plain = decode.decode(params, [[2, 3], [4, 5, 6]], width=4, **settings)
    np.testing.assert_array_equal(state.tokens, plain.tokens)


def test_drafts_pay_only_if_they_save_enough_steps():
    seconds, rates = {0: 1.0, 4: 1.5}, {0: 1.0, 4: 2.0}
    fit = autotune.TunedDraft(DraftConfig(num_draft=4), seconds, rates)
    assert fit.pays(new_tokens=16, steps=10) and not fit.pays(14, 10)


def test_a_step_is_timed_on_a_copy(store):
    params, index = init_params(TrainConfig(model=MODEL)), load_index(store)
    tokens, length = decode.pad_prompts([[2, 3]], 12)
    state = decode.start(
        *(params, tokens, length, decode.request_keys(0, 1)),
        model=MODEL,
        max_new_tokens=20,
    )
    settings = {"model": MODEL, "sampling": decode.GREEDY, "eos_id": (7, 8)}
    spent = autotune._time_steps(params, state, index, DRAFT, settings, [0, 4])
    assert list(spent) == [0, 4] and all(0 < seconds < 60 for seconds in spent.values())
    assert not any(x.is_deleted() for x in jax.tree.leaves(state))
    compiled = decode.advance._cache_size()
    decode.decode(
        *(params, [[2, 3]], make_drafter(autotune.resize(DRAFT, 4)), index),
        model=MODEL,
        max_new_tokens=20,
        eos_id=(7, 8),
    )
    assert decode.advance._cache_size() == compiled  # the very same program


def test_the_time_of_a_call_is_taken_off(store, monkeypatch):
    """On a simulated clock: a call costs 5 s, a step 1 s plain and 3 s with 4 nodes."""
    params, index, now = init_params(TrainConfig(model=MODEL)), load_index(store), [0.0]
    tokens, length = decode.pad_prompts([[2, 3]], 12)
    keys = decode.request_keys(0, 1)
    settings = {"model": MODEL, "max_new_tokens": 100}
    state = decode.start(params, tokens, length, keys, **settings)

    def advance(params, state, drafter, index, *, num_steps, **rest):
        now[0] += 5 + num_steps * (3 if drafter.max_depth else 1)
        return state._replace(steps=state.steps + num_steps)

    monkeypatch.setattr(decode, "advance", advance)
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: now[0])
    settings = {"model": MODEL, "sampling": decode.GREEDY, "eos_id": decode.NO_EOS}
    spent = autotune._time_steps(params, state, index, DRAFT, settings, [0, 4])
    assert spent == {0: 1.0, 4: 3.0}

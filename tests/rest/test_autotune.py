"""The times of decode steps: measured on copies, on a simulated clock, and used."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from relay_jax.config import DraftConfig, ModelConfig, TrainConfig
from relay_jax.decoding import decode, tree_size
from relay_jax.models.decoder import unstack_layers
from relay_jax.rest import autotune
from relay_jax.rest.autotune import DRAFTING
from relay_jax.rest.drafters import AUTOTUNE, PLAIN, resize
from relay_jax.training.step import init_params

MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=12
)
DRAFT = DraftConfig("prompt_lookup", num_draft=AUTOTUNE, num_text_rows=8, depth=4)


@pytest.fixture
def begun(monkeypatch):
    """Parameters, drafter and state after a prompt has been read; sizes 0 and 4."""
    monkeypatch.setattr(tree_size, "SIZES", (0, 4))
    params = init_params(TrainConfig(model=MODEL))
    drafter = autotune.make_drafter(DRAFT, params, MODEL)
    tokens, length = decode.pad_prompts([[2, 3]], 12)
    state = decode.start(
        *(params, tokens, length, decode.request_keys(0, 1), drafter),
        model=MODEL,
        max_new_tokens=100,
    )
    return params, drafter, state


def test_unstacked_layers_are_compiled_one_by_one():
    deep = dataclasses.replace(MODEL, num_layers=30)
    stacked = init_params(TrainConfig(model=deep))
    assert autotune.make_drafter(DRAFT, stacked, deep).sizes == tree_size.SIZES[:7]
    params = unstack_layers(stacked)
    assert autotune.make_drafter(DRAFT, params, deep).sizes == (0, 4, 16)
    fixed = autotune.make_drafter(resize(DRAFT, 8), params, deep)
    assert fixed.sizes == autotune.make_drafter(PLAIN, params, deep).sizes == ()


def test_steps_are_timed_on_copies(begun, tmp_path):
    params, drafter, state = begun
    settings = {"model": MODEL, "eos_id": (7, 8), "sampling": decode.GREEDY}
    times = autotune.measure_times(
        *(params, state, drafter),
        draft=DRAFT,
        cache_file=tmp_path / "times.json",
        **settings,
    )
    assert times is not None and times.drafted.shape == (2,)
    assert 0 < times.plain < times.drafted[0] < 60 and 0 < times.drafted[1] < 60
    assert not any(x.is_deleted() for x in jax.tree.leaves(state))
    compiled = decode.advance._cache_size()
    timed = autotune.set_times(state, times)
    after = decode.advance(params, timed, drafter, None, **settings, num_steps=3)
    assert decode.advance._cache_size() == compiled  # the very same program
    assert not times.drafted.is_deleted()
    assert after.sizing.seconds.drafted.tolist() == times.drafted.tolist()
    assert autotune.draft_sizes(after, DRAFT, drafter).keys() <= {0, 4}
    assert autotune.set_times(after, None) is after


def test_the_time_of_a_call_is_taken_off(begun, monkeypatch, caplog):
    """A call costs 5 s; a step 1 s plain, 1.5 s with a draft, 3 s with 4 nodes."""
    params, drafter, state = begun
    now = [0.0]

    def advance(params, state, drafter, index, *, num_steps, **rest):
        sizing = state.sizing
        with_draft = 3 if int(sizing.forced) else 1.5
        now[0] += 5 + num_steps * (1 if int(sizing.pause) else with_draft)
        return state._replace(steps=state.steps + num_steps)

    monkeypatch.setattr(decode, "advance", advance)
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: now[0])
    settings = {"model": MODEL, "sampling": decode.GREEDY, "eos_id": decode.NO_EOS}
    spent = autotune._time_steps(params, state, drafter, None, settings)
    assert spent == pytest.approx({DRAFTING: 0.5, 0: 1.0, 4: 3.0})
    assert "measuring how long decode steps take, in at most 10 sec" in caplog.text


def test_measuring_takes_ten_seconds_at_most(begun, monkeypatch):
    """Also where a step takes half a second; a call without steps takes no time."""
    params, drafter, state = begun
    now = [0.0]

    def advance(params, state, drafter, index, *, num_steps, **rest):
        now[0] += num_steps * (1.0 if int(state.sizing.forced) else 0.5)
        return state._replace(steps=state.steps + num_steps)

    monkeypatch.setattr(decode, "advance", advance)
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: now[0])
    settings = {"model": MODEL, "sampling": decode.GREEDY, "eos_id": decode.NO_EOS}
    autotune._time_steps(params, state, drafter, None, settings)
    assert 3 <= now[0] <= 10


def test_the_times_decide(begun):
    """With the same drafts: where a node is cheap they are used, else they are not."""
    params, drafter, state = begun
    used = []
    for node in (0.01, 9.0):
        copy = jax.tree.map(jnp.copy, state)
        times = tree_size.StepSeconds(jnp.array([1.0, 1.0 + 4 * node]), jnp.array(1.0))
        after = decode.advance(
            params, autotune.set_times(copy, times), drafter, None, model=MODEL
        )
        used.append(autotune.draft_sizes(after, DRAFT, drafter).get(4, 0))
    assert used[0] > 10 and used[1] == 0


def test_mean_sizes():
    assert autotune.mean_size({0: 10, 4: 20, 16: 10}) == 6.0
    assert autotune.mean_size({}) == 0.0

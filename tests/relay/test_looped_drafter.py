"""The looped model's drafts never change the text; correct ones are accepted whole."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig, TrainConfig
from relay_jax.data.alignment import flatten, right_align
from relay_jax.decoding import decode
from relay_jax.decoding.drafter import DecodedText
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.predict import Predictions
from relay_jax.relay import looped_drafter
from relay_jax.rest import drafters, looped_draft
from relay_jax.rest.drafters import make_drafter
from relay_jax.rest.looped_draft import LoopedDraft
from relay_jax.rest.replay import replay
from relay_jax.tasks import make_task
from relay_jax.training import checkpoint
from relay_jax.training.step import init_params
from relay_jax.vocabulary import EOS

DECODER = ModelConfig(
    kind="decoder", num_layers=1, dim=16, num_heads=2, mlp_dim=32, num_numbers=8
)
DRAFT = DraftConfig("looped", num_draft=16, depth=12, num_text_rows=4)
NEW = 30


def plain(prompts, **rest):
    params = init_params(TrainConfig(DECODER))
    work = {"model": DECODER, "max_new_tokens": NEW} | rest
    return np.asarray(decode.decode(params, prompts, **work).tokens)


def guessed(prompts, texts, **rest):
    width = max(map(len, texts))
    tokens = np.stack([np.pad(text, (0, width - len(text))) for text in texts])
    index = LoopedDraft(
        tokens.astype(np.int32), np.array([len(t) for t in texts], np.int32)
    )
    params = init_params(TrainConfig(DECODER))
    work = {"model": DECODER, "max_new_tokens": NEW} | rest
    return decode.decode(params, prompts, make_drafter(DRAFT), index, **work)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["right", "wrong", "shifted", "cut", "foreign"])
def test_no_draft_changes_a_text(kind, temperature):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 40, size) for size in (3, 7, 5)]
    sampling = {"sampling": SamplingConfig(temperature)}
    wanted = plain(prompts, **sampling)
    whole = [row[: len(p) + NEW] for row, p in zip(wanted, prompts)]
    prompt_drafts = {
        "right": whole,
        "wrong": [np.where(rng.random(len(w)) < 0.2, 7, w) for w in whole],
        "shifted": [np.insert(w, len(p) + 4, [9, 9]) for w, p in zip(whole, prompts)],
        "cut": [w[: len(p) + 2] for w, p in zip(whole, prompts)],
        "foreign": [rng.integers(5, 40, 20) for _ in prompts],
    }[kind]
    state = guessed(prompts, prompt_drafts, **sampling)
    np.testing.assert_array_equal(np.asarray(state.tokens), wanted)


def test_a_correct_draft_is_accepted_thirteen_tokens_at_a_time():
    prompts = [np.array([5, 9, 11]), np.array([20, 6, 7, 8])]
    rng = np.random.default_rng(1)
    # A text without repetitions: only the looped model's draft can match it.
    texts = np.stack([rng.permutation(np.arange(5, 45))[:29] for _ in prompts])
    full = np.full(2, 29, np.int32)
    state = replay(
        jnp.asarray(texts.astype(np.int32)),
        jnp.full(2, 3, jnp.int32),
        jnp.asarray(full),
        LoopedDraft(texts.astype(np.int32), full),
        drafter=make_drafter(DRAFT),
    )
    np.testing.assert_array_equal(np.asarray(state.tokens), texts)
    assert state.steps.tolist() == [2, 2]  # 26 tokens, 13 in each


def test_drafting_resumes_after_an_error():
    rng = np.random.default_rng(2)
    text = rng.permutation(np.arange(5, 48))[:40].astype(np.int32)
    predicted = np.delete(text, [14, 15, 16])  # three tokens are left out
    state = replay(
        jnp.asarray(text[None]),
        jnp.array([3]),
        jnp.array([40]),
        LoopedDraft(predicted[None], np.array([37], np.int32)),
        drafter=make_drafter(DRAFT),
    )
    # Up to the gap (11 tokens and one), two plain ones, then 23 in two steps.
    assert int(state.steps[0]) <= 6


def test_the_nearest_of_equal_matches_has_the_largest_weight():
    tokens = jnp.array([[6, 7, 8, 6, 7, 9, 6, 7, 10, 11]], jnp.int32)
    index = LoopedDraft(tokens, jnp.array([10]))
    for length, first in ((2, 8), (5, 9), (8, 10)):
        text = DecodedText(jnp.zeros((1, 9), jnp.int32), jnp.array([length]))
        ends = text.tokens.at[0, length - 2 : length].set(jnp.array([6, 7]))
        text = text._replace(tokens=ends)
        rows = looped_draft.propose(index, (), text, DRAFT)
        best = int(jnp.argmax(rows.weight[0, : looped_draft.NUM_ROWS]))
        assert int(rows.tokens[0, best, 0]) == first


def test_the_drafter_needs_a_looped_model():
    with pytest.raises(
        ValueError, match="'looped' needs a looped draft, and there is none"
    ):
        drafters.check(DRAFT, None)
    with pytest.raises(
        ValueError, match="'rest' needs a datastore, and there is a loo"
    ):
        index = LoopedDraft(np.zeros((1, 2), np.int32), np.ones(1, np.int32))
        drafters.check(dataclasses.replace(DRAFT, drafter="rest"), index)


LOOPED = ModelConfig(
    num_layers=1,
    dim=16,
    num_heads=2,
    mlp_dim=32,
    num_numbers=8,
    input_injection="feedback",
)


@pytest.mark.parametrize("name", ["arithmetic", "lis"])
def test_true_rounds_give_the_true_text(name, monkeypatch):
    options = {"modulus": 5} if name == "arithmetic" else {"group": 3}
    task = make_task(name, options)
    problems = accuracy.test_problems(task, [4, 6], 5, 0, final=True)
    truth = Predictions(problems.answer, right_align(problems.rounds, 24), np.ones(10))
    monkeypatch.setattr(looped_drafter, "predict_looped", lambda *_: truth)
    drafted = looped_drafter.draft_texts({}, LOOPED, task, problems, 4)
    text, _ = flatten(problems, task)
    longest = int((text != 0).sum(axis=1).max())
    assert np.array_equal(drafted.tokens, text[:, :longest])
    assert all(row[n - 1] == EOS for row, n in zip(drafted.tokens, drafted.length))


def test_compared_drafters_decode_the_same_texts():
    looped, decoder = TrainConfig(LOOPED), TrainConfig(DECODER)
    pair = (looped, init_params(looped)), (decoder, init_params(decoder))
    task = make_task("arithmetic", {"modulus": 5})
    lines = looped_drafter.compare(
        *(*pair, task, 3, [DRAFT]), count=4, batch_size=2, repeats=1
    )
    assert [line["drafter"] for line in lines] == ["none", "looped"]
    assert lines[0]["looped_seconds"] == 0 < lines[1]["looped_seconds"]
    assert all(line["same_texts"] == 1 for line in lines)
    assert lines[1]["overall_speed_up"] < lines[1]["speed_up"] + 1e-3


@pytest.mark.parametrize(
    "looped, decoder, message",
    [
        (
            TrainConfig(DECODER),
            TrainConfig(DECODER),
            "has a decoder model, expected a looped model",
        ),
        (
            TrainConfig(LOOPED),
            TrainConfig(LOOPED),
            "has a looped model, expected a decoder model",
        ),
        (
            TrainConfig(LOOPED),
            TrainConfig(dataclasses.replace(DECODER, num_numbers=9)),
            "A has a vocabulary with 8 numbers, B one with 9;",
        ),
    ],
)
def test_models_that_do_not_match_are_errors(looped, decoder, message):
    with pytest.raises(ValueError, match=message):
        looped_drafter.check_pair(looped, decoder, ("A", "B"))


@pytest.mark.parametrize(
    ("pair", "name", "length"),
    [
        (("quickstart/looped_aligned", "quickstart/ar_relay"), "arithmetic", 8),
        pytest.param(
            ("quickstart_lis/looped_aligned", "quickstart_lis/ar"),
            "lis",
            10,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_shipped_pairs_accept_many_tokens_per_step(pair, name, length):
    looped, decoder = (
        checkpoint.load_params(f"experiments/checkpoints/{each}") for each in pair
    )
    looped_drafter.check_pair(looped[0], decoder[0], pair)
    task = make_task(name, decoder[0].evaluation.options[name])
    draft = DraftConfig("looped", num_draft=64, depth=48)
    size = {"count": 4, "batch_size": 4, "repeats": 1}
    plain, guessed = looped_drafter.compare(
        looped, decoder, task, length, [draft], **size
    )
    assert plain["M"] == 1 and guessed["M"] > 8
    assert guessed["same_texts"] == 1

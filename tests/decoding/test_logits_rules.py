"""Penalties and bans: transformers' processors are the oracle, at every node of a tree."""

import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import SamplingConfig
from relay_jax.decoding.draft_tree import DraftSequences, make_tree
from relay_jax.decoding.logits_rules import apply_rules, node_texts
from relay_jax.decoding.state import first_state
from relay_jax.logits_config import LogitsRules

torch = pytest.importorskip("torch", reason="torch is the oracle")
process = pytest.importorskip("transformers.generation", reason="it is the oracle")

VOCAB, ROOM, PROMPT, NODES = 7, 24, 4, 14  # few tokens: many repeats
ENDS = (1, 5)
CASES = {
    "nothing": LogitsRules(),
    "penalty": LogitsRules(repetition_penalty=1.3),
    "reward": LogitsRules(repetition_penalty=0.7),
    "unigrams": LogitsRules(no_repeat_ngram_size=1),
    "bigrams": LogitsRules(no_repeat_ngram_size=2),
    "trigrams": LogitsRules(no_repeat_ngram_size=3),
    "long": LogitsRules(no_repeat_ngram_size=6),
    "longer than texts": LogitsRules(no_repeat_ngram_size=99),
    "minimum": LogitsRules(min_new_tokens=6),
    "suppressed": LogitsRules(suppress_tokens=(0, 6, 3, 400)),
    "all": LogitsRules(1.1, 3, 8, (2,)),
}


def their_logits(logits, text, rules):
    """`logits` after the processors that transformers' `generate` would take."""
    processors = process.LogitsProcessorList()
    if rules.repetition_penalty != 1:
        penalty = process.RepetitionPenaltyLogitsProcessor(rules.repetition_penalty)
        processors.append(penalty)
    if rules.no_repeat_ngram_size:
        ngrams = process.NoRepeatNGramLogitsProcessor(rules.no_repeat_ngram_size)
        processors.append(ngrams)
    if rules.min_new_tokens:
        processors.append(
            process.MinNewTokensLengthLogitsProcessor(
                PROMPT, rules.min_new_tokens, list(ENDS)
            )
        )
    if rules.suppress_tokens:
        banned = list(rules.suppress_tokens)
        processors.append(process.SuppressTokensLogitsProcessor(banned))
    return processors(torch.tensor(text)[None], torch.tensor(logits)[None])[0].numpy()


@pytest.mark.parametrize("name", CASES)
def test_every_node_sees_the_text_up_to_it_as_in_transformers(name):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (3, ROOM))
    length = np.array([4, 9, 15])
    tokens[np.arange(ROOM)[None] >= length[:, None]] = 0
    tokens[0, 2:4] = tokens[0, 0:2]  # a bigram right before the root
    tokens[2, :15] = np.resize([2, 3, 4, 5, 6], 15)
    prompts = np.full(3, PROMPT)
    state = first_state(*map(jnp.asarray, (tokens, prompts, length)), (), (), ())
    state = state._replace(length=jnp.asarray(length))
    drafts = jnp.asarray(rng.integers(0, VOCAB, (3, 3, 6)))
    tree = make_tree(DraftSequences(drafts, jnp.ones((3, 3), jnp.int32)), NODES)
    logits = rng.normal(0, 3, (3, NODES + 1, VOCAB)).astype(np.float32)
    found = apply_rules(
        jnp.asarray(logits), node_texts(state, tree), CASES[name], jnp.asarray(ENDS)
    )
    assert np.any(np.asarray(tree.depth) > 3) and np.asarray(tree.valid).all()
    node_tokens = np.pad(np.asarray(tree.tokens), ((0, 0), (1, 0)))
    for row, node in np.ndindex(3, NODES + 1):
        branch = np.flatnonzero(tree.ancestors[row, node])[1:]  # ascending, no root
        text = [*tokens[row, : length[row]], *node_tokens[row, branch]]
        expected = their_logits(logits[row, node], text, CASES[name])
        np.testing.assert_allclose(found[row, node], expected, rtol=1e-6)
    changed = np.asarray(found) != logits
    assert changed.any() == (name not in ("nothing", "longer than texts"))


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        *(
            (
                LogitsRules,
                {"repetition_penalty": value},
                "repetition_penalty must be 1e",
            )
            for value in (0.0, -1.0, float("nan"), 1e300, 1e-300)
        ),
        (
            LogitsRules,
            {"no_repeat_ngram_size": -1},
            "no_repeat_ngram_size must be 0 to",
        ),
        (
            LogitsRules,
            {"min_new_tokens": 2**31},
            "min_new_tokens must be .* 2147483648",
        ),
        (
            LogitsRules,
            {"suppress_tokens": (3, -1)},
            "suppress_tokens must be .* got -1",
        ),
        (SamplingConfig, {"min_p": 1.5}, "min_p must be 0 to 1, got 1.5"),
        (SamplingConfig, {"min_p": float("nan")}, "min_p must be 0 to 1, got nan"),
    ],
)
def test_values_out_of_range(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)

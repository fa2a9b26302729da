"""The adjacency table, against dictionaries and plain loops."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import DraftConfig, ModelConfig, TrainConfig
from relay_jax.decoding import decode
from relay_jax.decoding.draft_tree import END
from relay_jax.decoding.drafter import DecodedText, without_drafts
from relay_jax.models.decoder import Decoder
from relay_jax.rest import token_recycling
from relay_jax.rest.drafters import make_drafter
from relay_jax.rest.token_recycling import AdjacencyTable
from relay_jax.training.step import init_params

VOCAB = 20
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=VOCAB
)
DRAFT = DraftConfig(
    "token_recycling", num_draft=12, num_candidates=3, num_paths=5, path_depth=4
)


DRAFT_PATHS = jax.jit(
    token_recycling.draft_paths,
    static_argnames=("num_paths", "depth", "weight", "power"),
)


def drawn_table(rng, vocab_size=VOCAB, num=3):
    """Some tokens have few known successors, some none."""
    tokens = np.argsort(rng.random((vocab_size, vocab_size)), axis=1)[:, :num]
    chance = -np.sort(-rng.dirichlet(np.ones(num + 1), vocab_size)[:, :num], axis=1)
    known = np.arange(num) < rng.integers(0, num + 2, (vocab_size, 1))
    tokens, chance = np.where(known, tokens, END), np.where(known, chance, 0.0)
    return AdjacencyTable(
        jnp.asarray(tokens, jnp.int32), jnp.asarray(chance, jnp.float32)
    )


def params_of(scale=1.0):
    params = init_params(TrainConfig(model=MODEL))
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return jax.tree.unflatten(shape, noisy)


def test_the_likeliest_tokens_come_first():
    logits = np.random.default_rng(0).normal(size=(2, 3, VOCAB)).astype(np.float32)
    candidates = token_recycling.top_candidates(jnp.asarray(logits), 4)
    order = np.argsort(-logits, axis=-1)[..., :4]
    share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_array_equal(candidates.tokens, order)
    wanted = np.take_along_axis(share, order, axis=-1)
    np.testing.assert_allclose(candidates.chance, wanted, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_last_update_of_an_entry_stays(seed):
    """A dictionary that is updated position by position, at each one text by text."""
    rng = np.random.default_rng(seed)
    table = drawn_table(rng)
    entries = {
        token_id: tuple(np.asarray(part[token_id]) for part in table)
        for token_id in range(20)
    }
    predecessors = rng.integers(0, 6, (3, 9))
    tokens, chance = rng.integers(0, VOCAB, (3, 9, 3)), rng.random((3, 9, 3))
    counts = rng.random((3, 9)) < 0.7
    for column, text in itertools.product(range(9), range(3)):
        if counts[text, column]:
            entries[predecessors[text, column]] = (
                tokens[text, column],
                chance[text, column],
            )
    candidates = AdjacencyTable(
        jnp.asarray(tokens, jnp.int32), jnp.asarray(chance, jnp.float32)
    )
    update_table = jax.jit(token_recycling.update)
    updated = update_table(
        table, jnp.asarray(predecessors, jnp.int32), candidates, jnp.asarray(counts)
    )
    for token_id, (tokens, chance) in entries.items():
        np.testing.assert_array_equal(updated.tokens[token_id], tokens)
        np.testing.assert_allclose(updated.chance[token_id], chance, rtol=1e-6)


def likely_paths(table, root, num_paths, depth):
    """Path -> chance: the likeliest of each depth, one token longer than the last."""
    found, beam = {}, {(): 1.0}
    for _ in range(depth):
        longer = {}
        for path, chance in beam.items():
            token_id = path[-1] if path else root
            for token, share in zip(
                table.tokens[token_id].tolist(), table.chance[token_id]
            ):
                if token != END:
                    longer[*path, token] = np.float32(chance) * np.float32(share)
        entries = sorted(longer, key=longer.__getitem__, reverse=True)[:num_paths]
        beam = {path: longer[path] for path in entries}
        found |= beam
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_node_weighs_the_chance_of_its_path(seed):
    rng = np.random.default_rng(seed)
    table, root = drawn_table(rng), rng.integers(0, VOCAB, 4)
    roots = jnp.asarray(root, jnp.int32)
    rows = DRAFT_PATHS(table, roots, num_paths=5, depth=4, weight=10_000)
    host = AdjacencyTable(*map(np.asarray, table))
    for text, token_id in enumerate(root):
        weight = collections.Counter()
        assert np.asarray(rows.weight[text]).min() >= 0
        for row, share_of_row in zip(
            rows.tokens[text].tolist(), rows.weight[text].tolist()
        ):
            candidates = tuple(token for token in row if token != END)
            for end in range(1, len(candidates) + 1):
                weight[candidates[:end]] += share_of_row
        wanted = {
            path: int(np.float32(chance) * 10_000)
            for path, chance in likely_paths(host, int(token_id), 5, 4).items()
        }
        assert +weight == {
            path: share_of_row for path, share_of_row in wanted.items() if share_of_row
        }


def test_the_drawn_rows():
    """the: cat .5 (sat .5, ran .25), dog .25."""
    the, cat, dog, sat, ran = range(5)
    tokens = [[cat, dog], [sat, ran], [END, END], [END, END], [END, END]]
    chance = [[0.5, 0.25], [0.5, 0.25], [0, 0], [0, 0], [0, 0]]
    table = AdjacencyTable(jnp.array(tokens, jnp.int32), jnp.array(chance))
    how = {"num_paths": 4, "depth": 2}

    def candidates(**rest):
        rows = DRAFT_PATHS(table, jnp.array([the]), **how, **rest)
        return {
            tuple(t for t in row if t != END): weight
            for row, weight in zip(rows.tokens[0].tolist(), rows.weight[0].tolist())
            if weight
        }

    # 8 for the cat, of which 4 and 2 with what it does.
    rows = {(cat,): 2, (dog,): 4, (cat, sat): 4, (cat, ran): 2}
    assert candidates(weight=16) == rows
    # Roots of the chances: .71 for the cat, of which .50 and .35 leave nothing.
    rows = {(dog,): 50, (cat, sat): 50, (cat, ran): 35}
    assert candidates(weight=101, power=0.5) == rows


@pytest.mark.parametrize("drafts", [False, True])
def test_the_table_holds_what_the_model_predicted_after_each_token(drafts):
    """Of prompt and text; the oracle reads the whole text at once. Without drafts, a
    token's last occurrence counts; else one of its occurrences, or a rejected draft."""
    params, prompt = params_of(0.3), np.arange(2, 12) % 7
    drafter = make_drafter(DRAFT)
    state = decode.decode(
        *(params, [prompt], drafter if drafts else without_drafts(drafter)),
        model=MODEL,
        max_new_tokens=12,
        drafter_state=token_recycling.empty_table(VOCAB, 3),
    )
    table = state.drafter_state
    logits = Decoder(MODEL).apply({"params": params}, state.tokens)[0]
    candidates = token_recycling.top_candidates(logits, 3)
    text = np.asarray(state.tokens[0, :-1])
    last = {token_id: column for column, token_id in enumerate(text.tolist())}
    for token_id, column in last.items():
        if not drafts:
            np.testing.assert_array_equal(
                *(table.tokens[token_id], candidates.tokens[0, column])
            )
            np.testing.assert_allclose(
                *(table.chance[token_id], candidates.chance[0, column]), rtol=1e-3
            )
        assert table.tokens[token_id, 0] != END
    if not drafts:
        known = np.flatnonzero(table.tokens[:, 0] != END)
        assert set(known.tolist()) == set(last)


def test_a_table_may_be_carried_from_text_to_text():
    params, prompts = params_of(), [[2, 3, 4], [5, 6]]
    settings = {"model": MODEL, "max_new_tokens": 30, "drafter": make_drafter(DRAFT)}
    cold = decode.decode(params, prompts, **settings)
    table = cold.drafter_state
    warm = decode.decode(params, prompts, drafter_state=table, **settings)
    np.testing.assert_array_equal(cold.tokens, warm.tokens)
    assert warm.steps.sum() < cold.steps.sum()
    assert not table.tokens.is_deleted()


def test_other_drafters_carry_no_table():
    state = decode.decode(params_of(), [[2, 3]], model=MODEL, max_new_tokens=2)
    assert state.drafter_state == ()
    assert make_drafter(DraftConfig("rest")).init(VOCAB) == ()


def test_without_logits_there_is_nothing_to_recycle():
    text = DecodedText(jnp.ones((1, 4), jnp.int32), jnp.array([3]))
    with pytest.raises(
        ValueError, match="'token_recycling' drafts from the model's own l"
    ):
        make_drafter(DRAFT).draft(None, (), text)

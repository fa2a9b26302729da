"""Texts that were finished since a datastore was built: drafted from at once, and merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import DraftConfig, MeshConfig, ModelConfig, TrainConfig
from relay_jax.decoding import decode
from relay_jax.decoding.draft_tree import END
from relay_jax.decoding.drafter import DecodedText
from relay_jax.models.sharding import make_mesh
from relay_jax.rest.build import build_datastore, extend_datastore
from relay_jax.rest.datastore import open_datastore
from relay_jax.rest.datastore_drafter import propose_recent
from relay_jax.rest.drafters import PLAIN, make_drafter
from relay_jax.rest.index import HostIndex, add_recent, load_index
from relay_jax.rest.retrieval import last_tokens
from relay_jax.training.step import init_params

VOCAB, EOS = 40, 1
VOCABULARY = {"tokenizer": "test", "vocab_size": VOCAB, "eos_id": EOS}
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=VOCAB
)
DRAFT = DraftConfig("rest", num_draft=16, num_store_rows=16, num_text_rows=8, depth=6)
PROMPTS = [[2, 3, 4], [7, 8]]


@pytest.fixture
def store(tmp_path):
    texts = list(np.random.default_rng(0).integers(2, VOCAB, (10, 20)))
    return build_datastore(texts, tmp_path / "store", **VOCABULARY)


def run(index=None, draft=PLAIN):
    params = init_params(TrainConfig(model=MODEL))
    settings = {"model": MODEL, "max_new_tokens": 24}
    return decode.decode(params, PROMPTS, make_drafter(draft), index, **settings)


@pytest.mark.parametrize(
    "location, name, max_steps",
    [("device", "mixed", 16), ("mesh", "rest", 12), ("host", "rest", 12)],
)
def test_a_finished_text_is_drafted_when_it_is_asked_for_again(
    store, location, name, max_steps, caplog
):
    loaded = {
        "device": lambda: load_index(store),
        "mesh": lambda: load_index(store, make_mesh(MeshConfig(data=0))),
        "host": lambda: HostIndex(store),
    }[location]()
    draft = DraftConfig(**vars(DRAFT) | {"drafter": name})
    plain, live = run(), add_recent(loaded, EOS, 100)
    before = run(live, draft)
    for row, size in zip(np.asarray(plain.tokens), plain.length):
        live = live.append(row[:size])
    with jax.log_compiles():
        after = run(live, draft)
    assert "Compiling jit(advance)" not in caplog.text
    for state in (before, after):
        np.testing.assert_array_equal(state.tokens, plain.tokens)
    # 24 tokens, up to seven a step, and not beyond what ends a text; of a mix, other
    # nodes take part of the tree.
    assert after.steps.sum() <= max_steps < before.steps.sum()


def test_only_the_last_texts_stay_and_drafts_stop_at_their_end(store):
    live = add_recent(load_index(store), EOS, 8)
    live = live.append(np.array([5, 6, 7, 8]))
    np.testing.assert_array_equal(live.recent, [-2, -2, -2, 5, 6, 7, 8, EOS])
    live = live.append(np.array([9, 10, 11, EOS]))
    np.testing.assert_array_equal(live.recent, [6, 7, 8, EOS, 9, 10, 11, EOS])
    query = last_tokens(jnp.array([[2, 6, 7, 0]]), jnp.array([3]))
    rows = propose_recent(live.recent, live.eos_id, query, DRAFT)
    best = int(np.argmax(rows.weight[0]))
    assert rows.tokens[0, best].tolist() == [8, EOS, END, END, END, END]
    assert rows.weight[0, best] == DRAFT.store_weights[1]
    assert np.count_nonzero(rows.weight) == 1  # without a match, nothing


def test_a_store_is_extended_while_it_is_open(store):
    old = load_index(store)
    texts = list(np.random.default_rng(1).integers(2, VOCAB, (4, 15)))
    more = extend_datastore(store.path, texts)
    assert (len(store.shards), len(more.shards)) == (1, 2)
    assert more.num_documents == 14
    assert more.num_tokens == store.num_tokens + 4 * 16
    again = open_datastore(store.path, verify=True)
    assert (
        again.checksums == more.checksums and again.checksums[0] == store.checksums[0]
    )
    whole = np.concatenate([tokens for tokens, _ in again.shards])
    np.testing.assert_array_equal(
        whole[store.num_tokens :], np.concatenate([[*text, EOS] for text in texts])
    )
    # An open index is unchanged; a new one finds the new texts too.
    ends = np.zeros((1, 8), np.int32)
    ends[0, :6] = texts[2][:6]
    text = DecodedText(jnp.asarray(ends), jnp.array([6]))
    before = make_drafter(DRAFT).draft(old, (), text)
    after = make_drafter(DRAFT).draft(load_index(again), (), text)
    assert after.tokens[0, 0] == texts[2][6] and after.depth.max() == 6
    assert before.tokens[0, 0] != texts[2][6]
    same = make_drafter(DRAFT).draft(HostIndex(store), (), text)
    np.testing.assert_array_equal(same.tokens, before.tokens)
    with pytest.raises(ValueError, match="is not a datastore"):
        extend_datastore(store.path.parent, texts)
    with pytest.raises(ValueError, match="shard_tokens must be 1.*, got 0"):
        extend_datastore(store.path, texts, shard_tokens=0)
    with pytest.raises(ValueError, match="token id 40"):
        extend_datastore(store.path, [np.array([40])])
    assert open_datastore(store.path).num_documents == 14


def test_nothing_is_added_by_no_documents(store):
    assert extend_datastore(store.path, []).checksums == store.checksums

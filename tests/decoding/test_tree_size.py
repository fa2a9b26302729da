"""The choice of the draft tree's size, and that no text depends on it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig, TrainConfig
from relay_jax.decoding import acceptance, decode, tree_size
from relay_jax.decoding.drafter import DecodedText
from relay_jax.decoding.target_model import TargetModel
from relay_jax.decoding.tree_size import FREE, StepSeconds
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import AUTOTUNE, make_drafter
from relay_jax.rest.index import load_index
from relay_jax.rest.replay import replay
from relay_jax.training.step import init_params

VOCAB, DEEP = 12, 33  # layers: sizes 0, 4 and 16
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=VOCAB
)
CONFIG = TrainConfig(model=MODEL)
DRAFT = DraftConfig(
    "rest", num_draft=AUTOTUNE, depth=4, num_store_rows=8, num_text_rows=8
)
DRAFT = dataclasses.replace(DRAFT, num_paper_rows=8)


@pytest.mark.parametrize(
    ("max_nodes", "num_layers", "sizes"),
    [
        (320, 1, (0, 1, 2, 4, 8, 16, 32, 64)),
        (20, 12, (0, 1, 2, 4, 8, 16)),
        (320, 25, (0, 2, 8, 32)),
        (320, 30, (0, 4, 16)),
        (320, 48, (0, 8)),
        (320, 200, (0, 8)),
    ],
)
def test_a_deep_model_has_fewer_sizes(max_nodes, num_layers, sizes):
    assert tree_size.sizes_for(max_nodes, num_layers) == sizes


def some_tree(batch_size=2, num=16, seed=0):
    """Trees as a drafter makes them, of random matches."""
    rng = np.random.default_rng(seed)
    draft = dataclasses.replace(DRAFT, drafter="prompt_lookup", num_draft=num)
    tokens = jnp.asarray(rng.integers(1, 4, (batch_size, 40)), jnp.int32)
    text = DecodedText(tokens, jnp.full(batch_size, 40, jnp.int32))
    return jax.jit(make_drafter(draft).draft)(None, (), text)


@pytest.mark.parametrize("seed", range(4))
def test_the_size_with_most_tokens_a_second_is_chosen(seed):
    rng, sizes = np.random.default_rng(seed), (0, 1, 4, 16)
    tree, is_open = some_tree(seed=seed), jnp.array([True, seed % 2 == 0])
    first = tree_size.first_sizing(sizes)
    cost = np.sort(rng.uniform(1, 3, len(sizes))).astype(np.float32)
    times = StepSeconds(jnp.asarray(cost), jnp.float32(1.0))
    choose = jax.jit(tree_size.choose, static_argnums=1)
    found = choose(first._replace(seconds=times), sizes, tree, is_open)
    chance = np.asarray(acceptance.path_probability(first.model, tree))[
        np.asarray(is_open)
    ]
    tokens = [len(chance) + chance[:, :size].sum() for size in sizes]
    assert int(found.number) == np.argmax(np.array(tokens) / cost)
    forced = first._replace(forced=jnp.array(2))
    assert int(choose(forced, sizes, tree, is_open).number) == 2


def test_drafting_pauses_where_it_is_dear_and_dull():
    """It costs 19 % of a plain step: one draft in ten may be made in vain."""
    sizes, tree = (0, 4), some_tree()
    nothing = tree._replace(valid=jnp.zeros_like(tree.valid))
    is_open = jnp.ones(2, bool)
    times = StepSeconds(jnp.array([1.19, 9.0]), jnp.array(1.0))
    sizing = tree_size.first_sizing(sizes)._replace(seconds=times)
    step = jax.jit(functools.partial(tree_size.choose, sizes=sizes, is_open=is_open))
    drafts = []
    for _ in range(40):
        drafts.append(int(sizing.pause) == 0)
        sizing = step(sizing, tree=tree if drafts[-1] else nothing)
    dull = tree_size.PATIENCE
    assert drafts[:dull] == [True] * dull
    assert np.flatnonzero(drafts[dull:]).tolist() == [9, 19, 29]
    cheap = times._replace(drafted=jnp.array([1.0, 9.0]))
    assert (
        int(step(sizing._replace(seconds=cheap, pause=jnp.array(0)), tree=tree).pause)
        == 0
    )
    pays = times._replace(drafted=jnp.array([1.2, 1.2]))
    sizing = step(sizing._replace(seconds=pays, pause=jnp.array(0)), tree=tree)
    assert int(sizing.number) == 1 and int(sizing.dull) == 0


def test_drafting_pauses_where_drafts_are_verified_but_do_not_pay():
    """Making a draft costs four plain steps, verifying it one more: of two tokens."""
    sizes, tree, is_open = (0, 4), some_tree(), jnp.ones(2, bool)
    times = StepSeconds(jnp.array([5.0, 5.5]), jnp.array(1.0))
    first = tree_size.first_sizing(sizes)
    sizing = tree_size.choose(first._replace(seconds=times), sizes, tree, is_open)
    assert int(sizing.number) == 1  # the draft is there, and the nodes are cheap
    assert int(sizing.dull) == 1 and int(sizing.pause) == 199  # 4 of 200 are 2 %
    assert int(tree_size.with_times(first, times).pause) == 199
    good = StepSeconds(jnp.array([3.4, 3.9]), jnp.array(1.0))
    begun = tree_size.with_times(first, good)
    assert int(begun.pause) == 0 and begun.seconds is good
    alone = StepSeconds(jnp.array([1.5]), jnp.array(1.0))  # a tree too small to choose
    assert int(tree_size.with_times(tree_size.first_sizing((0,)), alone).pause) == 24
    forced = first._replace(seconds=times, forced=jnp.array(1))
    sizing = tree_size.choose(forced, sizes, tree, is_open)
    assert int(sizing.dull) == 0 and int(sizing.pause) == 0  # times are being measured


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    texts = np.random.default_rng(0).integers(2, VOCAB, (40, 30))
    texts[:, 5:] = np.arange(25) % 9 + 2  # half of it is predictable
    vocab = {"tokenizer": "test", "vocab_size": VOCAB, "eos_id": 1}
    path = tmp_path_factory.mktemp("store") / "store"
    return load_index(build_datastore(list(texts), path, **vocab))


def bigram(params, tokens, positions, mask, cache):
    """A model without a cache, which compiles faster: the last token decides."""
    return params[tokens], ()


BIGRAM = TargetModel(
    apply=bigram,
    init_cache=lambda batch_size, size: (),
    write_cache=lambda cache, entries, nodes, mask: cache,
    vocab_size=VOCAB,
)


@pytest.mark.parametrize("how", ["greedy", "sampled"])
def test_no_text_depends_on_the_size(index, how):
    """Whatever size is taken, and wherever it changes."""
    if how == "greedy":
        sampling, model, params = decode.GREEDY, MODEL, init_params(CONFIG)
    else:
        sampling, model = SamplingConfig(0.8, 0.95), BIGRAM
        params = 3 * jax.random.normal(jax.random.key(0), (VOCAB, VOCAB))
    prompts = [[2, 3], [4, 5, 6, 4, 5], [7]]
    settings = {"model": model, "sampling": sampling, "eos_id": 1}
    tokens, length = decode.pad_prompts(prompts, VOCAB, 6)
    keys = decode.request_keys(3, 3)
    drafter = make_drafter(DRAFT, DEEP)

    def start(drafter):
        return decode.start(
            *(params, tokens, length, keys, drafter), model=model, max_new_tokens=40
        )

    plain = decode.advance(params, start(decode.no_drafter), **settings)
    free = decode.advance(params, start(drafter), drafter, index, **settings)
    changing = start(drafter)
    rng = np.random.default_rng(0)
    while not changing.done.all():
        number = jnp.array(rng.integers(len(drafter.sizes)), jnp.int32)
        pause = jnp.array(rng.integers(3), jnp.int32)  # steps without a draft
        sizing = changing.sizing._replace(forced=number, pause=pause)
        changing = decode.advance(
            *(params, changing._replace(sizing=sizing), drafter, index),
            **settings,
            num_steps=2,
        )
    for state in (free, changing):
        np.testing.assert_array_equal(state.tokens, plain.tokens)
        np.testing.assert_array_equal(state.length, plain.length)
        np.testing.assert_allclose(state.confidence, plain.confidence, rtol=1e-5)
    assert int(free.sizing.counts.sum()) == int(free.steps.max())
    assert np.all(np.asarray(changing.sizing.counts) > 0)
    assert int(free.steps.max()) < int(plain.steps.max())


def test_drafts_begin_at_once_and_resume_after_a_dull_stretch(index):
    """A known text: predictable, then random, then predictable again."""
    rng = np.random.default_rng(1)
    text = np.concatenate(
        [np.arange(60) % 9 + 2, rng.integers(20, 9000, 300), np.arange(90) % 9 + 2]
    ).astype(np.int32)
    drafter = make_drafter(DRAFT, DEEP)

    def decoded(first, last):
        """The steps by size in a part of the text, after what was before it."""
        counts = []
        for stop in (first, last):
            tokens = np.where(np.arange(450) < stop, text, 0)[None]
            state = replay(
                *(tokens, np.array([4]), np.array([stop]), index), drafter=drafter
            )
            counts.append(np.asarray(state.sizing.counts))
        return counts[1] - counts[0]

    begin, dull, end = decoded(4, 60), decoded(150, 360), decoded(370, 450)
    assert begin[0] <= 1 and begin.sum() < 28
    assert dull[0] > 0.9 * dull.sum()
    assert end[0] <= 1 and end.sum() < 40


def test_random_text_costs_no_more_than_plain_decoding(index):
    """In simulated seconds, 3 % at most: a node costs a tenth of a step, a draft 1 %."""
    rng, drafter = np.random.default_rng(2), make_drafter(DRAFT, DEEP)
    text = rng.integers(20, 9000, (2, 400)).astype(np.int32)
    state = replay(
        *(text, np.array([4, 4]), np.array([400, 400]), index), drafter=drafter
    )
    counts = np.asarray(state.sizing.counts)
    seconds = counts @ (1.01 + tree_size.NODE_COST * np.array(drafter.sizes))
    assert seconds <= 1.03 * 396
    assert int(state.sizing.forced) == FREE

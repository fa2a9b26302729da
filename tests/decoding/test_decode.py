"""The decode loop: with any drafts the text is that of plain decoding.

Nearly all the time goes into compiling, so that tests share shapes: eight prompts, room
for 16 tokens and for 24 new ones. The whole matrix of cases is among the slow tests.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import (
    BucketConfig,
    DataConfig,
    DraftConfig,
    EvaluationConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PositionConfig,
    SamplingConfig,
    TrainConfig,
)
from relay_jax.decoding import decode, draft_tree, result, verify
from relay_jax.decoding import loop as decoding_loop
from relay_jax.decoding.decode import GREEDY
from relay_jax.decoding.target_model import make_target
from relay_jax.models.decoder import Decoder
from relay_jax.models.sharding import make_mesh
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import DRAFTERS, PLAIN, make_drafter
from relay_jax.rest.index import HostIndex, load_index
from relay_jax.rest.replay import replay
from relay_jax.training import checkpoint, loop
from relay_jax.training.step import init_params

EOS, VOCAB = 1, 40
STEP = float(jnp.finfo(jnp.bfloat16).eps)  # between two bfloat16 numbers, relative
ROPE = ModelConfig(
    kind="decoder",
    num_layers=2,
    dim=16,
    mlp_dim=32,
    num_heads=4,
    text_vocab_size=VOCAB,
)
BIAS = PositionConfig(scheme="relative_bias", log_length_scaling=True)
MODELS = {
    "rope": ROPE,
    "bias": dataclasses.replace(ROPE, position=BIAS),
    "llama": dataclasses.replace(ROPE, num_kv_heads=2, norm="rms", activation="swiglu"),
}
DRAFTS = [
    DraftConfig(drafter=name, num_draft=count, num_store_rows=16, num_paper_rows=16)
    for name, count in (
        ("prompt_lookup", 8),
        ("rest_paper", 24),
        ("rest", 40),
        ("token_recycling", 24),
        ("mixed", 40),
    )
]
STORED = [d for d in DRAFTS if DRAFTERS[d.drafter].index]
SAMPLINGS = {
    "greedy": GREEDY,
    "sampled": SamplingConfig(0.8),
    "top_p": SamplingConfig(1.0, 0.7),
    "top_k": SamplingConfig(1.0, 1.0, 5),
}


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def params_of(name):
    """Random parameters, sharp enough that a text has a few likely tokens."""
    params = init_params(TrainConfig(model=MODELS[name]))
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.4 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return jax.tree.unflatten(shape, noisy)


def prompts_of(num, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(2, VOCAB, size=rng.integers(1, 15)).tolist() for _ in range(num)
    ]


def language(rng, num):
    """Token ids in which a few phrases repeat, and each continuation is half random."""
    phrases = np.random.default_rng(7).integers(2, VOCAB, (12, 6))
    texts = []
    while sum(map(len, texts)) < num:
        chosen = rng.choice(12, p=np.arange(12, 0, -1) / 78, size=rng.integers(1, 5))
        texts.append([*phrases[chosen].ravel(), EOS])
    return np.concatenate(texts)[:num].astype(np.uint16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Parameters of the rope model that has learnt the language above, by the loop."""
    path = tmp_path_factory.mktemp("trained") / "run"
    path.mkdir()
    for name, seed in (("train", 0), ("held_out", 1)):
        np.save(path / f"{name}.npy", language(np.random.default_rng(seed), 20_000))
    config = TrainConfig(
        model=dataclasses.replace(ROPE, dropout=0.0),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        data=DataConfig(
            32, {"text": BucketConfig("text", (24, 24), kind="text", path="train.npy")}
        ),
        evaluation=EvaluationConfig(text="held_out.npy", context=24, final=64),
        num_steps=300,
    )
    final = {x["metric"]: x["value"] for x in loop.train(config, path)["final"]}
    assert final["token_loss"] < 0.5 * np.log(VOCAB)
    return checkpoint.load_params(path)[1]


@pytest.fixture(scope="module")
def learnt_store(tmp_path_factory):
    """Other texts of the language that the model was trained on."""
    path = tmp_path_factory.mktemp("learnt") / "store"
    vocab = {"tokenizer": "test", "vocab_size": VOCAB, "eos_id": EOS}
    text = language(np.random.default_rng(2), 3_000)
    return build_datastore(
        np.split(text, np.flatnonzero(text == EOS) + 1), path, **vocab
    )


def learnt_prompts(num, seed):
    """Prompts out of the language."""
    rng = np.random.default_rng([seed, 3])
    text = language(rng, num * 16).reshape(num, 16)
    return [row[: rng.integers(1, 15)].tolist() for row in text]


def run(
    name,
    prompts,
    draft=PLAIN,
    index=None,
    sampling=GREEDY,
    params=None,
    **rest,
):
    options = {"max_new_tokens": 24, "eos_id": EOS, "width": 16} | rest
    return decode.decode(
        params_of(name) if params is None else params,
        prompts,
        make_drafter(draft),
        index,
        **{"model": MODELS[name], "sampling": sampling} | options,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Texts that the models generate: drafts from them are often right."""
    path = tmp_path_factory.mktemp("store") / "store"
    texts = []
    for name, seed in itertools.product(MODELS, (5, 6)):
        state = run(name, prompts_of(8, seed), eos_id=decode.NO_EOS)
        tokens, length = np.asarray(state.tokens), np.asarray(state.length)
        texts += [row[:size] for row, size in zip(tokens, length)]
    vocab = {"tokenizer": "test", "vocab_size": VOCAB, "eos_id": EOS}
    return build_datastore(texts, path, **vocab)


def compile_again(monkeypatch, name, *static):
    """Has a jitted function of `decode` traced again, with patched names."""
    inner = getattr(decode, name).__wrapped__

    @functools.wraps(inner)
    def traced_again(*args, **rest):
        return inner(*args, **rest)

    jitted = jax.jit(traced_again, static_argnames=("model", *static))
    monkeypatch.setattr(decode, name, jitted)


def same(one, two):
    np.testing.assert_array_equal(one.length, two.length)
    np.testing.assert_array_equal(one.tokens, two.tokens)


QUICK = [
    *(("rope", draft, "greedy") for draft in DRAFTS),
    ("rope", DRAFTS[2], "top_p"),
    ("rope", DRAFTS[4], "top_p"),
    ("bias", DRAFTS[2], "greedy"),
    ("llama", DRAFTS[2], "greedy"),
]
MATRIX = itertools.product(MODELS, DRAFTS, SAMPLINGS)
SLOW = [pytest.param(*c, marks=pytest.mark.slow) for c in MATRIX if c not in QUICK]


@pytest.mark.parametrize("name, draft, sampling", QUICK + SLOW)
def test_drafting_changes_nothing_but_the_number_of_steps(name, draft, sampling, store):
    prompts, index = prompts_of(8), load_index(store)
    plain = run(name, prompts, sampling=SAMPLINGS[sampling])
    drafted = run(name, prompts, draft, index, SAMPLINGS[sampling])
    same(plain, drafted)
    np.testing.assert_allclose(plain.confidence, drafted.confidence, rtol=1e-3)
    assert np.all(np.asarray(drafted.steps) <= np.asarray(plain.steps))
    if sampling == "greedy" and draft.drafter != "prompt_lookup":
        assert drafted.steps.sum() < 0.95 * plain.steps.sum()
    new = np.asarray(plain.length) - list(map(len, prompts))
    np.testing.assert_array_equal(plain.steps, new)


@pytest.mark.parametrize("sampling", ["greedy", "top_p"])
def test_drafts_save_steps_of_a_trained_model_and_change_no_text(
    sampling, trained, learnt_store
):
    index, prompts = load_index(learnt_store), learnt_prompts(8, 0)
    settings = {"sampling": SAMPLINGS[sampling], "params": trained}
    plain = run("rope", prompts, **settings)
    drafted = run("rope", prompts, DRAFTS[2], index, **settings)
    same(plain, drafted)
    assert drafted.steps.sum() < 0.5 * plain.steps.sum()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 8, 16])
@pytest.mark.parametrize("sampling", ["greedy", "top_p"])
@pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: draft.drafter)
@pytest.mark.parametrize("kind", ["random", "trained"])
def test_a_thousand_texts_are_the_same(
    kind, draft, sampling, batch_size, store, trained, learnt_store
):
    count = 1024 // batch_size if batch_size > 1 else 128
    index = load_index(learnt_store if kind == "trained" else store)
    params = trained if kind == "trained" else None
    make_prompts = learnt_prompts if kind == "trained" else prompts_of
    for seed in range(count):
        prompts = make_prompts(batch_size, seed)
        settings = {"sampling": SAMPLINGS[sampling], "seed": seed, "params": params}
        plain = run("rope", prompts, **settings)
        same(plain, run("rope", prompts, draft, index, **settings))


def test_a_row_does_not_depend_on_the_batch(store):
    prompts, index = prompts_of(8), load_index(store)
    together = run("rope", prompts, DRAFTS[2], index)
    for i, prompt in enumerate(prompts):
        alone = run("rope", [prompt], DRAFTS[2], index)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[i])


@pytest.mark.parametrize("name", MODELS)
def test_decoding_equals_reading_the_whole_text_again(name):
    """Prompts of different lengths in one batch; the oracle has no cache at all."""
    model, prompts = MODELS[name], prompts_of(8)
    state = run(name, prompts)
    apply = jax.jit(
        lambda tokens: Decoder(model).apply({"params": params_of(name)}, tokens)
    )
    for row, prompt in enumerate(prompts[:3]):
        text, min_chance = list(prompt), 1.0
        for _ in range(24):
            padded = jnp.asarray([text + [0] * (40 - len(text))])
            logits = apply(padded)[0][0, len(text) - 1]
            min_chance = min(min_chance, float(jax.nn.softmax(logits).max()))
            text.append(int(jnp.argmax(logits)))
            if text[-1] == EOS:
                break
        np.testing.assert_array_equal(state.tokens[row, : len(text)], text)
        assert state.length[row] == len(text)
        assert state.confidence[row] == pytest.approx(min_chance, abs=1e-4)


def test_prompts_longer_than_a_chunk_are_read_whole(monkeypatch):
    prompts = prompts_of(8)
    whole = run("rope", prompts)
    monkeypatch.setattr(decode, "CHUNK", 3)
    compile_again(monkeypatch, "read_prompts", "observe", "max_new_tokens")
    same(whole, run("rope", prompts))


@pytest.mark.parametrize("draft", [PLAIN, DRAFTS[2]], ids=lambda d: d.drafter)
def test_limits_hold_to_the_token(draft, store, monkeypatch):
    index, prompts = load_index(store), prompts_of(8)
    index = index if draft.num_draft else None
    long = run("rope", prompts, eos_id=decode.NO_EOS)
    start = decode.start
    for max_steps in (1, 5):

        def stop_early(*args, max_steps=max_steps, **rest):
            state = start(*args, **rest)
            return state._replace(stop=state.length + max_steps)

        monkeypatch.setattr(decode, "start", stop_early)
        state = run("rope", prompts, draft, index, eos_id=decode.NO_EOS)
        for row, prompt in enumerate(prompts):
            end = len(prompt) + max_steps
            assert state.length[row] == end
            np.testing.assert_array_equal(
                state.tokens[row, :end], long.tokens[row, :end]
            )
            assert not np.any(state.tokens[row, end:])


@pytest.mark.parametrize("draft", [PLAIN, DRAFTS[2]], ids=lambda d: d.drafter)
def test_a_text_stops_at_its_end(draft, store):
    """Any token can be the end of text: also one inside an accepted branch."""
    index, prompts, stopped = load_index(store), prompts_of(8), 0
    index = index if draft.num_draft else None
    long = run("rope", prompts, eos_id=decode.NO_EOS)
    sizes = np.array(list(map(len, prompts)), np.int32)
    frequent = np.unique(np.concatenate(result.new_tokens(long, sizes)))
    for end in frequent.tolist()[:12]:
        state = run("rope", prompts, draft, index, eos_id=end)
        for row, prompt in enumerate(prompts):
            new = np.asarray(long.tokens[row, len(prompt) : long.length[row]])
            count = int(np.argmax(new == end)) + 1 if end in new else 24
            stopped += count < 24
            assert state.length[row] == len(prompt) + count
            assert not np.any(state.tokens[row, len(prompt) + count :])
    assert stopped > 10


@pytest.mark.parametrize("draft", [DRAFTS[2], DRAFTS[4]], ids=lambda d: d.drafter)
def test_advancing_in_pieces_is_decoding(draft, store):
    index, prompts = load_index(store), prompts_of(8)
    whole = run("rope", prompts, draft, index)
    tokens, length = decode.pad_prompts(prompts, VOCAB, 16)
    keys, drafter = decode.request_keys(0, 8), make_drafter(draft)
    model, params = MODELS["rope"], params_of("rope")
    state = decode.start(
        params, tokens, length, keys, drafter, model=model, max_new_tokens=24
    )
    settings = {"model": model, "sampling": GREEDY, "eos_id": EOS, "num_steps": 1}
    for _ in range(24):  # more than there are steps: a finished text stays as it is
        state = decode.advance(params, state, drafter, index, **settings)
    same(whole, state)


def test_a_mix_needs_no_store():
    prompts = prompts_of(8)
    plain, drafted = run("rope", prompts), run("rope", prompts, DRAFTS[4])
    same(plain, drafted)
    assert drafted.steps.sum() < plain.steps.sum()


def test_the_host_index_decodes_alike(store):
    prompts = prompts_of(8)
    device = run("rope", prompts, DRAFTS[2], load_index(store))
    same(device, run("rope", prompts, DRAFTS[2], HostIndex(store)))
    assert device.steps.sum() < device.length.sum()


@pytest.mark.parametrize("draft", STORED, ids=lambda draft: draft.drafter)
def test_a_store_over_all_devices_decodes_alike(draft, store, tmp_path):
    """With more devices than shards; parameters on one device are copied."""
    params, prompts = jax.device_put(params_of("rope"), jax.devices()[0]), prompts_of(8)
    texts = np.split(store.shards[0].tokens, 5 * np.arange(1, 200))
    vocab = {"tokenizer": "test", "vocab_size": VOCAB, "eos_id": EOS}
    parts = build_datastore(texts, tmp_path / "parts", shard_tokens=300, **vocab)
    index = load_index(parts, make_mesh(MeshConfig(data=0)))
    assert index.shards.tokens.shape[0] == jax.device_count() > len(parts.shards) > 2
    plain = run("rope", prompts)
    settings = {"model": MODELS["rope"], "max_new_tokens": 24}
    settings |= {"eos_id": EOS, "width": 16, "drafter": make_drafter(draft)}
    spread = decode.decode(params, prompts, index=index, **settings)
    same(plain, spread)
    assert spread.steps.sum() < 0.9 * plain.steps.sum()
    whole = decode.decode(params, prompts, index=load_index(parts), **settings)
    np.testing.assert_array_equal(spread.steps, whole.steps)


def test_drafted_marks_the_accepted_draft_tokens(store):
    prompts = prompts_of(8)
    state = run("rope", prompts, DRAFTS[2], load_index(store))
    new = np.asarray(state.length) - list(map(len, prompts))
    model_steps = np.asarray(state.steps)  # one token a step is the model's own
    accepted = np.asarray(state.drafted).sum(axis=1)
    # A branch that is cut by a limit or an end may end in a drafted token.
    assert np.all((accepted == new - model_steps) | (accepted == new - model_steps + 1))
    for row, prompt in enumerate(prompts):
        assert not np.any(state.drafted[row, : len(prompt)])


def broken_ancestors(drafter, target):
    """Every node attends to every other."""

    def draft(*args):
        tree = drafter.draft(*args)
        return tree._replace(ancestors=jnp.ones_like(tree.ancestors))

    return drafter._replace(draft=draft), target


def broken_positions(drafter, target):
    """All nodes but the root are one position too far."""

    def apply(params, tokens, positions, mask, cache):
        later = positions.at[:, 1:].add(1)
        is_tree = tokens.shape[1] == 1 + DRAFTS[2].num_draft
        chosen = later if is_tree else positions
        return target.apply(params, tokens, chosen, mask, cache)

    return drafter, target._replace(apply=apply)


def broken_write(drafter, target):
    """The cache counts the accepted tokens but does not hold them."""

    def write(cache, new, nodes, mask):
        later = target.write_cache(cache, new, nodes, mask)
        is_tree = new.keys.shape[2] == 1 + DRAFTS[2].num_draft
        return later._replace(key_values=cache.key_values) if is_tree else later

    return drafter, target._replace(write_cache=write)


def broken_nodes(drafter, target):
    """The cache gets the first nodes of the tree instead of the accepted ones."""

    def write(cache, new, nodes, mask):
        first = jnp.broadcast_to(jnp.arange(nodes.shape[1])[None], nodes.shape)
        return target.write_cache(cache, new, first, mask)

    return drafter, target._replace(write_cache=write)


@pytest.mark.parametrize(
    "break_it", [broken_ancestors, broken_positions, broken_write, broken_nodes]
)
def test_every_mask_position_and_index_matters(break_it, store):
    """Break one, and the texts differ; the prompts are still read as they should be."""
    index, prompts = load_index(store), prompts_of(8)
    plain = run("rope", prompts)
    drafter, target = break_it(make_drafter(DRAFTS[2]), make_target(ROPE))
    drafted = decode.decode(
        *(params_of("rope"), prompts, drafter, index),
        model=target,
        max_new_tokens=24,
        eos_id=EOS,
        width=16,
    )
    assert not np.array_equal(plain.tokens, drafted.tokens)


def one_too_many(tree, token, max_depth):
    path, count = verify.accept(tree, token, max_depth)
    return verify.Accepted(path, jnp.minimum(count + 1, max_depth + 1))


def another_path(tree, token, max_depth):
    path, count = verify.accept(tree, token, max_depth)
    return verify.Accepted(jnp.minimum(path, 1), count)


@pytest.mark.parametrize("broken", [one_too_many, another_path])
def test_every_accepted_node_matters(monkeypatch, store, broken):
    index, prompts = load_index(store), prompts_of(8)
    plain = run("rope", prompts)
    monkeypatch.setattr(decoding_loop, "accept", broken)
    compile_again(monkeypatch, "advance", "drafter", "sampling")
    drafted = run("rope", prompts, DRAFTS[2], index)
    assert not np.array_equal(plain.tokens, drafted.tokens)


def test_bfloat16_differs_at_near_ties_only(store):
    """At the first difference both tokens are almost equally likely; and such
    positions are few, or the test would show nothing."""
    model, index = dataclasses.replace(ROPE, dtype="bfloat16"), load_index(store)
    params = params_of("rope")
    apply = jax.jit(lambda t: Decoder(model).apply({"params": params}, t)[0])
    settings = {"model": model, "max_new_tokens": 24, "width": 16}
    found = 0
    for seed in range(8):
        prompts = prompts_of(8, seed)
        plain = decode.decode(params, prompts, **settings)
        logits = apply(plain.tokens)
        for draft in DRAFTS:
            drafter = make_drafter(draft)
            drafted = decode.decode(params, prompts, drafter, index, **settings)
            differ = np.asarray(plain.tokens != drafted.tokens)
            for row in np.flatnonzero(differ.any(axis=1)):
                first = int(np.argmax(differ[row]))
                score = logits[row, first - 1]
                size = np.abs(score).max()
                frequent = [int(state.tokens[row, first]) for state in (plain, drafted)]
                assert (
                    abs(float(score[frequent[0]] - score[frequent[1]]))
                    < 4 * STEP * size
                )
                found += 1
    assert found > 0
    best = np.sort(logits, axis=-1)
    lead = (best[..., -1] - best[..., -2]) / np.abs(best).max(axis=-1)
    assert np.mean(lead < 4 * STEP) < 0.2


def test_the_cache_is_not_copied(store):
    """The loop's scratch memory is smaller than one cache: it is updated in place."""
    model = dataclasses.replace(ROPE, num_layers=8)
    params = init_params(TrainConfig(model=model))
    tokens, length = decode.pad_prompts(prompts_of(4), VOCAB, 16)
    state = decode.start(
        params,
        *(tokens, length, decode.request_keys(0, 4)),
        model=model,
        max_new_tokens=8000,
    )
    few = dataclasses.replace(DRAFTS[2], num_draft=3)  # so that scores are small
    compiled = decode.advance.lower(
        params, state, make_drafter(few), load_index(store), model=model
    ).compile()
    cache = sum(x.nbytes for x in jax.tree.leaves(state.cache))
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < cache / 2
    assert memory.alias_size_in_bytes >= cache  # donated


def test_a_vocabulary_beyond_16_bits(tmp_path):
    """Llama 3 has 128,256 tokens; a store then keeps 32-bit tokens."""
    vocab_size = 128_256
    model = ModelConfig(
        kind="decoder",
        num_layers=1,
        dim=8,
        mlp_dim=8,
        num_heads=2,
        text_vocab_size=vocab_size,
    )
    params = init_params(TrainConfig(model=model))
    params = jax.tree.map(
        lambda x: x + jax.random.normal(jax.random.key(x.size), x.shape), params
    )
    prompts = [[128_255, 5], [65_535, 65_536, 70_000]]
    settings = {"model": model, "max_new_tokens": 16}
    plain = decode.decode(params, prompts, **settings)
    texts = [row[:end] for row, end in zip(np.asarray(plain.tokens), plain.length)]
    assert max(text.max() for text in texts) > 2**16
    vocab = {"tokenizer": "test", "vocab_size": vocab_size, "eos_id": 2}
    store = build_datastore(texts, tmp_path / "store", **vocab)
    assert store.shards[0].tokens.dtype == np.uint32
    index = load_index(store)
    drafter = make_drafter(DRAFTS[2])
    drafted = decode.decode(params, prompts, drafter, index, **settings)
    same(plain, drafted)
    assert drafted.steps.sum() < plain.steps.sum() / 2


@pytest.mark.parametrize("draft", DRAFTS[1:3], ids=lambda draft: draft.drafter)
def test_replay_takes_the_steps_of_decoding(draft, store):
    """A text that the model wrote is replayed in as many steps as it was decoded."""
    index, prompts = load_index(store), prompts_of(8)
    state = run("rope", prompts, draft, index, eos_id=decode.NO_EOS)
    prompt_length = np.array(list(map(len, prompts)), np.int32)
    again = replay(
        *(state.tokens, prompt_length, state.length, index),
        drafter=make_drafter(draft),
    )
    same(state, again)
    np.testing.assert_array_equal(state.steps, again.steps)
    np.testing.assert_array_equal(state.nodes, again.nodes)


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ([], {}, "a prompt is empty"),
        ([[5], []], {}, "a prompt is empty"),
        ([[5] * 17], {}, "17 tokens, but there is room for 16"),
        ([[5, 40]], {}, "token id 40, but the model's vocabulary has 40 tokens"),
        ([[5, -1]], {}, "token id -1"),
        ([[5]], {"max_new_tokens": 0}, "max_new_tokens must be 1 or more"),
        (
            [[5]],
            {"draft": DraftConfig(drafter="rset")},
            "unknown drafter 'rset'; valid",
        ),
        ([[5]], {"draft": DraftConfig()}, "'rest' needs a datastore"),
        (
            [[5]],
            {"draft": DraftConfig("prompt_lookup", 999)},
            "num_draft must be 0..320",
        ),
        (
            [[5]],
            {"draft": DraftConfig("prompt_lookup", store_weights=(99999,))},
            "exceed what is counted exactly",
        ),
    ],
)
def test_bad_input(prompts, options, message):
    with pytest.raises(ValueError, match=message):
        run("rope", prompts, **options)


def test_no_step_without_text_or_tree():
    state = run("rope", [[5, 6]], DraftConfig("none"))
    assert state.nodes.sum() == 0
    assert draft_tree.empty_tree(1).tokens.shape == (1, 0)

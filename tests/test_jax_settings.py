"""No process-wide setting of JAX changes a text, or parameters, or their losslessness.

All settings that can be combined are tried at once, and each by itself among the slow
tests, there on a small model of tokens alone.
"""

import ast
import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relay_jax
from relay_jax.config import (
    MAX_SEED,
    BucketConfig,
    DataConfig,
    DraftConfig,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
)
from relay_jax.data import loader
from relay_jax.decoding import decode
from relay_jax.decoding.draft_tree import DraftTree
from relay_jax.decoding.drafter import Drafter, ignore_logits, no_drafter, no_state
from relay_jax.decoding.target_model import TargetModel
from relay_jax.jax_settings import make_key
from relay_jax.models import stored_params
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import DRAFTERS, make_drafter
from relay_jax.rest.index import load_index
from relay_jax.training.step import init_params, init_state, make_train_step
from tests import tiny_hf_model

ROOT = pathlib.Path(__file__).parents[1]
VOCAB, NEW = 24, 12
# With these, every bit is that of the default settings.
COMBINED = {
    "default_prng_impl": "rbg",
    "threefry_partitionable": False,
    "random_seed_offset": 7,
    "high_dynamic_range_gumbel": True,
    "enable_x64": True,
    "numpy_dtype_promotion": "strict",
    "numpy_rank_promotion": "raise",
    "debug_nans": True,
    "debug_infs": True,
    "debug_key_reuse": True,
    "enable_custom_prng": True,
    "legacy_prng_key": "error",
    "softmax_custom_jvp": True,
}
SINGLE = [
    ("default_matmul_precision", "bfloat16"),
    ("default_device", jax.devices()[1]),
]
SLOW = [
    ("disable_jit", True),
    *COMBINED.items(),
    ("default_prng_impl", "unsafe_rbg"),
    ("default_matmul_precision", "tensorfloat32"),
    ("default_matmul_precision", "highest"),
]
SETTINGS = [
    pytest.param(COMBINED, id="combined"),
    *(pytest.param({key: value}, id=f"{key}={value}") for key, value in SINGLE),
    *(
        pytest.param({key: value}, id=f"{key}={value}", marks=pytest.mark.slow)
        for key, value in SLOW
    ),
]
SAMPLING = SamplingConfig(1.0, 0.9, 12)
PROMPTS = [[3, 1, 4], [5], [9, 2, 6, 5, 3]]
BIGRAM = TargetModel(
    apply=lambda params, tokens, positions, mask, cache: (params[tokens], ()),
    init_cache=lambda batch_size, max_length: (),
    write_cache=lambda cache, entries, nodes, mask: cache,
    vocab_size=VOCAB,
)


@contextlib.contextmanager
def settings(**values):
    """JAX-wide settings, set as a user's program sets them, and undone."""
    before = {name: getattr(jax.config, f"jax_{name}") for name in values}
    try:
        for name, value in values.items():
            jax.config.update(f"jax_{name}", value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(f"jax_{name}", value)


def draft_index(index, state, text):
    """Drafts what the index has after a text's length, as one branch of four nodes."""
    del state
    num = jnp.arange(4)[None]
    tokens = jnp.take_along_axis(index, text.length[:, None] + num, axis=1)
    parent = jnp.broadcast_to(num, tokens.shape).astype(jnp.int32)
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((5, 5), bool)), (len(tokens), 5, 5))
    return DraftTree(tokens, parent, parent + 1, tokens >= 0, seen)


ORACLE = Drafter(no_state, draft_index, ignore_logits, max_depth=4)


def decode_bigram(prompts, drafter=no_drafter, index=None, sampling=SAMPLING):
    params = 2 * np.random.default_rng(0).standard_normal((VOCAB, VOCAB), np.float32)
    params = jnp.asarray(params)
    options = {"sampling": sampling, "max_new_tokens": NEW, "width": 5, "seed": 3}
    options["eos_id"] = (VOCAB, VOCAB + 1)  # never generated
    return decode.decode(params, prompts, drafter, index, model=BIGRAM, **options)


@pytest.fixture(scope="module")
def plain():
    """Sampled texts under the default settings; the index that drafts them."""
    tokens = np.asarray(decode_bigram(PROMPTS).tokens)
    return tokens, np.pad(tokens, ((0, 0), (0, 4)))


@pytest.mark.parametrize("values", SETTINGS)
def test_no_setting_changes_a_sampled_text(values, plain):
    tokens, index = plain
    with settings(**values):
        drafted = decode_bigram(PROMPTS, ORACLE, index)
    np.testing.assert_array_equal(tokens, drafted.tokens)
    assert (
        drafted.steps.sum() < len(PROMPTS) * NEW / 3
    )  # the noise of a branch is right


def test_no_setting_makes_a_text_depend_on_the_batch(plain):
    tokens, _ = plain
    with settings(**COMBINED):
        alone = decode_bigram(PROMPTS[:1])
    np.testing.assert_array_equal(tokens[0], alone.tokens[0])


@pytest.fixture(scope="module")
def decoder():
    config = ModelConfig(
        kind="decoder",
        num_layers=1,
        dim=16,
        mlp_dim=16,
        num_heads=2,
        text_vocab_size=VOCAB,
        dropout=0.1,
    )
    return config, init_params(TrainConfig(model=config))


def decode_with(decoder, index, draft, sampling):
    config, params = decoder
    options = {"sampling": sampling, "max_new_tokens": NEW, "width": 5, "seed": 3}
    drafter = make_drafter(draft) if draft else no_drafter
    drafted = decode.decode(
        params, PROMPTS, drafter, index if draft else None, model=config, **options
    )
    return np.asarray(drafted.tokens)


def drafts():
    for name, kind in DRAFTERS.items():
        if name not in ("none", "looped"):
            rows = {"num_store_rows": 4, "num_text_rows": 4, "num_paper_rows": 4}
            draft = DraftConfig(name, 8, depth=4, **rows)
            slow = [] if name == "mixed" else [pytest.mark.slow]
            yield pytest.param(draft, bool(kind.index), marks=slow, id=name)


@pytest.mark.parametrize(
    "sampling", [SAMPLING, pytest.param(decode.GREEDY, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("draft, needs_store", list(drafts()))
def test_all_settings_at_once_change_no_drafted_text(
    draft, needs_store, sampling, decoder, tmp_path
):
    texts = np.random.default_rng(0).integers(2, VOCAB, (20, 30))
    vocab = {"tokenizer": "test", "vocab_size": VOCAB, "eos_id": 1}
    store = build_datastore(texts, tmp_path / "store", **vocab) if needs_store else None
    expected = decode_with(decoder, None, None, sampling)
    with settings(**COMBINED):
        index = load_index(store) if store else None
        drafted = decode_with(decoder, index, draft, sampling)
    np.testing.assert_array_equal(expected, drafted)


def train_a_step(config):
    params = jax.device_get(init_params(config))
    batch = next(iter(loader.steps(config, pathlib.Path(), 0, 1)))
    state, metrics = make_train_step(config)(
        init_state(config, init_params(config)),
        batch.batch,
        task=batch.task,
        num_loops=2,
    )
    return jax.device_get((params, state.params, metrics["loss"]))


@pytest.mark.slow
def test_all_settings_at_once_change_no_training_step(decoder):
    bucket = BucketConfig("arithmetic", (1, 2), options={"modulus": 5})
    model = dataclasses.replace(decoder[0], text_vocab_size=0)
    config = TrainConfig(model=model, data=DataConfig(4, {"arithmetic": bucket}))
    expected = train_a_step(config)
    with settings(**COMBINED):
        found = train_a_step(config)
    jax.tree.map(np.testing.assert_array_equal, expected, found)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--xla_cpu_enable_fast_math=true"])
def test_fast_mathematics_lets_drafts_change_no_text(flag):
    code = (
        "import numpy as np; from tests import test_jax_settings as t;"
        "tokens = np.asarray(t.decode_bigram(t.PROMPTS).tokens);"
        "index = np.pad(tokens, ((0, 0), (0, 4)));"
        "drafted = t.decode_bigram(t.PROMPTS, t.ORACLE, index);"
        "np.testing.assert_array_equal(tokens, drafted.tokens)"
    )
    flags = f"{flag} --xla_force_host_platform_device_count=2"
    environment = {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, check=True
    )


@pytest.mark.parametrize("seed", [0, 1, 2**31, MAX_SEED])
def test_keys_are_those_of_the_default_settings(seed):
    expected = jax.random.key(seed)
    with settings(**COMBINED):
        found = make_key(seed)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(
        jax.random.key_data(found), jax.random.key_data(expected)
    )


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed must be 0..{MAX_SEED}, got {seed}"):
        make_key(seed)


def test_keys_of_another_implementation_are_refused():
    tokens, length = decode.pad_prompts(PROMPTS, VOCAB)
    keys = jax.random.split(jax.random.key(0, impl="rbg"), len(PROMPTS))
    with pytest.raises(ValueError, match="must be threefry2x32 keys, got rbg keys"):
        decode.start((), tokens, length, keys, model=BIGRAM, max_new_tokens=NEW)


def test_no_other_code_makes_a_key():
    makers = ("random.key", "random.PRNGKey", "random.wrap_key_data")
    for folder in ("relay_jax", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "jax_settings.py":
                calls = [n for n in ast.walk(ast.parse(path.read_text()))]
                used = [ast.unparse(n) for n in calls if isinstance(n, ast.Attribute)]
                found = [name for name in used if name.endswith(makers)]
                assert not found, f"{path} uses {found}: take jax_settings.make_key"
                imported = [
                    n
                    for n in calls
                    if isinstance(n, ast.ImportFrom) and n.module == "jax.random"
                ]
                assert not imported, f"{path} imports from jax.random"


def test_a_hugging_face_model_is_loaded_under_all_settings(tmp_path):
    folder = tiny_hf_model.write_model(tmp_path)
    how = {"max_new_tokens": 8, "drafter": "prompt_lookup", "num_draft": 4}
    expected = relay_jax.load(folder).generate(["def add"], **how).token_ids
    with settings(enable_x64=True, numpy_dtype_promotion="strict"):
        stored_params._param_shapes.cache_clear()
        found = relay_jax.load(folder).generate(["def add"], **how).token_ids
    assert found == expected

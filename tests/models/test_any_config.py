"""Any config.json of the supported settings, drawn by hypothesis: transformers' logits."""

import json
import logging
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

import relay_jax
from relay_jax.models.decoder import run_decoder
from tests.tiny_hf_model import make_theirs

torch = pytest.importorskip("torch", reason="torch is the oracle of converted models")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

TOKENS = np.random.default_rng(0).integers(0, 31, (2, 24))
FIXED = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "mistral": "MistralForCausalLM",
}

factors = st.sampled_from([1.0, 2.0, 8.0])
bases = st.sampled_from([500.0, 10_000.0, 1_000_000.0])
linear = st.fixed_dictionaries(
    {"rope_type": st.just("linear"), "factor": factors},
    optional={"rope_theta": bases},
)
old_linear = st.fixed_dictionaries({"type": st.just("linear"), "factor": factors})
llama3 = st.fixed_dictionaries(
    {
        "rope_type": st.just("llama3"),
        "factor": factors,
        "low_freq_factor": st.just(1.0),
        "high_freq_factor": st.sampled_from([2.0, 4.0]),
        "original_max_position_embeddings": st.sampled_from([8, 16, 32]),
    },
    optional={"rope_theta": bases},
)
default = st.fixed_dictionaries(
    {"rope_type": st.just("default")}, optional={"rope_theta": bases}
)
rope = st.one_of(st.none(), default, linear, llama3)


@st.composite
def configs(draw):
    """The values of a config.json; any optional one may be missing."""
    kind = draw(st.sampled_from(sorted(CLASSES)))
    heads = draw(st.sampled_from([2, 4]))
    optional = {
        "head_dim": st.sampled_from([4, 8]),
        "tie_word_embeddings": st.booleans(),
        "rms_norm_eps": st.sampled_from([1e-6, 1e-3]),
        "hidden_act": st.just("silu"),
        "initializer_range": st.just(0.02),
        "use_cache": st.booleans(),
        "attention_dropout": st.just(0.0),
        "rope_theta": bases,
        "rope_scaling": st.one_of(rope, old_linear),
        "rope_parameters": rope,
    }
    needed, groups = {}, st.sampled_from([1, 2, heads])
    if kind == "llama":  # the others have a default that needs more heads
        optional["num_key_value_heads"] = groups
        optional["attention_bias"] = st.just(False)
        optional["mlp_bias"] = st.just(False)
        optional["pretraining_tp"] = st.just(1)
    else:
        needed["num_key_value_heads"] = groups
    if kind == "mistral":
        optional["sliding_window"] = st.sampled_from([None, 5, 40])
        optional["layer_types"] = st.sampled_from(
            [["full_attention"], ["sliding_attention"]]
        )
    values = draw(st.fixed_dictionaries(needed, optional=optional))
    start = {"model_type": kind, "architectures": [CLASSES[kind]]}
    return FIXED | start | {"num_attention_heads": heads} | values


def check(values):
    with tempfile.TemporaryDirectory() as name:
        folder = epath.Path(name)
        (folder / "config.json").write_text(json.dumps(values))
        config = transformers.AutoConfig.from_pretrained(folder)
        model = make_theirs(config, 0.15).eval()
        model.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(values))
        with torch.no_grad():
            theirs = model(torch.tensor(TOKENS)).logits.float().numpy()
        lm = relay_jax.load(folder)
        with jax.default_matmul_precision("highest"):
            ours = run_decoder(lm.params, jnp.asarray(TOKENS), model=lm.config)[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.fixture(autouse=True)
def no_warnings_shown(caplog):
    caplog.set_level(logging.ERROR, "absl")


@settings(max_examples=5, deadline=None, derandomize=True, database=None)
@given(configs())
def test_some_configs(values):
    check(values)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, database=None)
@given(configs())
def test_many_configs(values):
    check(values)

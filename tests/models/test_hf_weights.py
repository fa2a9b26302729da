"""Hugging Face folders: transformers' logits and texts are the oracle, both ways.

The models are small and random, and built here: nothing is downloaded.
"""

import dataclasses
import functools
import json
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from relay_jax.config import DraftConfig, MeshConfig, ModelConfig, PositionConfig
from relay_jax.decoding import decode, result
from relay_jax.models import hf_config, hf_weights, stored_params
from relay_jax.models.decoder import run_decoder
from relay_jax.models.sharding import make_mesh
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import PLAIN, make_drafter
from relay_jax.rest.index import load_index
from tests.tiny_hf_model import make_theirs

torch = pytest.importorskip("torch", reason="torch is the oracle of converted models")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

SIZE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
CODE = {"rope_type": "default", "rope_theta": 1e6}
FAMILIES = {
    "llama2": (transformers.LlamaConfig, {}),
    "llama3": (
        transformers.LlamaConfig,
        {"num_key_value_heads": 2, "head_dim": 16, "rope_parameters": LLAMA3},
    ),
    "llama3_tied": (
        transformers.LlamaConfig,
        {"num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    "codellama": (transformers.LlamaConfig, {"rope_parameters": CODE}),
    "long_vicuna": (transformers.LlamaConfig, {"rope_parameters": LINEAR}),
    "mistral": (
        transformers.MistralConfig,
        {"num_key_value_heads": 2, "sliding_window": 5},
    ),
    "qwen2": (transformers.Qwen2Config, {"num_key_value_heads": 2}),
    "qwen2_tied": (
        transformers.Qwen2Config,
        {"num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
}
PROMPTS = [[3, 4, 5, 3, 4], [7], [9, 8, 7, 6, 5, 4, 3, 2, 30, 31, 32], [20, 21]]
NEW, EOS = 16, 2


def make_model(name, dtype=torch.float32, **changes):
    """A random model with large enough weights that its texts vary."""
    kind, values = FAMILIES[name]
    model = make_theirs(kind(**SIZE | values | changes), 0.15)
    return model.to(dtype).eval()


@pytest.fixture(scope="module")
def models():
    return {name: make_model(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """The models as folders: the first one in many files."""
    folders_by_name = {}
    for name, model in models.items():
        folders_by_name[name] = tmp_path_factory.mktemp("models") / name
        size = "20KB" if name == "llama2" else "1GB"
        model.save_pretrained(folders_by_name[name], max_shard_size=size)
    return folders_by_name


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


@functools.partial(jax.jit, static_argnums=0)
def our_logits(model, params, tokens):
    return run_decoder(params, tokens, model=model)[0]


def their_texts(model, eos_id):
    """What transformers generates after each prompt."""
    texts = []
    for prompt in PROMPTS:
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=transformers.GenerationConfig(
                max_new_tokens=NEW, do_sample=False, eos_token_id=eos_id, pad_token_id=0
            ),
        )
        texts.append(ids[0, len(prompt) :].tolist())
    return texts


def our_texts(params, model, eos_id, **rest):
    how = {"model": model, "max_new_tokens": NEW, "eos_id": eos_id} | rest
    state = decode.decode(params, PROMPTS, **how)
    length = np.array(list(map(len, PROMPTS)))
    return [row.tolist() for row in result.new_tokens(state, length)]


def some_tokens(num=24):
    return np.random.default_rng(0).integers(0, SIZE["vocab_size"], size=(2, num))


def load(folder, mesh=None):
    model = hf_config.read_model(folder)
    return model, hf_weights.load_params(folder, model, mesh)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_match_transformers_before_and_after_a_round_trip(
    name, models, folders, tmp_path
):
    model, params = load(folders[name])
    tokens, expected = some_tokens(), their_logits(models[name], some_tokens())
    logits = our_logits(model, params, tokens)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert params["norm"]["scale"].dtype == jnp.float32

    hf_weights.save_params(params, model, tmp_path, shard_bytes=20_000)
    assert (tmp_path / hf_weights.INDEX).exists()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(their_logits(again, tokens), expected, atol=1e-5)
    assert hf_config.read_model(tmp_path) == model
    hf_weights.check(tmp_path, model)
    assert again.config.max_position_embeddings == SIZE["max_position_embeddings"]
    assert model.context_length == (256 if name == "long_vicuna" else 64)


# The others differ from these only in what logits show, such as the base of RoPE.
CACHED = ("llama2", "long_vicuna", "mistral", "qwen2")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in CACHED else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_texts_match_transformers(name, models, folders):
    model, params = load(folders[name])
    expected_texts = their_texts(models[name], EOS)
    assert our_texts(params, model, EOS) == expected_texts
    assert len({token for row in expected_texts for token in row}) > 3


def test_any_of_several_tokens_ends_a_text(models, folders):
    """As `generate` does with several: here two that end different texts."""
    model, params = load(folders["llama3"])
    whole = their_texts(models["llama3"], EOS)
    ends = [whole[0][4], whole[2][9]]
    expected_texts = their_texts(models["llama3"], ends)
    assert {text[-1] for text in expected_texts} >= set(ends)
    for draft in (PLAIN, DraftConfig("prompt_lookup", num_draft=4)):
        drafter = make_drafter(draft)
        assert our_texts(params, model, tuple(ends), drafter=drafter) == expected_texts


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [
        ({"eos_token_id": [7, 9]}, {"eos_token_id": 5}, (7, 9)),
        ({"eos_token_id": 7}, {}, (7,)),
        ({}, {"eos_token_id": [5, 0]}, (5, 0)),
        (None, {"eos_token_id": 0}, (0,)),
        (None, {"eos_token_id": "gone"}, ()),
    ],
)
def test_the_tokens_that_end_a_text_are_read(broken, generation, config, wanted):
    change_config(broken, **config)
    (broken / hf_config.GENERATION).unlink(missing_ok=True)
    if generation is not None:
        (broken / hf_config.GENERATION).write_text(json.dumps(generation))
    assert hf_config.read_special(broken, "eos_token_id") == wanted


def test_the_end_of_a_text_must_be_token_ids(broken):
    (broken / hf_config.GENERATION).write_text('{"eos_token_id": [2, "</s>"]}')
    expected_texts = (
        r"generation_config.json: eos_token_id must be a token id .* \[2, '</s>'\]"
    )
    with pytest.raises(ValueError, match=expected_texts):
        hf_config.read_special(broken, "eos_token_id")


@pytest.mark.parametrize("name", ["mistral", "llama3"])
def test_drafts_change_no_text_of_a_converted_model(name, folders, tmp_path):
    model, params = load(folders[name])
    plain = decode.decode(params, PROMPTS, model=model, max_new_tokens=NEW)
    vocab_fields = {"tokenizer": "t", "vocab_size": SIZE["vocab_size"], "eos_id": 0}
    texts = np.split(np.asarray(plain.tokens), len(PROMPTS))
    store = build_datastore(
        [text[0] for text in texts], tmp_path / "store", **vocab_fields
    )
    draft = DraftConfig("rest", num_draft=16, num_store_rows=8)
    drafted = decode.decode(
        params,
        PROMPTS,
        make_drafter(draft),
        load_index(store),
        model=model,
        max_new_tokens=NEW,
    )
    np.testing.assert_array_equal(plain.tokens, drafted.tokens)
    assert drafted.steps.sum() < 0.7 * plain.steps.sum()


@pytest.mark.parametrize(
    ("name", "resolved_head_dim"), [("llama3", 16), ("qwen2_tied", 8)]
)
def test_four_devices_hold_a_shard_each_and_compute_the_same(
    name, resolved_head_dim, folders
):
    model, params = load(folders[name])
    _, spread = load(folders[name], make_mesh(MeshConfig(fsdp=2, tensor=2)))
    jax.tree.map(np.testing.assert_array_equal, params, spread)
    assert ("head" in spread) == (name == "llama3")
    kernel = spread["layers"]["attention"]["query"]["kernel"]  # [l, d, h, e]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 2, resolved_head_dim)
    tokens = some_tokens()
    one, four = (
        our_logits(model, each_params, tokens) for each_params in (params, spread)
    )
    np.testing.assert_allclose(one, four, atol=1e-5)
    drafter = make_drafter(DraftConfig("prompt_lookup", num_draft=4))
    how = {"model": model, "max_new_tokens": NEW, "drafter": drafter}
    one, four = (
        decode.decode(each_params, PROMPTS, **how) for each_params in (params, spread)
    )
    np.testing.assert_array_equal(one.tokens, four.tokens)


def test_a_device_reads_only_its_shard_of_a_tensor(folders):
    model = hf_config.read_model(folders["llama3"])
    mesh = make_mesh(MeshConfig(tensor=4))
    leaves, _ = stored_params.make_leaves(model, hf_weights.TENSORS, mesh)
    parts = {
        leaf.path: leaf.their_sharding.shard_shape(leaf.their_shape) for leaf in leaves
    }
    assert parts["layers/attention/query/kernel"] == (16, 32)  # of [h e, d]: a head
    assert parts["layers/attention/key/kernel"] == (32, 32)  # two heads for four: all
    assert parts["layers/attention/out/kernel"] == (32, 16)
    assert parts["norm/scale"] == (32,)


def test_bfloat16_survives_a_round_trip(tmp_path):
    make_model("llama3", torch.bfloat16).save_pretrained(tmp_path / "theirs")
    model, params = load(tmp_path / "theirs")
    special = {"eos_token_id": (5, 9), "bos_token_id": (3,)}
    hf_weights.save_params(params, model, tmp_path / "ours", special=special)
    assert hf_config.read_special(tmp_path / "ours", "eos_token_id") == (5, 9)
    one, two = (
        load_file(tmp_path / x / hf_weights.WEIGHTS) for x in ("theirs", "ours")
    )
    assert one.keys() == two.keys() and len(one) > 9
    for name in one:
        assert one[name].dtype == two[name].dtype == jnp.bfloat16
        np.testing.assert_array_equal(one[name], two[name])
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert (config.eos_token_id, config.bos_token_id) == ([5, 9], 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_two_bytes_keep_their_dtype(dtype, tmp_path):
    theirs = make_model("qwen2", getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    model, params = load(tmp_path)
    assert (model.dtype, model.param_dtype) == (dtype, dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    tokens = some_tokens()
    logits = our_logits(model, params, tokens)
    np.testing.assert_allclose(logits, their_logits(theirs, tokens), atol=0.25)
    wide = hf_config.read_model(tmp_path, "float32")
    logits = our_logits(wide, hf_weights.load_params(tmp_path, wide), tokens)
    exact = their_logits(
        type(theirs).from_pretrained(tmp_path, dtype="float32"), tokens
    )
    np.testing.assert_allclose(logits, exact, atol=1e-4)


def test_the_host_holds_a_tensor_at_a_time(tmp_path):
    # Large beside what tracing the model's shapes leaves until it is collected.
    sizes = {"num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 2048}
    model = make_model("llama2", **sizes)
    model.save_pretrained(tmp_path)
    total = sum(leaf.numel() for leaf in model.parameters()) * 4
    load(tmp_path)  # what is compiled stays
    tracemalloc.start()
    load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    largest = 64 * 2048 * 4
    assert peak < 6 * largest < total / 5


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of a folder that a test may damage."""
    shutil.copytree(folders["llama3"], tmp_path / "copy")
    return tmp_path / "copy"


def change_config(folder, **changes):
    file = folder / "config.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in values.items() if v != "gone"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            "the architecture GemmaForCausalLM is not supported; supported are Llama",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            "the RoPE type 'yarn' is not supported; supported are default, linear, ll",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 4.0}},
            "RoPE of type 'llama3' has no 'high_freq_factor'",
        ),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported"),
        ({"attention_bias": True}, "attention_bias is True; only False is supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"hidden_size": "gone"}, "hidden_size must be a whole number .*, got None"),
        ({"hidden_size": "32"}, "hidden_size must be a whole number .*, got '32'"),
        ({"hidden_size": 0}, "hidden_size must be .* from 1 to 1048576, got 0"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers must be .* got 1000000000"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple"),
        ({"num_key_value_heads": -1}, "num_key_value_heads must be .* got -1"),
        ({"head_dim": 15}, "the width of a head must be even for RoPE, got 15"),
        ({"head_dim": "gone", "hidden_size": 33}, r"hidden_size \(33\) must be a mult"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number above 0, got 0"),
        ({"max_position_embeddings": -1}, "max_position_embeddings must be .* got -1"),
        ({"architectures": {"a": 1}}, "the architecture {'a': 1} is not supported"),
        (
            {"rope_parameters": ["linear"]},
            "the settings of RoPE must be a dict, got .'",
        ),
        (
            {"rope_parameters": LLAMA3 | {"factor": 0}},
            "factor must be .* above 0, got 0",
        ),
        ({"rope_parameters": LLAMA3 | {"factor": "8"}}, "factor must .* got '8'"),
        (
            {"rope_parameters": {"rope_theta": -1.0}},
            "rope_theta must be a number above",
        ),
        (
            {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}},
            "low_freq_factor must be below its high_freq_factor, got 4.0 and 4.0",
        ),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": -1},
            "sliding_window must be a whole number from 0 to 1048576, got -1",
        ),
        (
            {
                "architectures": ["MistralForCausalLM"],
                "layer_types": ["full_attention", "sliding_attention"],
            },
            "only layers of one type are supported",
        ),
        ({"is_causal": False}, "is_causal is False; only True is supported"),
        ({"dtype": "int8"}, "dtype must be one of 'float32', 'bfloat16', 'float16'"),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor is 0.5; only 1.0 is supported",
        ),
    ],
)
def test_unsupported_configs_are_named(broken, changes, message):
    change_config(broken, **changes)
    with pytest.raises(ValueError, match=message):
        hf_config.read_model(broken)


def rewrite(folder, change):
    """Changes the tensors of a folder of one file."""
    tensors = load_file(folder / hf_weights.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / hf_weights.WEIGHTS, {"format": "pt"})


NORM, QUERY = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QUERY), f"has no {QUERY}, which its config asks for"),
        (
            lambda t: t.update({QUERY: t[QUERY].T.copy()}),
            rf"{QUERY} in .* has the shape \(32, 64\); by .* must be \(64, 32\)",
        ),
        (
            lambda t: t.update({NORM: t[NORM].astype(np.int8)}),
            f"{NORM} in .* is of type I8; only F32, F16, BF16 can be read",
        ),
        (
            lambda t: t.update({"model.extra.weight": t[NORM]}),
            "holds model.extra.weight, which is unknown to the decoder",
        ),
    ],
)
def test_wrong_tensors_are_named_before_anything_is_read(
    broken, change, message, monkeypatch
):
    rewrite(broken, change)
    monkeypatch.setattr(stored_params, "load_leaf", None)
    with pytest.raises(ValueError, match=message):
        load(broken)


def test_missing_and_damaged_files_are_named(folders, broken):
    shutil.copytree(folders["llama2"], broken / "parts")
    gone = sorted((broken / "parts").glob("*.safetensors"))[1]
    gone.unlink()
    assert hf_config.is_hugging_face(broken / "parts")
    with pytest.raises(ValueError, match=f"{gone} is missing, though model.safetens"):
        load(broken / "parts")
    no_map = "index.json must have a weight_map that"
    for wrong, message in (
        ("{}", no_map),
        ('{"weight_map": {"a": 1}}', no_map),
        ("[]", r"index.json is damaged: expected a JSON object, got '\[\]'"),
    ):
        (broken / "parts" / hf_weights.INDEX).write_text(wrong)
        with pytest.raises(ValueError, match=message):
            load(broken / "parts")
    (broken / hf_weights.WEIGHTS).write_bytes(b"no header")
    with pytest.raises(ValueError, match="model.safetensors is damaged: "):
        load(broken)
    (broken / hf_weights.WEIGHTS).unlink()
    with pytest.raises(ValueError, match="has neither model.safetensors nor .*index"):
        load(broken)
    (broken / "config.json").write_text("{}")  # as a run directory of ours has
    with pytest.raises(ValueError, match="is no Hugging Face folder: it has no config"):
        load(broken)


def test_decoders_without_a_counterpart_are_refused(tmp_path):
    llama = ModelConfig(
        kind="decoder", norm="rms", activation="swiglu", text_vocab_size=61, dropout=0.0
    )
    assert hf_config.write_model(llama)["architectures"] == ["LlamaForCausalLM"]
    with pytest.raises(ValueError, match="its norm is 'layer'; the nearest one, Llama"):
        hf_config.write_model(ModelConfig(kind="decoder", activation="swiglu"))
    bias = PositionConfig(scheme="relative_bias")
    with pytest.raises(ValueError, match="its position is .*relative_bias"):
        hf_weights.save_params({}, dataclasses.replace(llama, position=bias), tmp_path)


def test_tied_embeddings_may_be_stored_twice(folders, tmp_path):
    folder = shutil.copytree(folders["llama3_tied"], tmp_path / "copy")
    name = "model.embed_tokens.weight"
    rewrite(folder, lambda t: t.update({hf_weights.HEAD: t[name].copy()}))
    assert "head" not in load(folder)[1]

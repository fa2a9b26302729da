"""Folders in which two places say one thing: transformers' logits are the oracle.

What is not used is named in a warning.
"""

import json
import logging as python_logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import relay_jax
from relay_jax.models import hf_config, hf_weights
from relay_jax.models.decoder import run_decoder
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
    "tie_word_embeddings": False,
}
TOKENS = np.random.default_rng(0).integers(0, 61, (2, 40))
LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
BASE = {"rope_theta": 500_000.0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "saved"
    make_theirs(transformers.LlamaConfig(**SIZE), 0.15).save_pretrained(path)
    return path


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def change_config(folder, changes):
    file = folder / "config.json"
    values = json.loads(file.read_text()) | changes
    values = {key: value for key, value in values.items() if value != "gone"}
    file.write_text(json.dumps(values))


def their_logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def our_logits(folder):
    lm = relay_jax.load(folder)
    with jax.default_matmul_precision("highest"):
        return run_decoder(lm.params, jnp.asarray(TOKENS), model=lm.config)[0]


def check(folder, caplog, named):
    """The logits are transformers', and a warning has all of `named`, if any."""
    with caplog.at_level(python_logging.WARNING, "absl"):
        logits = our_logits(folder)
    lines = [x.getMessage() for x in caplog.records if x.name == "absl"]
    assert len(lines) == bool(named)
    assert all(part in line for line in lines for part in named)
    np.testing.assert_allclose(logits, their_logits(folder), atol=1e-3)


BOTH = ("rope_scaling", "rope_parameters")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_scaling": LINEAR}, BOTH),
        ({"rope_scaling": LLAMA3}, BOTH),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, BOTH),
        ({"rope_scaling": {"rope_type": "default"}, "rope_parameters": LLAMA3}, BOTH),
        ({"rope_scaling": LINEAR, "rope_parameters": YARN}, BOTH),
        # The base is lost with `rope_parameters`.
        (
            {"rope_scaling": LINEAR, "rope_parameters": BASE},
            (*BOTH, "500000.0", "10000.0"),
        ),
        ({"rope_scaling": LINEAR, "rope_parameters": BASE} | BASE, BOTH),
        ({"rope_scaling": LINEAR | BASE, "rope_parameters": LINEAR | BASE}, ()),
        ({"rope_scaling": LLAMA3, "rope_parameters": LLAMA3 | BASE} | BASE, ()),
        ({"rope_scaling": None, "rope_parameters": LLAMA3}, ()),
        ({"rope_scaling": {}, "rope_parameters": LINEAR}, ()),
        ({"rope_parameters": BASE, "rope_theta": 2e4}, ("rope_theta", "20000.0")),
        ({"rope_parameters": LINEAR, "rope_theta": 2e4}, ()),
        (
            {"rope_parameters": LLAMA3, "original_max_position_embeddings": 8},
            ("original_max_position_embeddings is 16 in one place and 8 in another",),
        ),
        (
            {"rope_parameters": {"type": "linear", **LLAMA3}},
            (),  # `type` is the old name of `rope_type`
        ),
        ({"dtype": "float32", "torch_dtype": "bfloat16"}, ("dtype", "torch_dtype")),
        ({"dtype": None, "torch_dtype": "float32"}, ()),
    ],
    ids=str,
)
def test_a_setting_in_two_places_is_that_of_transformers(
    folder, changes, named, caplog
):
    change_config(folder, changes)
    check(folder, caplog, named)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": YARN}, "the RoPE type 'yarn' is not supported"),
        ({"rope_scaling": YARN, "rope_parameters": LINEAR}, "the RoPE type 'yarn' is"),
        ({"rope_scaling": ["linear"]}, "the settings of RoPE must be a dict"),
        ({"rope_scaling": {"rope_type": "linear"}}, "of type 'linear' has no 'factor'"),
        (
            {
                "partial_rotary_factor": 1.0,
                "rope_parameters": {"partial_rotary_factor": 0.5},
            },
            "partial_rotary_factor is 0.5; only 1.0 is supported",
        ),
    ],
    ids=str,
)
def test_what_wins_must_be_supported(folder, changes, message):
    change_config(folder, changes)
    with pytest.raises(ValueError, match=message):
        relay_jax.load(folder)


def test_another_type_than_the_architecture_is_named(folder, caplog):
    change_config(folder, {"model_type": "mistral"})
    with caplog.at_level(python_logging.WARNING, "absl"):
        hf_config.read_model(folder)
    assert "model_type is 'mistral', but architectures names Llama" in caplog.text


HEAD, EMBEDDING = hf_weights.HEAD, hf_weights.EMBEDDING


@pytest.mark.parametrize("row", [None, 0, 17, 60])
def test_tied_tables_that_differ_are_not_tied(folder, row, caplog):
    """`tie_word_embeddings` and both tables, which differ in one row, or not at all."""
    change_config(folder, {"tie_word_embeddings": True})
    tensors = load_file(folder / hf_weights.WEIGHTS)
    head = tensors[EMBEDDING].copy()
    if row is not None:
        head[row] = tensors[HEAD][row]
    save_file(tensors | {HEAD: head}, folder / hf_weights.WEIGHTS, {"format": "pt"})
    named = () if row is None else ("tie_word_embeddings", HEAD, EMBEDDING)
    check(folder, caplog, named)
    model = hf_config.read_model(folder)
    assert model.tie_embeddings
    assert hf_weights.untie(folder, model).tie_embeddings == (row is None)
    if row is not None:
        with pytest.raises(ValueError, match=f"{EMBEDDING} and {HEAD} differ"):
            hf_weights.load_params(folder, model)


def test_tied_tables_are_compared_in_the_type_of_the_model(folder, monkeypatch):
    """What differs in float32 alone is one table in bfloat16; in pieces of a few rows."""
    monkeypatch.setattr(hf_weights, "ROWS", 7)
    change_config(folder, {"tie_word_embeddings": True})
    tensors = load_file(folder / hf_weights.WEIGHTS)
    tensors[HEAD] = tensors[EMBEDDING].copy()
    tensors[HEAD][60] *= 1 + 1e-6
    save_file(tensors, folder / hf_weights.WEIGHTS, {"format": "pt"})
    for dtype, is_tied in (("float32", False), ("bfloat16", True)):
        model = hf_config.read_model(folder, dtype)
        assert hf_weights.untie(folder, model).tie_embeddings == is_tied


def test_weights_in_one_file_win_over_those_in_many(folder, caplog):
    """As if a model had been saved again into the folder of a larger one."""
    tensors = load_file(folder / hf_weights.WEIGHTS)
    old = {name: 2 * tensor for name, tensor in tensors.items()}
    save_file(old, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    weight_map = dict.fromkeys(old, "model-00001-of-00001.safetensors")
    (folder / hf_weights.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    check(folder, caplog, (hf_weights.WEIGHTS, hf_weights.INDEX))


def test_the_index_names_the_file_of_a_tensor_that_two_files_have(folder):
    tensors = load_file(folder / hf_weights.WEIGHTS)
    expected = our_logits(folder)
    (folder / hf_weights.WEIGHTS).unlink()
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_file(tensors, folder / files[0], {"format": "pt"})
    save_file({HEAD: 2 * tensors[HEAD]}, folder / files[1], {"format": "pt"})
    weight_map = dict.fromkeys(tensors, files[0]) | {"unknown": files[1]}
    (folder / hf_weights.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(our_logits(folder), expected)

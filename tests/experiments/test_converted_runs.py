"""A Hugging Face folder and a run directory are equivalent and convert both ways."""

import json

import jax
import numpy as np
import pytest
import sentencepiece

from relay_jax import config_io, pretrained
from relay_jax.config import TrainConfig
from relay_jax.models import hf_config, hf_weights
from relay_jax.rest.build import build_datastore
from relay_jax.training import checkpoint
from relay_jax.training.step import init_params
from tests import gguf_files
from tests.experiments.test_scripts import refusal, script

LLAMA = {
    "kind": "decoder",
    "num_layers": 2,
    "dim": 16,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 4,
    "mlp_dim": 16,
    "norm": "rms",
    "activation": "swiglu",
    "dropout": 0.0,
    "text_vocab_size": 320,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory as `save_params` makes it, with Llama's kind of tokenizer."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    config = config_io.build(TrainConfig, {"model": LLAMA, "name": "tiny"})
    checkpoint.save_params(path, config, init_params(config))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"def f{i}(x): return x + {i}" for i in range(99)]),
        model_prefix=str(path / "tokenizer"),
        model_type="bpe",
        vocab_size=300,  # fewer than the model's tokens, as in Qwen
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    return path


def test_a_run_survives_a_round_trip(run, tmp_path):
    folder, again = tmp_path / "hugging_face", tmp_path / "again"
    done = script("export", f"--from={run}", "--to=hugging_face", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert (folder / hf_weights.WEIGHTS).exists() and (
        folder / "tokenizer.model"
    ).exists()
    done = script("export", f"--from={folder}", "--to=run", f"--workdir={again}")
    assert done.returncode == 0, done.stderr
    (_, params), (config, found) = map(checkpoint.load_params, (run, again))
    assert config_io.to_dict(config.model) == config_io.to_dict(config.model) | LLAMA
    jax.tree.map(np.testing.assert_array_equal, params, found)

    prompt = "--prompt=def f1(", "--max_new_tokens=12", "--num_draft=4", "--ignore_eos"
    how = f"--run={folder}", "--drafter=prompt_lookup", *prompt
    spread = script("generate", *how, "--mesh=1,1", "--print_ids")
    assert spread.returncode == 0, spread.stderr
    assert len(spread.stdout.split(",")) == 12
    # The end-of-text tokens that the folder names are converted too, both ways.
    file, ours = folder / "config.json", config_io.to_dict(config.model)
    values = json.loads(file.read_text())
    assert (values["bos_token_id"], values["eos_token_id"]) == (1, 2)
    file.write_text(json.dumps(values | {"eos_token_id": [5, 9]}))
    (folder / "special_tokens_map.json").write_text("{}")
    for source, form, target in (
        (folder, "run", tmp_path / "run"),
        (tmp_path / "run", "hugging_face", tmp_path / "last"),
    ):
        done = script(
            "export", f"--from={source}", f"--to={form}", f"--workdir={target}"
        )
        assert done.returncode == 0, done.stderr
        assert hf_config.read_special(target, "eos_token_id") == (5, 9)
        assert (target / "special_tokens_map.json").exists()
    last = json.loads((tmp_path / "last" / "config.json").read_text())
    assert (last["bos_token_id"], last["eos_token_id"]) == (1, [5, 9])
    assert config_io.to_dict(hf_config.read_model(tmp_path / "last")) == ours

    taken = refusal("export", f"--from={folder}", "--to=run", f"--workdir={again}")
    assert f"{again} holds a model already" in taken
    many = refusal("generate", *how, f"--run={again}", "--mesh=1,64")
    assert "a mesh of 1 x 1 x 64 (data, fsdp, tensor) does not fit the 1 dev" in many


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(run, tmp_path):
    file = run / "config.json"
    small = tmp_path / "small"
    small.mkdir()
    values = json.loads(file.read_text())
    values["model"]["text_vocab_size"] = 99
    (small / "config.json").write_text(json.dumps(values))
    (small / "tokenizer.model").write_bytes((run / "tokenizer.model").read_bytes())
    flags = f"--run={small}", "--drafter=prompt_lookup", "--prompt=x"
    message = refusal("generate", *flags)
    assert "tokens, the model 99; give the model's own" in message


def test_ids_need_no_tokenizer(tmp_path):
    model = config_io.build(TrainConfig, {"model": LLAMA}).model
    hf_weights.save_params(init_params(TrainConfig(model=model)), model, tmp_path / "m")
    vocab = {"tokenizer": "", "vocab_size": 320, "eos_id": 2}
    build_datastore([np.arange(3, 99)], tmp_path / "store", **vocab)
    how = f"--run={tmp_path}/m", "--prompt_ids=5,6,7", "--max_new_tokens=9"
    ids = *how, "--print_ids", "--ignore_eos"
    plain = script("generate", *ids, "--drafter=none")
    assert plain.returncode == 0, plain.stderr
    assert len(plain.stdout.split(",")) == 9
    store = f"--datastore={tmp_path}/store", "--num_draft=8"
    drafted = script("generate", *ids, *store)
    assert drafted.returncode == 0, drafted.stderr
    assert drafted.stdout == plain.stdout
    message = refusal("generate", *how, "--drafter=none")
    assert (
        "use token ids (experiments/generate.py: --prompt_ids --print_ids)" in message
    )


def test_a_gguf_file_becomes_a_folder_and_a_run(tmp_path):
    file = gguf_files.write(tmp_path / "x.gguf", fields=gguf_files.TOKENIZER)
    opened = [pretrained.open_folder(file, dtype="bfloat16")]
    for options in ([], ["--to=run"]):
        where = tmp_path / f"to{len(opened)}"
        how = f"--from={file}", f"--workdir={where}", "--dtype=bfloat16", *options
        done = script("export", *how)
        assert done.returncode == 0, done.stderr
        opened.append(pretrained.open_folder(where))
    assert [folder.form for folder in opened] == ["gguf", "hugging_face", "run"]
    first, *others = opened
    for folder in others:
        params = [folder.load_params() for folder in (first, folder)]
        jax.tree.map(np.testing.assert_array_equal, *params)
        assert folder.config.model == first.config.model
        assert folder.tokenizer.identity == first.tokenizer.identity
        assert folder.eos_ids == first.eos_ids == (1,)
    wrong = refusal("export", f"--from={file}", "--to=weights", f"--workdir={tmp_path}")
    assert "is a GGUF file; give --to=hugging_face or run" in wrong

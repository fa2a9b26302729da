"""From source files to a datastore that drafts a language model's text."""

import pytest

from experiments.configs import code_lm
from relay_jax import config as configs
from relay_jax import config_io
from tests.experiments.test_scripts import refusal, script

SMALL = [
    "--config=experiments/configs/code_lm.py",
    *("--config.train.model.dim=16", "--config.train.model.num_layers=1"),
    *("--config.train.model.num_heads=2", "--config.train.model.mlp_dim=16"),
    *("--config.train.model.text_vocab_size=340", "--config.train.num_steps=4"),
    *("--config.train.evaluation.final=4", "--config.corpus.held_out_one_in=4"),
]


@pytest.mark.parametrize("size", code_lm.SIZES)
def test_configs_are_complete(size):
    config = config_io.build(configs.LanguageConfig, code_lm.get_config(size).to_dict())
    assert config.train.model.kind == "decoder" and config.train.model.text_vocab_size


def test_the_run_directory_is_all_that_drafting_needs(tmp_path):
    for number in range(24):
        text = f"def function_{number}(x):\n    return x + {number}\n\n\n" * 60
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code" / f"module_{number}.py").write_text(text)
    run = tmp_path / "run"
    train = *SMALL, f"--config.corpus.folder={tmp_path}/code", f"--workdir={run}"
    wrong = refusal("train", *train, "--config.train.model.num_heads=3")
    assert "model.dim (16) must be a multiple of" in wrong and not run.exists()
    done = script("train", *train)
    assert done.returncode == 0, done.stderr
    assert "held-out token_loss" in done.stdout
    assert script("train", *train).stdout == done.stdout
    measure = f"--run={run}", "--count=4"
    done = script("evaluate", *measure, f"--workdir={tmp_path}/evaluation")
    assert done.returncode == 0, done.stderr
    assert f"{run}: token_loss" in done.stdout
    foreign = refusal("evaluate", *measure, "--task=lis", f"--workdir={tmp_path}/other")
    assert "was not evaluated on 'lis', only on text; give --lengths" in foreign

    store = f"--datastore={tmp_path}/store"
    corpus = f"--token_array={run}/train.npy", f"--tokenizer={run}/tokenizer.model"
    done = script("build_datastore", store, *corpus)
    assert done.returncode == 0, done.stderr
    # Token ids alone, without the name of their tokenizer.
    untold = f"--datastore={tmp_path}/untold"
    done = script(
        *("build_datastore", untold, corpus[0], "--eos_id=1", "--vocab_size=340")
    )
    assert done.returncode == 0, done.stderr
    prompt = "--prompt=def function_", "--max_new_tokens=12", "--num_draft=8"
    texts = []
    for index in ("device", "mesh", "host"):
        arguments = f"--run={run}", store, f"--index={index}", *prompt
        done = script("generate", *arguments, devices=3)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
    done = script("generate", f"--run={run}", untold, *prompt)
    assert "untold does not name its tokenizer (build_datastore: --tok" in done.stderr
    texts.append(done.stdout)
    assert len(set(texts)) == 1 and len(texts[0]) > 5

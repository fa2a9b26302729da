"""A run on text: the one loop, the one decoder; it learns, resumes and is measured."""

import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.data.text import open_windows
from relay_jax.evaluation.perplexity import make_text_records
from relay_jax.models.decoder import run_decoder
from relay_jax.training import checkpoint, loop

VALUES = {
    "name": "lm",
    "model": {
        "kind": "decoder",
        "num_layers": 1,
        "dim": 16,
        "mlp_dim": 32,
        "num_heads": 2,
        "text_vocab_size": 12,
        "dropout": 0.0,
    },
    "optimizer": {"learning_rate": 1e-2},
    "data": {
        "batch_size": 8,
        "buckets": {
            "text": {
                "task": "text",
                "kind": "text",
                "path": "train.npy",
                "lengths": (8, 8),
            }
        },
    },
    "evaluation": {
        "text": "held_out.npy",
        "context": 8,
        "every_steps": 20,
        "during": 3,
        "final": 50,
        "batch_size": 4,
    },
    "num_steps": 60,
    "log_every_steps": 10,
}


def make(path, **changes):
    path.mkdir()
    for name in ("train", "held_out"):
        np.save(path / f"{name}.npy", np.arange(300, dtype=np.uint16) % 11)
    return config_io.build(configs.TrainConfig, VALUES | changes)


def test_a_run_on_text_learns_and_is_measured(tmp_path):
    config = make(tmp_path / "run")
    summary = loop.train(config, tmp_path / "run")
    final = {line["metric"]: line for line in summary["final"]}
    assert final["token_accuracy"]["value"] == 1.0
    assert final["token_loss"]["value"] < 1.0
    assert final["token_loss"]["count"] == 37 * 8  # windows that do not overlap
    assert final["token_loss"]["task"] == "text" and final["token_loss"]["length"] == 8
    lines = list(files.read_lines(tmp_path / "run" / "records.jsonl"))
    assert [line["step"] for line in lines] == [20, 20, 40, 40, 60, 60]
    assert lines[0]["count"] == 3 * 8


def test_an_interrupted_run_on_text_ends_with_the_same_parameters(
    tmp_path, monkeypatch
):
    often = {"checkpoint_every_seconds": 0.0, "num_steps": 12, "log_every_steps": 1}
    whole = loop.train(make(tmp_path / "whole", **often), tmp_path / "whole")
    append = files.append_lines

    def crash(path, lines):
        append(path, lines)
        if any(line.get("step") == 7 for line in lines):
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "append_lines", crash)
    config = make(tmp_path / "cut", **often)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "cut")
    monkeypatch.undo()
    again = loop.train(config, tmp_path / "cut")
    assert again["params_sha256"] == whole["params_sha256"]


def test_held_out_loss_is_the_mean_over_all_tokens(tmp_path):
    """For any batch size; the oracle evaluates windows one by one."""
    config = make(tmp_path / "run", num_steps=2)
    loop.train(config, tmp_path / "run")
    _, params = checkpoint.load_params(tmp_path / "run")
    windows = open_windows(tmp_path / "run" / "held_out.npy", 8, 12)
    common = {"run": "run", "task": "text", "model": "lm", "seed": 0}
    losses, right = [], []
    for row in windows.evenly_spaced(5).tokens:
        logits = np.asarray(
            run_decoder(params, jnp.asarray(row[None, :-1]), model=config.model)[0][0]
        )
        probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        losses.append(-np.log(probability[np.arange(8), row[1:]]))
        right.append(logits.argmax(axis=-1) == row[1:])
    for batch_size in (2, 5):
        lines = make_text_records(params, config.model, windows, 5, batch_size, common)
        assert lines[0]["value"] == pytest.approx(np.mean(losses), rel=1e-4)
        assert lines[1]["value"] == pytest.approx(np.mean(right))


def test_missing_held_out_text_is_refused_before_training(tmp_path):
    config = make(tmp_path / "run")
    (tmp_path / "run" / "held_out.npy").unlink()
    with pytest.raises(ValueError, match="held_out.npy does not exist"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()

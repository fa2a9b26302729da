"""Chains as a datastore for the AR model that was trained on them."""

import json

import numpy as np
import pytest

from experiments.configs import quickstart
from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.data.alignment import flatten, sizes
from relay_jax.data.chain_files import chain_file, save_chains
from relay_jax.data.sources import SyntheticSource, concatenate, is_test
from relay_jax.relay import chain_datastore
from relay_jax.tasks import TASKS
from relay_jax.training import loop

TASK = TASKS["arithmetic"](modulus=5)
LENGTHS = (2, 3)


@pytest.fixture
def stages(tmp_path):
    """A quickstart's directory: true chains, and an AR model after one step."""
    values = quickstart.get_config().to_dict()
    chains = {"chains_arithmetic": values["chains"]["chains_arithmetic"]}
    chains["chains_arithmetic"]["counts"] = {str(n): 40 for n in LENGTHS}
    folder = tmp_path / "chains_arithmetic"
    folder.mkdir()
    for length in LENGTHS:
        parts = [
            SyntheticSource(TASK, (length, length), 0, s) for s in ("train", "test")
        ]
        examples = concatenate([part.take(np.arange(20)) for part in parts])
        save_chains(chain_file(folder, TASK, length), examples, np.zeros(1, int))
    (folder / "config.json").write_text(json.dumps(chains["chains_arithmetic"]))
    (folder / "summary.json").write_text("{}")
    run = values["runs"]["ar_relay"] | {"num_steps": 1, "init_from": ""}
    run["model"] |= {"dim": 16, "num_layers": 1, "mlp_dim": 16, "remat": False}
    run["evaluation"]["lengths"] = {}
    for bucket in run["data"]["buckets"].values():
        bucket["lengths"] = LENGTHS
    config = config_io.build(
        configs.RelayConfig, {"runs": {"ar_relay": run}, "chains": chains}
    )
    loop.train(config.runs["ar_relay"], tmp_path / "ar_relay")
    return config, tmp_path


def test_speed_is_measured_once(stages, monkeypatch, expensive_steps):
    config, path = stages
    monkeypatch.setattr(chain_datastore, "COUNT", 8)
    lines = chain_datastore.compare_speed(config, path, path / "times.json")
    assert [line["drafter"] for line in lines] == ["none", "rest", "rest"]
    assert [line["num_draft"] for line in lines] == [
        0,
        8,
        0,
    ]  # drafts cost too much here
    assert lines[2]["autotuned"] and lines[2]["M"] == 1.0 <= lines[1]["M"]
    assert lines[0]["prompts"] == "arithmetic" and lines[0]["length"] == 3
    assert lines == list(files.read_lines(path / "rest_records.jsonl"))
    monkeypatch.setattr(
        chain_datastore, "build_store", None
    )  # must not be called again
    assert chain_datastore.compare_speed(config, path) == lines
    bare = configs.RelayConfig(runs={}, chains={})
    assert chain_datastore.compare_speed(bare, path / "other") == []


def test_the_datastore_has_no_test_problem(stages):
    config, path = stages
    store = chain_datastore.build_store(
        config.chains, path, chain_datastore.TaskTokenizer(8)
    )
    documents = np.split(
        store.shards[0].tokens,
        np.flatnonzero(store.shards[0].tokens == store.eos_id)[:-1] + 1,
    )
    assert len(documents) == store.num_documents == 40
    examples = SyntheticSource(TASK, (2, 2), 0, "train").take(np.arange(20))
    assert not is_test(examples.problem).any()
    tokens, _ = flatten(examples, TASK)
    for document, row, size in zip(documents, tokens, sizes(tokens)):
        np.testing.assert_array_equal(document, row[:size])

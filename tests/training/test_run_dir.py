"""Run directories: which config opens one, old ones included."""

import dataclasses

import pytest

from relay_jax import config_io, files
from relay_jax.config import MeshConfig, TrainConfig
from relay_jax.training import checkpoint, loop, run_dir
from tests.training.runs import small, stop_after


def old_config(config):
    """The config.json that an earlier version wrote for the same run."""
    values = config_io.to_dict(config)
    for part, new, old in (
        ("model", "input_injection", "loop_input"),
        ("model", "tie_embeddings", "tied_words"),
        ("model", "text_vocab_size", "vocab_size"),
        ("loss", "max_value_offset", "max_shift"),
        ("loss", "value_gap_prob", "gap_share"),
    ):
        values[part][old] = values[part].pop(new)
    for bucket in values["data"]["buckets"].values():
        bucket["most_rounds"] = bucket.pop("max_rounds")
        bucket["drawn_rounds"] = bucket.pop("sampled_rounds")
        bucket |= {"num_examples": 0, "options": {"lean": False, **bucket["options"]}}
    for options in values["evaluation"]["options"].values():
        options["lean"] = False
    values["data"]["num_devices"] = values.pop("mesh")["data"]
    del values["data"]["accumulate"]
    return values


def with_options(**options):
    """`small` with an option of its task, in training and evaluation."""
    values = config_io.to_dict(small())
    for bucket in values["data"]["buckets"].values():
        bucket["options"] |= options
    values["evaluation"]["options"]["arithmetic"] |= options
    return config_io.build(TrainConfig, values)


def test_a_directory_of_an_earlier_version_is_resumed(tmp_path, monkeypatch):
    """Its config.json has other names; its checkpoint is the same."""
    config = with_options(right_heavy=False)
    whole = loop.train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(loop.Stopped, match="stopped at step 3; run the same com"):
            loop.train(config, tmp_path / "cut")
    old = old_config(config)
    files.write_json(tmp_path / "cut" / "config.json", old)
    assert run_dir.read_config(tmp_path / "cut") == config
    assert (
        loop.train(config, tmp_path / "cut")["params_sha256"]
        == (whole["params_sha256"])
    )
    old["data"]["num_devices"] = 4  # the old name of mesh.data; it may change
    files.write_json(tmp_path / "cut" / "config.json", old)
    assert run_dir.read_config(tmp_path / "cut").mesh == MeshConfig(data=4)
    assert loop.train(config, tmp_path / "cut")["steps"] == 6


@pytest.mark.parametrize(
    "part, key, value",
    [
        ("model", "loop_input", "problem"),
        ("bucket", "num_examples", 7),
        ("position", "scheme", "none"),
    ],
)
def test_a_directory_with_a_removed_setting_is_refused(tmp_path, part, key, value):
    old = old_config(small())
    parts = {
        "model": old["model"],
        "bucket": old["data"]["buckets"]["arithmetic"],
        "position": old["model"]["position"],
    }
    parts[part][key] = value
    files.write_json(tmp_path / "config.json", old)
    for use in (
        lambda: loop.train(small(), tmp_path),
        lambda: checkpoint.load_params(tmp_path),
    ):
        with pytest.raises(ValueError) as error:
            use()
        assert str(error.value) == (
            f"{tmp_path}/config.json: the setting {key}={value!r} is of an earlier "
            "version and has been removed; check out that version to use this run"
        )
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_field_that_a_config_lacks_has_its_default(tmp_path):
    run_dir.open_run(tmp_path, small())
    file = tmp_path / "config.json"
    values = files.read_json(file)
    del values["optimizer"]["kind"]  # as in a directory of a version without it
    files.write_json(file, values)
    run_dir.open_run(tmp_path, small())
    muon = small(optimizer=values["optimizer"] | {"kind": "muon"})
    with pytest.raises(ValueError, match="optimizer.kind is 'adamw' there and 'muon'"):
        run_dir.open_run(tmp_path, muon)
    files.write_json(file, values | {"gone": 1})
    with pytest.raises(ValueError, match="gone is 1 there and None here"):
        run_dir.open_run(tmp_path, small())


def test_only_settings_of_the_computation_may_change(tmp_path):
    config = small()
    run_dir.open_run(tmp_path, config)
    data = dataclasses.replace(config.data, num_workers=2, accumulate=2)
    run_dir.open_run(tmp_path, dataclasses.replace(config, data=data))
    data = dataclasses.replace(config.data, batch_size=8)
    with pytest.raises(ValueError, match="data.batch_size is 4 there and 8 here"):
        run_dir.open_run(tmp_path, dataclasses.replace(config, data=data))


def test_another_config_is_refused(tmp_path):
    run_dir.open_run(tmp_path, small(num_steps=2))
    message = r"holds a run of another config: num_steps is 2 .* to resume it"
    with pytest.raises(ValueError, match=message):
        loop.train(small(num_steps=3), tmp_path)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("content", [b"[]", b"null", b'{"cut', b"\xff"])
def test_a_damaged_file_of_a_run_is_named(tmp_path, name, content):
    run_dir.open_run(tmp_path, small())
    (tmp_path / name).write_bytes(content)
    message = f"{name} is damaged: .* create its directory again"
    with pytest.raises(ValueError, match=message):
        checkpoint.load_params(tmp_path)
    with pytest.raises(ValueError, match=message):
        loop.train(small(), tmp_path)

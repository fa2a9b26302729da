"""Stages: their dependencies, the checks before they start, finished ones."""

import os
import pathlib
import subprocess
import sys

import pytest
from etils import epath

from experiments.configs import paper, quickstart
from relay_jax import config as configs
from relay_jax import config_io
from relay_jax.relay import stages
from relay_jax.relay.stage_checks import check_stages
from relay_jax.training import run_dir

ROOT = pathlib.Path(__file__).parents[2]


def plan(module=quickstart, *arguments):
    values = module.get_config(*arguments).to_dict()
    return stages.all_stages(config_io.build(configs.RelayConfig, values))


def test_dependencies():
    found = {name: stages.dependencies(stage) for name, stage in plan().items()}
    assert found == {
        "ar": set(),
        "looped_vanilla": set(),
        "looped_aligned": set(),
        "looped_feedback": set(),
        "chains_arithmetic": {"looped_aligned"},
        "ar_relay": {"ar", "chains_arithmetic"},
        "ar_control": {"ar"},
    }


def test_generated_chains_come_in_phases():
    planned = plan(paper, "lis")
    assert stages.dependencies(planned["chains_self_loop_1"]) == {
        "ar",
        "looped_vanilla",
    }
    assert stages.dependencies(planned["ar_self_loop_1"]) == {
        "ar",
        "chains_self_loop_1",
    }
    assert stages.dependencies(planned["chains_self_loop_2"]) == {
        *("ar_self_loop_1", "looped_vanilla"),
    }
    assert stages.dependencies(planned["ar_self_oracle_5"]) == {
        "ar_self_oracle_4",
        *(f"chains_self_oracle_{phase}" for phase in range(1, 6)),
    }
    assert [int(*planned[f"chains_self_loop_{i}"].counts) for i in range(1, 6)] == [
        *(101, 102, 103, 104, 105),
    ]


def test_a_phase_of_the_multitask_baselines_has_chains_of_every_task():
    planned, counts = plan(paper, "multitask"), {}
    tasks = ("arithmetic", "edit_distance", "lis")
    assert stages.dependencies(planned["ar_self_loop_1"]) == {
        "ar",
        *(f"chains_self_loop_1_{task}" for task in tasks),
    }
    for task in tasks:
        phases = [planned[f"chains_self_oracle_{i}_{task}"] for i in range(1, 6)]
        assert {phase.task for phase in phases} == {task}
        assert [phase.model for phase in phases] == [
            *("ar", *(f"ar_self_oracle_{i}" for i in range(1, 5))),
        ]
        counts[task] = {int(n): c for p in phases for n, c in p.counts.items()}
    assert counts == {  # Table 4
        "arithmetic": {16: 15_000, 17: 10_000, 18: 7500, 19: 6000, 20: 5000},
        "edit_distance": {31: 15_000, 32: 10_000, 33: 7500, 34: 3000, 35: 3000},
        "lis": {101: 15_000, 102: 10_000, 103: 7500, 104: 3000, 105: 3000},
    }
    buckets = planned["ar_self_oracle_5"].data.buckets.values()
    old = sum(b.weight for b in buckets if b.kind == "synthetic")
    chain_weight = sum(b.weight for b in buckets if b.kind == "chains")
    assert old == pytest.approx(1) and chain_weight == pytest.approx(1)


def test_a_stage_without_its_source_is_refused():
    planned = plan()
    del planned["looped_aligned"]
    with pytest.raises(
        ValueError, match="stage 'chains_arithmetic' needs looped_aligned; the config"
    ):
        check_stages(planned)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "runs.ar_relay.data.buckets.arithmetic.task",
            "sums",
            "stage 'ar_relay': unknown task 'sums'; valid tasks: arithmetic, ",
        ),
        (
            "runs.ar_relay.evaluation.lengths",
            {"arithmetic": (1, 100_000)},
            "stage 'ar_relay': arithmetic: a chain of length 100000 has up to 39,999",
        ),
        (
            "runs.ar_control.optimizer.clip_norm",
            0.0,
            "stage 'ar_control': optimizer.clip_norm must be above 0, got 0.0",
        ),
        (
            "runs.ar_relay.model.mlp_dim",
            48,
            "stage 'ar_relay': init_from: the parameter ['layers']['feed_forward']",
        ),
        (
            "runs.ar_relay.init_from",
            "chains_arithmetic",
            "init_from is 'chains_arithmetic', which generates chains; name a run",
        ),
        (
            "runs.ar.init_from",
            "ar_relay",
            "these stages depend on each other: ",
        ),
        (
            "runs.ar_relay.data.buckets.arithmetic_5.path",
            "ar",
            "data.buckets.arithmetic_5.path is 'ar', which generates no chains",
        ),
        (
            "chains.chains_arithmetic.counts",
            {"5": 10},
            (
                "stage 'ar_relay': data.buckets.arithmetic_6: chains_arithmetic has no "
                "chains of length 6; it has 5"
            ),
        ),
        (
            "chains.chains_arithmetic.counts.7",
            0,
            "stage 'chains_arithmetic': counts.7 must be 1 or more, got 0",
        ),
        (
            "chains.chains_arithmetic.options",
            {"modulus": 7},
            "data.buckets.arithmetic_5: chains_arithmetic is of Arithmetic(modulus=7, ",
        ),
        (
            "runs.looped_aligned.evaluation.options",
            {"arithmetic": {"modulus": 3}},
            (
                "stage 'chains_arithmetic': options of arithmetic: modulus is 5, but "
                "looped_aligned was trained with modulus=3"
            ),
        ),
    ],
)
def test_every_stage_is_checked_before_the_first_one_starts(path, value, message):
    values = quickstart.get_config().to_dict()
    *outer, last = path.split(".")
    inner = values
    for key in outer:
        inner = inner[key]
    inner[last] = value
    config = config_io.build(configs.RelayConfig, values)
    planned = {**config.runs, **config.chains}
    with pytest.raises(ValueError) as error:
        check_stages(planned)
    assert message in str(error.value)


def test_a_looped_run_does_not_learn_chains_of_a_decoder():
    planned = plan()
    values = config_io.to_dict(planned["chains_arithmetic"]) | {
        "model": "looped_vanilla"
    }
    planned["chains_arithmetic"] = config_io.build(configs.ChainsConfig, values)
    learner = config_io.to_dict(planned["looped_aligned"])
    learner["data"] = config_io.to_dict(planned["ar_relay"].data)
    planned["looped_aligned"] = config_io.build(configs.TrainConfig, learner)
    check_stages(planned)
    values["model"] = "ar"
    planned["chains_arithmetic"] = config_io.build(configs.ChainsConfig, values)
    with pytest.raises(ValueError) as error:
        check_stages(planned)
    assert (
        "stage 'looped_aligned': data.buckets.arithmetic_5: chains_arithmetic: a decoder "
        "generated these chains, each in one piece, but a looped model learns them round "
    ) in str(error.value)


def test_a_judge_is_asked_for_before_any_work():
    planned = plan()
    values = config_io.to_dict(planned["chains_arithmetic"])
    values |= {"model": "ar", "filter": "answer_agrees"}
    planned["chains_arithmetic"] = config_io.build(configs.ChainsConfig, values)
    with pytest.raises(ValueError, match="stage 'chains_arithmetic': the filter 'answ"):
        check_stages(planned)


def test_data_from_outside_the_experiment_must_exist(tmp_path):
    planned, path = plan(), epath.Path(tmp_path)
    check_stages(planned, path)
    values = config_io.to_dict(planned["ar_control"])
    stored = {"kind": "tfds", "path": str(tmp_path / "data")}
    values["data"]["buckets"]["arithmetic"] |= stored
    planned["ar_control"] = config_io.build(configs.TrainConfig, values)
    with pytest.raises(ValueError, match="stage 'ar_control': .* has no dataset arit"):
        check_stages(planned, path)


def test_checking_initializes_no_device():
    """The accelerator must stay available to the stages."""
    code = """
from experiments.configs import quickstart
from relay_jax import config as configs
from relay_jax import config_io
from relay_jax.relay.stage_checks import check_stages
values = quickstart.get_config().to_dict()
values["runs"]["ar_relay"]["model"]["dropout"] = 0.1  # so that shapes are compared
config = config_io.build(configs.RelayConfig, values)
check_stages({**config.runs, **config.chains})
"""
    environment = os.environ | {"JAX_PLATFORMS": "nowhere", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_results_of_another_config_are_refused(tmp_path):
    planned, path = plan(), epath.Path(tmp_path)
    assert stages.finished(planned, path) == set()
    run_dir.open_run(path / "ar", planned["ar"])
    (path / "ar" / "summary.json").write_text('{"steps": 7}')
    assert stages.finished(planned, path) == set()  # its parameters are not there
    (path / "ar" / "checkpoints" / "7" / "state").mkdir(parents=True)
    assert stages.finished(planned, path) == {"ar"}
    planned["ar"] = config_io.build(
        configs.TrainConfig, config_io.to_dict(planned["ar"]) | {"seed": 7}
    )
    with pytest.raises(ValueError, match="another config: seed is 0 there and 7 here"):
        stages.finished(planned, path)

"""Stages: their order, what they refuse, how they end."""

import pytest
from etils import epath

from experiments.configs import paper, quickstart
from relay_jax import config as configs
from relay_jax import stages
from relay_jax.training import checkpoint


def plan(module=quickstart, *arguments):
    values = module.get_config(*arguments).to_dict()
    config = configs.build(configs.RelayConfig, values)
    return {**config.runs, **config.chains}


def test_what_each_stage_starts_from():
    found = {name: stages.needs(stage) for name, stage in plan().items()}
    assert found == {
        "ar": set(),
        "looped_vanilla": set(),
        "looped_aligned": set(),
        "chains_arithmetic": {"looped_aligned"},
        "ar_relay": {"ar", "chains_arithmetic"},
        "ar_control": {"ar"},
    }


def test_self_made_chains_come_in_phases():
    planned = plan(paper, "lis")
    assert stages.needs(planned["chains_self_loop_1"]) == {"ar", "looped_vanilla"}
    assert stages.needs(planned["ar_self_loop_1"]) == {"ar", "chains_self_loop_1"}
    assert stages.needs(planned["chains_self_loop_2"]) == {
        *("ar_self_loop_1", "looped_vanilla"),
    }
    assert stages.needs(planned["ar_self_oracle_5"]) == {
        "ar_self_oracle_4",
        *(f"chains_self_oracle_{phase}" for phase in range(1, 6)),
    }
    assert [int(*planned[f"chains_self_loop_{i}"].counts) for i in range(1, 6)] == [
        *(101, 102, 103, 104, 105),
    ]


def test_a_phase_of_the_multitask_baselines_has_chains_of_every_task():
    planned, counts = plan(paper, "multitask"), {}
    tasks = ("arithmetic", "edit_distance", "lis")
    assert stages.needs(planned["ar_self_loop_1"]) == {
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
    made = sum(b.weight for b in buckets if b.kind == "chains")
    assert old == pytest.approx(1) and made == pytest.approx(1)


def test_a_stage_without_its_source_is_refused():
    planned = plan()
    del planned["looped_aligned"]
    with pytest.raises(
        ValueError, match="stage 'chains_arithmetic' needs looped_aligned; the config"
    ):
        stages.check_stages(planned)


def test_results_of_another_config_are_refused(tmp_path):
    planned, path = plan(), epath.Path(tmp_path)
    assert stages.finished(planned, path) == set()
    checkpoint.open_run(path / "ar", planned["ar"])
    (path / "ar" / "summary.json").write_text("{}")
    assert stages.finished(planned, path) == {"ar"}
    planned["ar"] = configs.build(
        configs.TrainConfig, configs.to_dict(planned["ar"]) | {"seed": 7}
    )
    with pytest.raises(ValueError, match="another config: seed is 0 there and 7 here"):
        stages.finished(planned, path)

"""The RELAY paper's settings: Tables 1 to 4, one model per task and multitask.

    --config=experiments/configs/paper.py:arithmetic              the whole method
    --config=experiments/configs/paper.py:multitask/ar            one run, for train.py

A field that is not set here has the paper's value as its default. An epoch is 1 M
examples per task; problems are sampled on the fly, so hardly any occurs twice.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.configs import relay_recipe

BATCH_SIZE = 512
STEPS_PER_EPOCH = 1_000_000 // BATCH_SIZE  # per task
NUM_EPOCHS = 500
NUM_PHASE_EPOCHS = 100  # of each phase of the self-made-chain baselines


def _counts(first_length: int, counts: list[int]) -> dict[str, int]:
    return {str(first_length + i): count for i, count in enumerate(counts)}


PLANS = {
    "arithmetic": relay_recipe.TaskPlan(
        task="arithmetic",
        options={"modulus": 11},
        train_lengths=(1, 15),
        test_lengths=(1, 25),
        chain_counts=_counts(
            16, [6477, 6882, 7287, 6477, 6072, 5668, 5263, 4858, 4453, 4048]
        ),
        num_originals=42_515,
        num_chain_buckets=2,
    ),
    "edit_distance": relay_recipe.TaskPlan(
        task="edit_distance",
        options={"using": 8, "max_extra": 2},
        train_lengths=(1, 30),
        test_lengths=(1, 40),
        chain_counts=_counts(
            31, [4195, 4195, 4055, 4055, 3916, 3916, 3776, 3776, 3636, 3636]
        ),
        num_originals=60_844,
        num_chain_buckets=2,
    ),
    "lis": relay_recipe.TaskPlan(
        task="lis",
        options={"group": 10, "smallest": 121, "number_range": 250},
        train_lengths=(1, 100),
        test_lengths=(1, 120),
        # A linear decrease from 1479 to 1198.
        chain_counts=_counts(
            101, [round(1479 - i * (1479 - 1198) / 19) for i in range(20)]
        ),
        num_originals=73_235,
        num_chain_buckets=2,
    ),
}
SELF_MADE = {  # Table 4: new samples in each of five phases
    "arithmetic": (15_000, 10_000, 7_500, 6_000, 5_000),
    "edit_distance": (15_000, 10_000, 7_500, 3_000, 3_000),
    "lis": (15_000, 10_000, 7_500, 3_000, 3_000),
}
TASK_WEIGHTS = {"arithmetic": 1.0, "edit_distance": 10.0, "lis": 5.0}


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: a task or `multitask`, optionally followed by a slash and a run."""
    plans, run = relay_recipe.select_plans(PLANS, name)
    return ConfigDict(relay_recipe.select_run(paper_experiment(plans), run))


def paper_experiment(
    plans: list[relay_recipe.TaskPlan],
    self_made: Mapping[str, tuple[int, ...]] = SELF_MADE,
) -> dict:
    """Tables 1 and 2, and the baselines of Table 4: all curves of Figure 4."""
    weighted = {"task_weights": TASK_WEIGHTS}
    num_samples = sum(p.num_originals + sum(p.chain_counts.values()) for p in plans)
    fine_tuned = {
        "model": {"kind": "decoder"},
        "loss": weighted,
        "optimizer": {"learning_rate": 1e-4},
        "num_steps": NUM_EPOCHS * num_samples // BATCH_SIZE,
    }
    num_steps = NUM_EPOCHS * STEPS_PER_EPOCH * len(plans)
    runs = {
        "looped_aligned": {"model": {"kind": "looped"}, "num_steps": num_steps},
        "ar": {"model": {"kind": "decoder"}, "num_steps": num_steps, "loss": weighted},
        "looped_vanilla": {
            "model": {"kind": "looped"},
            "num_steps": num_steps,
            "loss": weighted | {"round_weight": 0.0},
            "optimizer": {"learning_rate": 1e-3},
        },
        "ar_relay": fine_tuned,
        "ar_control": fine_tuned,
    }
    common = {
        "data": {"batch_size": BATCH_SIZE},
        "evaluation": relay_recipe.evaluation_settings(
            plans, every_steps=10_000, final=1000
        ),
        "log_every_steps": 500,
        "checkpoint_every_seconds": 300.0,
    }
    experiment = relay_recipe.make_experiment(plans, runs, common)
    phase = {
        "optimizer": {"learning_rate": 5e-5},
        # The paper does not state the size of an epoch here; we take Table 3's samples.
        "num_steps": NUM_PHASE_EPOCHS * num_samples // BATCH_SIZE,
        "loss": {"task_weights": {}},  # Table 2: 1 / 1 / 1
    }
    relay_recipe.add_self_made_chains(experiment, plans, self_made, phase)
    return experiment

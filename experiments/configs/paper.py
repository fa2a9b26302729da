"""The paper's settings: Tables 1 to 4, single-task and multitask.

    --config=experiments/configs/paper.py:arithmetic              the whole method
    --config=experiments/configs/paper.py:multitask/ar            one run, for train.py

Every field that is not named here has the paper's value as its default. An epoch is
1 M examples a task; problems are drawn on the fly, so none is met twice.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.configs import relay_recipe

BATCH = 512
EPOCH = 1_000_000 // BATCH  # steps a task
EPOCHS = 500


def _merge(first: int, counts: list[int]) -> dict[str, int]:
    return {str(first + i): count for i, count in enumerate(counts)}


PLANS = {
    "arithmetic": relay_recipe.TaskPlan(
        task="arithmetic",
        options={"modulus": 11},
        train=(1, 15),
        test=(1, 25),
        chains=_merge(16, [6477, 6882, 7287, 6477, 6072, 5668, 5263, 4858, 4453, 4048]),
        within=42_515,
        merged_buckets=2,
    ),
    "edit_distance": relay_recipe.TaskPlan(
        task="edit_distance",
        options={"using": 8, "max_extra": 2},
        train=(1, 30),
        test=(1, 40),
        chains=_merge(31, [4195, 4195, 4055, 4055, 3916, 3916, 3776, 3776, 3636, 3636]),
        within=60_844,
        merged_buckets=2,
    ),
    "lis": relay_recipe.TaskPlan(
        task="lis",
        options={"group": 10, "smallest": 121, "number_range": 250},
        train=(1, 100),
        test=(1, 120),
        # 1479 falling evenly to 1198
        chains=_merge(101, [round(1479 - i * (1479 - 1198) / 19) for i in range(20)]),
        within=73_235,
        merged_buckets=2,
    ),
}
SELF_MADE = {  # Table 4: new samples in each of five phases
    "arithmetic": (15_000, 10_000, 7_500, 6_000, 5_000),
    "edit_distance": (15_000, 10_000, 7_500, 3_000, 3_000),
    "lis": (15_000, 10_000, 7_500, 3_000, 3_000),
}
TASK_WEIGHTS = {"arithmetic": 1.0, "edit_distance": 10.0, "lis": 5.0}


def get_config(which: str = "arithmetic") -> ConfigDict:
    """`which`: a task or `multitask`, and after a slash the name of one run."""
    plans, run = relay_recipe.select(PLANS, which)
    return ConfigDict(relay_recipe.choose(paper(plans), run))


def paper(
    plans: list[relay_recipe.TaskPlan],
    self_made: Mapping[str, tuple[int, ...]] = SELF_MADE,
) -> dict:
    """Tables 1 and 2 as they stand, and the baselines of Table 4: Figure 4's curves."""
    weighted = {"task_weights": TASK_WEIGHTS}
    merged = sum(plan.within + sum(plan.chains.values()) for plan in plans)
    tune = {
        "model": {"kind": "decoder"},
        "loss": weighted,
        "optimizer": {"learning_rate": 1e-4},
        "num_steps": EPOCHS * merged // BATCH,
    }
    steps = EPOCHS * EPOCH * len(plans)
    runs = {
        "looped_aligned": {"model": {"kind": "looped"}, "num_steps": steps},
        "ar": {"model": {"kind": "decoder"}, "num_steps": steps, "loss": weighted},
        "looped_vanilla": {
            "model": {"kind": "looped"},
            "num_steps": steps,
            "loss": weighted | {"round_weight": 0.0},
            "optimizer": {"learning_rate": 1e-3},
        },
        "ar_relay": tune,
        "ar_control": tune,
    }
    train = {
        "data": {"batch_size": BATCH},
        "evaluation": relay_recipe.evaluation(plans, every_steps=10_000, final=1000),
        "log_every_steps": 500,
        "checkpoint_every_seconds": 300.0,
    }
    config = relay_recipe.whole(plans, runs, train)
    phase = {
        "optimizer": {"learning_rate": 5e-5},
        # 100 epochs; the paper does not say of how many samples: of Table 3's, here.
        "num_steps": 100 * merged // BATCH,
        "loss": {"task_weights": {}},  # Table 2: 1 / 1 / 1
    }
    relay_recipe.add_self_made(config, plans, self_made, phase)
    return config

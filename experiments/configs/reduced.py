"""The RELAY paper at lengths that two CPU cores can learn: its loop, which carries the
hidden state, and its ratios of test to training lengths.

    --config=experiments/configs/reduced.py:multitask            the whole method
    --config=experiments/configs/reduced.py:lis/looped_aligned   one run, for train.py

Arithmetic is trained with up to 6 operators and tested with up to 10, edit distance with
9 and 12 letters, LIS with 25 and 30 numbers in groups of 3. All runs of Figures 2 and 4
to 7 and of Tables 3 and 4 are here, and take about 3 hours of two cores a seed
(`experiments.reproduce --recipe=reduced`). Models and optimizers are those of
`quickstart.py`, with this project's position aids; `reduced_rope.py` has RoPE alone.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.configs import (
    curricula,
    length_extrapolation,
    paper,
    quickstart,
    relay_recipe,
)
from experiments.configs.relay_recipe import TaskPlan

# What one core sustains: the loop of the arithmetic quickstart takes 9 to 10 steps of
# 3.3 GFLOP a second.
TERAFLOPS = 0.03

# Chains and original problems have the shares of Table 3.
PLANS = {
    "arithmetic": TaskPlan(
        task="arithmetic",
        options={"modulus": 5},
        train_lengths=(1, 6),
        test_lengths=(1, 10),
        chain_counts={str(n): 1500 for n in range(7, 11)},
        num_originals=4_400,
        train_options=(("right_heavy", True),),
        num_chain_buckets=2,
    ),
    "edit_distance": TaskPlan(
        task="edit_distance",
        options={"using": 8, "max_extra": 2},
        train_lengths=(1, 9),
        test_lengths=(1, 12),
        chain_counts={str(n): 1300 for n in range(10, 13)},
        num_originals=6_200,
        train_options=(("max_extra", 6),),  # so that training includes longer rows
        num_chain_buckets=2,
        eval_length_step=3,
    ),
    "lis": TaskPlan(
        task="lis",
        options={"group": 3, "smallest": 50, "number_range": 104},
        train_lengths=(1, 25),
        test_lengths=(1, 30),
        chain_counts={str(n): 640 for n in range(26, 31)},
        num_originals=8_700,
        num_chain_buckets=2,
        eval_length_step=5,
    ),
}
SELF_MADE = {  # a tenth of Table 4; the last phases may be beyond the test
    task: tuple(count // 10 for count in counts)
    for task, counts in paper.SELF_MADE.items()
}
NUM_PHASE_STEPS = 400  # of each self-made phase
NUM_STEPS = {
    "arithmetic": {
        "looped_aligned": 6000,
        "looped_vanilla": 12_000,
        "ar": 4000,
        "ar_relay": 800,
        "ar_control": 800,
    },
    "edit_distance": {
        "looped_aligned": 4000,
        "looped_vanilla": 4000,
        "ar": 5000,
        "ar_relay": 800,
        "ar_control": 800,
    },
    "lis": {
        "looped_aligned": 5000,
        "looped_vanilla": 3500,
        "ar": 5000,
        "ar_relay": 800,
        "ar_control": 800,
    },
    relay_recipe.MULTITASK: {
        "looped_aligned": 15_000,
        "looped_vanilla": 9000,
        "ar": 12_000,
        "ar_relay": 2000,
        "ar_control": 2000,
    },
}
SETTINGS = {
    "looped_aligned": {
        "model": {"input_injection": "hidden"},
        "optimizer": length_extrapolation.STEADY,
        "loss": {"answer_weight": 0.3},
        "data": {"batch_size": 64},
    },
    "looped_vanilla": {
        "optimizer": length_extrapolation.STEADY,
        "data": {"batch_size": 64},
    },
    # Positions within a row are counted from its first comma; a row of edit distance has
    # up to 20 values.
    "ar": {"model": {"position": {"max_distance": 40}}},
    "ar_relay": {"model": {"position": {"max_distance": 40}}},
    "ar_control": {"model": {"position": {"max_distance": 40}}},
}


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: a task or `multitask`, optionally followed by a slash and a run."""
    plans, run = relay_recipe.select_plans(PLANS, name)
    return ConfigDict(relay_recipe.select_run(reduced_experiment(plans), run))


def reduced_experiment(
    plans: list[TaskPlan], self_made: Mapping[str, tuple[int, ...]] = SELF_MADE
) -> dict:
    """The method and the baselines of Table 4, on one task or on all of them."""
    name = plans[0].task if len(plans) == 1 else relay_recipe.MULTITASK
    models = quickstart.TASKS[name]
    settings = models._replace(
        plans=plans,
        num_numbers=120,
        num_steps=models.num_steps | NUM_STEPS[name],
        runs=with_curricula(SETTINGS, plans),
    )
    experiment = quickstart.relay_experiment(settings)
    experiment["runs"].pop("looped_feedback", None)  # not in the paper
    phase = {"num_steps": NUM_PHASE_STEPS}
    relay_recipe.add_self_made_chains(experiment, plans, self_made, phase)
    return experiment


def with_curricula(settings: dict[str, dict], plans: list[TaskPlan]) -> dict[str, dict]:
    """Settings by run, to which the buckets of the three trained from scratch are added;
    all tasks weigh the same."""
    makers = {
        "looped_aligned": curricula.aligned,
        "looped_vanilla": curricula.vanilla,
        "ar": curricula.ar,
    }
    result = dict(settings)
    for run, make in makers.items():
        buckets = curricula.together(map(make, plans))
        changes = {"data": {"buckets": buckets}}
        result[run] = relay_recipe.merge_dicts(settings[run], changes)
    return result

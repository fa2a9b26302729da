"""The experiments of `length_extrapolation.py` scaled down to minutes on two CPU cores.

    --config=experiments/configs/small.py:multitask                  the whole method

Lengths, widths, steps and samples are smaller; tasks, runs and the five phases of
self-made chains are complete. It is a test of the pipeline, not of the method; for that
see `quickstart.py`.
"""

from ml_collections import ConfigDict

from experiments.configs import length_extrapolation, paper, relay_recipe

PLANS = {
    "arithmetic": length_extrapolation.PLANS["arithmetic"]._replace(
        options={"modulus": 5},
        train_lengths=(1, 3),
        test_lengths=(1, 8),
        chain_counts={str(n): 64 for n in range(4, 9)},
        num_originals=300,
        eval_length_step=1,
    ),
    "edit_distance": length_extrapolation.PLANS["edit_distance"]._replace(
        train_lengths=(1, 4),
        test_lengths=(1, 9),
        chain_counts={str(n): 64 for n in range(5, 10)},
        num_originals=300,
        train_options=(("max_extra", 4),),
        eval_length_step=1,
    ),
    "lis": length_extrapolation.PLANS["lis"]._replace(
        options={"group": 5, "smallest": 21, "number_range": 41},
        train_lengths=(1, 10),
        test_lengths=(1, 15),
        chain_counts={str(n): 64 for n in range(11, 16)},
        num_originals=300,
        eval_length_step=1,
    ),
}
MODEL = {
    "num_layers": 2,
    "dim": 32,
    "num_heads": 4,
    "mlp_dim": 128,
    "num_numbers": 64,
    "dtype": "float32",
}
SIZE = {
    "model": MODEL,
    "batch_size": 32,
    "step_fraction": 1 / 40,
    "num_test_problems": 64,
}
SELF_MADE = {  # a 250th of Table 4
    task: tuple(count // 250 for count in counts)
    for task, counts in paper.SELF_MADE.items()
}


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: a task or `multitask`, optionally followed by a slash and a run."""
    plans, run = relay_recipe.select_plans(PLANS, name)
    experiment = length_extrapolation.extrapolation_experiment(plans, SELF_MADE)
    experiment = relay_recipe.scale_down(experiment, **SIZE)
    # As the judge of self-made chains it needs more steps: at first it always gives the
    # same answer, and would reject every chain.
    experiment["runs"]["looped_vanilla"]["num_steps"] *= 10
    return ConfigDict(relay_recipe.select_run(experiment, run))

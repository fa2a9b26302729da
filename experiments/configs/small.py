"""The experiments of `far.py` with less of everything: a figure in minutes on two cores.

    --config=experiments/configs/small.py:multitask                  the whole method

Lengths, widths, steps and samples are fewer; tasks, runs and the five phases of self-made
chains are all there. It shows that everything works, not how well: the quickstarts do.
"""

from ml_collections import ConfigDict

from experiments.configs import length_extrapolation, paper, relay_recipe

PLANS = {
    "arithmetic": length_extrapolation.PLANS["arithmetic"]._replace(
        options={"modulus": 5},
        train=(1, 3),
        test=(1, 8),
        chains={str(n): 64 for n in range(4, 9)},
        within=300,
        eval_step=1,
    ),
    "edit_distance": length_extrapolation.PLANS["edit_distance"]._replace(
        train=(1, 4),
        test=(1, 9),
        chains={str(n): 64 for n in range(5, 10)},
        within=300,
        train_options=(("max_extra", 4),),
        eval_step=1,
    ),
    "lis": length_extrapolation.PLANS["lis"]._replace(
        options={"group": 5, "smallest": 21, "number_range": 41},
        train=(1, 10),
        test=(1, 15),
        chains={str(n): 64 for n in range(11, 16)},
        within=300,
        eval_step=1,
    ),
}
NUM_NUMBERS = 64
MODEL = {
    "num_layers": 2,
    "dim": 32,
    "num_heads": 4,
    "mlp_dim": 128,
    "num_numbers": NUM_NUMBERS,
    "dtype": "float32",
}
SIZE = {"model": MODEL, "batch_size": 32, "step_share": 1 / 40, "final": 64}
SELF_MADE = {  # a 250th of Table 4
    task: tuple(count // 250 for count in counts)
    for task, counts in paper.SELF_MADE.items()
}


def get_config(which: str = "arithmetic") -> ConfigDict:
    """`which`: a task or `multitask`, and after a slash the name of one run."""
    plans, run = relay_recipe.select(PLANS, which)
    config = relay_recipe.resize(length_extrapolation.far(plans, SELF_MADE), **SIZE)
    # It judges self-made chains: the one answer that it gives at first agrees with none.
    config["runs"]["looped_vanilla"]["num_steps"] *= 10
    return ConfigDict(relay_recipe.choose(config, run))

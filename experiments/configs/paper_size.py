"""The RELAY paper's lengths, sizes and loop with the recipe of `reduced.py`: for minutes
on one GPU, where the paper's own recipe (`paper.py`) takes days.

    --config=experiments/configs/paper_size.py:multitask            the whole method

The loop carries the hidden state, optimizer, position aids and curricula are those of
`reduced.py`. `launch/gpu_minutes.sh` makes the curves of Figure 4 one after another.
"""

from ml_collections import ConfigDict

from experiments.configs import length_extrapolation, paper, reduced, relay_recipe
from experiments.configs.relay_recipe import merge_dicts

TRAIN_OPTIONS = {
    "arithmetic": (("right_heavy", True),),
    "edit_distance": (("max_extra", 10),),  # so that training includes longer rows
}
# As `paper.PLANS`, with a tenth of the chains and of the lengths that are measured.
PLANS = {
    name: plan._replace(
        chain_counts={n: count // 10 for n, count in plan.chain_counts.items()},
        num_originals=plan.num_originals // 10,
        train_options=TRAIN_OPTIONS.get(name, ()),
        eval_length_step={"arithmetic": 5, "edit_distance": 5, "lis": 10}[name],
    )
    for name, plan in paper.PLANS.items()
}
# A step of a looped model has 256 problems, of a decoder 128.
NUM_STEPS = {"looped_aligned": 6000, "looped_vanilla": 4000, "ar": 12_000}
NUM_FINE_TUNING_STEPS = 2000
NUM_PHASE_STEPS = 250  # of each self-made phase
DECODER = {
    "num_heads": 4,
    "position": {"directional_heads": False, "max_distance": 40},
}


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: a task or `multitask`, optionally followed by a slash and a run."""
    plans, run = relay_recipe.select_plans(PLANS, name)
    return ConfigDict(relay_recipe.select_run(paper_size_experiment(plans), run))


def paper_size_experiment(plans: list[relay_recipe.TaskPlan]) -> dict:
    """The method and the baselines of Table 4, on one task or on all of them."""
    name = plans[0].task if len(plans) == 1 else relay_recipe.MULTITASK
    model = length_extrapolation.MODEL | {
        "num_numbers": length_extrapolation.NUM_NUMBERS[name],
        **length_extrapolation.ALL_MODELS[name],
    }
    looped = model | {"kind": "looped", "num_heads": 8}
    decoder = merge_dicts(model | {"kind": "decoder"}, DECODER)
    fine_tuned = {"model": decoder, "num_steps": NUM_FINE_TUNING_STEPS}
    of_looped = {"model": looped, "data": {"batch_size": 256}}
    runs = reduced.with_curricula(
        {
            "looped_aligned": of_looped | {"loss": {"answer_weight": 0.3}},
            "looped_vanilla": of_looped | {"loss": {"round_weight": 0.0}},
            "ar": {"model": decoder},
        },
        plans,
    )
    for run, num_steps in NUM_STEPS.items():
        runs[run]["num_steps"] = num_steps * len(plans) // 3
    common = {
        "optimizer": length_extrapolation.MUON | length_extrapolation.STEADY,
        "data": {"batch_size": 128, "num_workers": 4},
        "evaluation": relay_recipe.evaluation_settings(
            plans, every_steps=100_000, during=64, final=512
        ),
        "log_every_steps": 100,
        "checkpoint_every_seconds": 60.0,
    }
    runs |= {"ar_relay": fine_tuned, "ar_control": fine_tuned}
    experiment = relay_recipe.make_experiment(plans, runs, common)
    self_made = {
        task: tuple(count // 10 for count in counts)
        for task, counts in paper.SELF_MADE.items()
    }
    phase = {"num_steps": NUM_PHASE_STEPS}
    relay_recipe.add_self_made_chains(experiment, plans, self_made, phase)
    return experiment

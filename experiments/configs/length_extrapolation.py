"""RELAY at the paper's training lengths with this project's recipe, tested at up to four
times these lengths.

    --config=experiments/configs/length_extrapolation.py:arithmetic           the whole method
    --config=experiments/configs/length_extrapolation.py:lis/looped_aligned   one run
    --config=experiments/configs/length_extrapolation.py:multitask            one model for all

Trained as in the paper (15 operators, 30 letters, 100 numbers), but for minutes on one
GPU instead of 2.9 M steps. The model has the paper's size. The paper's own recipe is
`experiments/configs/paper.py`.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.configs import paper, relay_recipe
from experiments.configs.relay_recipe import merge_dicts

PLANS = {
    "arithmetic": relay_recipe.TaskPlan(
        task="arithmetic",
        options={"modulus": 11},
        train_lengths=(1, 15),
        test_lengths=(1, 60),
        chain_counts={str(n): 5000 for n in range(16, 31)},
        num_originals=42_515,
        train_options=(("right_heavy", True),),
        num_chain_buckets=3,
        eval_length_step=5,
    ),
    "edit_distance": relay_recipe.TaskPlan(
        task="edit_distance",
        options={"using": 8, "max_extra": 2},
        train_lengths=(1, 30),
        test_lengths=(1, 120),
        chain_counts={str(n): 2000 for n in range(31, 61)},
        num_originals=60_844,
        train_options=(("max_extra", 30),),  # so that training includes longer rows
        num_chain_buckets=3,
        eval_length_step=15,
    ),
    "lis": relay_recipe.TaskPlan(
        task="lis",
        options={"group": 10, "smallest": 401, "number_range": 802},
        train_lengths=(1, 100),
        test_lengths=(1, 400),
        chain_counts={str(n): 200 for n in range(101, 201)},
        num_originals=73_235,
        num_chain_buckets=4,
        eval_length_step=50,
    ),
}
NUM_NUMBERS = {"arithmetic": 16, "edit_distance": 512, "lis": 1104, "multitask": 1104}
POSITION = {
    "scheme": "relative_bias",
    "max_distance": 8,
    "bias_scale": 8.0,
    "distance_slopes": True,
    "log_length_scaling": True,
    "directional_heads": True,
}
MODEL = {
    "num_layers": 3,
    "dim": 256,
    "num_heads": 4,
    "mlp_dim": 1024,
    "activation": "relu",
    "dropout": 0.0,
    "dtype": "bfloat16",
    "position": POSITION,
}
MUON = {
    "kind": "muon",
    "learning_rate": 3e-3,
    "warmup_share": 0.03,
    "constant_share": 0.5,
    "weight_decay": 0.1,
    "b2": 0.98,
}
# A constant learning rate and averaged parameters: stopping early is possible any time.
STEADY = {"warmup_share": 0.03, "constant_share": 0.97, "average_share": 0.1}
FALLING = {"warmup_share": 0.03, "constant_share": 0.55, "average_share": 0.1}
LOOPED = {
    "arithmetic": {
        "model": {"num_heads": 8},
        "optimizer": STEADY
        | {"kind": "adamw", "learning_rate": 1e-3, "weight_decay": 0.3},
        "num_steps": 6000,
    },
    "edit_distance": {
        "model": {"differences": True, "position": {"slope_reach": 45}},
        "optimizer": FALLING,
        "loss": {"answer_weight": 0.3},
        "num_steps": 14_000,
    },
    "lis": {
        "model": {
            "num_layers": 4,
            "position": {"directional_heads": False, "distance_slopes": False},
        },
        "optimizer": FALLING,
        "loss": {"answer_weight": 0.1, "value_gap_prob": 0.5},
        "num_steps": 8500,
    },
    "multitask": {  # what the three tasks need, as in quickstart.py
        "model": {
            "num_layers": 4,
            "num_heads": 8,
            "differences": True,
            "position": {"slope_reach": 45},
        },
        "optimizer": STEADY,
        "loss": {"answer_weight": 0.1, "value_gap_prob": 0.5},
        "num_steps": 12_000,
    },
}
# Rounds of one chain are alike: a few rounds of many chains cost as much as all rounds of
# a few chains. Arithmetic trains first rounds alone instead.
SAMPLED_ROUNDS = {"arithmetic": 0, "edit_distance": 4, "lis": 3}
ALL_MODELS = {
    "arithmetic": {},
    "edit_distance": {"number_code": "digits"},
    "lis": {"number_code": "ordinal"},
    "multitask": {"number_code": "ordinal"},
}


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: a task or `multitask`, optionally followed by a slash and a run."""
    plans, run = relay_recipe.select_plans(PLANS, name)
    return ConfigDict(relay_recipe.select_run(extrapolation_experiment(plans), run))


def extrapolation_experiment(
    plans: list[relay_recipe.TaskPlan],
    self_made: Mapping[str, tuple[int, ...]] = paper.SELF_MADE,
) -> dict:
    """The method and the baselines of Table 4, on one task or on all of them."""
    name = plans[0].task if len(plans) == 1 else relay_recipe.MULTITASK
    model = MODEL | {"num_numbers": NUM_NUMBERS[name]} | ALL_MODELS[name]
    # A decoder attends to the left alone; sequences are long, and fewer heads are faster.
    position = POSITION | {"directional_heads": False, "max_distance": 24}
    decoder = {
        "model": model | {"kind": "decoder", "num_heads": 4, "position": position}
    }
    runs = {
        "looped_aligned": _looped_aligned(name, model, plans),
        "ar": decoder | {"num_steps": 20_000 * len(plans)},
        "looped_vanilla": {
            "model": model | {"kind": "looped"},
            "loss": {"round_weight": 0.0},
            "num_steps": 4000 * len(plans),
        },
        "ar_relay": decoder | {"num_steps": 5000 * len(plans)},
        "ar_control": decoder | {"num_steps": 5000 * len(plans)},
    }
    common = {
        "optimizer": MUON,
        "data": {"batch_size": 128, "num_workers": 4},
        "evaluation": relay_recipe.evaluation_settings(
            plans, every_steps=5000, during=64, final=512
        ),
        "log_every_steps": 100,
        "checkpoint_every_seconds": 60.0,
    }
    experiment = relay_recipe.make_experiment(plans, runs, common)
    # Five phases together take as many steps as `ar_relay`.
    phase = {"num_steps": 1000 * len(plans)}
    relay_recipe.add_self_made_chains(experiment, plans, self_made, phase)
    return experiment


def _looped_aligned(name: str, model: dict, plans: list[relay_recipe.TaskPlan]) -> dict:
    """The aligned looped model with feedback: what it changes in the common fields."""
    run = {"model": model | {"kind": "looped", "input_injection": "feedback"}}
    offsets = {
        plan.task: plan.test_lengths[1] - plan.train_lengths[1]
        for plan in plans
        if plan.task == "lis"
    }
    run = merge_dicts(
        merge_dicts(run, LOOPED[name]), {"loss": {"max_value_offset": offsets}}
    )
    buckets = {
        name: bucket | {"sampled_rounds": SAMPLED_ROUNDS[bucket["task"]]}
        for name, bucket in _buckets(plans).items()
    }
    return merge_dicts(run, {"data": {"batch_size": 512, "buckets": buckets}})


def _buckets(plans: list[relay_recipe.TaskPlan]) -> dict[str, dict]:
    """The longest problems cost most: each task also has a bucket of problems half as
    long, whose steps are cheaper, and arithmetic one of first rounds alone."""
    buckets = {}
    for plan in plans:
        task = plan.task
        usual = relay_recipe.original_bucket(plan)
        shorter = {"lengths": (1, plan.train_lengths[1] // 2)}
        parts = {task: (0.6, {}), "shorter": (0.4, shorter)}
        if task == "arithmetic":
            parts = {
                task: (0.2, {}),
                "first_rounds": (0.65, {"max_rounds": 1}),
                "shorter": (0.15, shorter),
            }
        for kind, (weight, changes) in parts.items():
            name = kind if len(plans) == 1 or kind == task else f"{task}_{kind}"
            buckets[name] = usual | changes | {"weight": weight / len(plans)}
    return buckets

"""RELAY at the paper's lengths with this project's recipe, tested far beyond them.

    --config=experiments/configs/length_extrapolation.py:arithmetic                   the whole method
    --config=experiments/configs/length_extrapolation.py:lis/looped_aligned           one run, for train.py
    --config=experiments/configs/length_extrapolation.py:multitask                    one model for all

Trained as the paper is (15 operators, 30 letters, 100 numbers), for minutes on one GPU
instead of about 2.9 M steps, and tested to four times that. The model has the paper's
size. `experiments/configs/paper.py` is the paper's own recipe.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.configs import paper, relay_recipe

PLANS = {
    "arithmetic": relay_recipe.TaskPlan(
        task="arithmetic",
        options={"modulus": 11},
        train=(1, 15),
        test=(1, 60),
        chains={str(n): 5000 for n in range(16, 31)},
        within=42_515,
        train_options=(("right_heavy", True),),
        merged_buckets=3,
        eval_step=5,
    ),
    "edit_distance": relay_recipe.TaskPlan(
        task="edit_distance",
        options={"using": 8, "max_extra": 2},
        train=(1, 30),
        test=(1, 120),
        chains={str(n): 2000 for n in range(31, 61)},
        within=60_844,
        train_options=(("max_extra", 30),),  # longer rows are met in training
        merged_buckets=3,
        eval_step=15,
    ),
    "lis": relay_recipe.TaskPlan(
        task="lis",
        options={"group": 10, "smallest": 401, "number_range": 802},
        train=(1, 100),
        test=(1, 400),
        chains={str(n): 200 for n in range(101, 201)},
        within=73_235,
        merged_buckets=4,
        eval_step=50,
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
# A rate that stays, and the average of the parameters: a run that is stopped early has
# come to something all the same.
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
    "multitask": {  # what each of the three needs; as in quickstart_multitask.py
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
# Rounds of one chain are alike: a few rounds of many chains cost what all rounds of a few
# chains do. Arithmetic practises first rounds instead.
DRAWN = {"arithmetic": 0, "edit_distance": 4, "lis": 3}
ALL_MODELS = {
    "arithmetic": {},
    "edit_distance": {"number_code": "digits"},
    "lis": {"number_code": "ordinal"},
    "multitask": {"number_code": "ordinal"},
}


def get_config(which: str = "arithmetic") -> ConfigDict:
    """`which`: a task or `multitask`, and after a slash the name of one run."""
    plans, run = relay_recipe.select(PLANS, which)
    return ConfigDict(relay_recipe.choose(far(plans), run))


def far(
    plans: list[relay_recipe.TaskPlan],
    self_made: Mapping[str, tuple[int, ...]] = paper.SELF_MADE,
) -> dict:
    """The method on one task, or on all of them, and the baselines of Table 4."""
    name = plans[0].task if len(plans) == 1 else relay_recipe.MULTITASK
    model = MODEL | {"num_numbers": NUM_NUMBERS[name]} | ALL_MODELS[name]
    looped = {"model": model | {"kind": "looped", "input_injection": "feedback"}}
    looped = relay_recipe.merge(looped, LOOPED[name])
    shifts = {p.task: p.test[1] - p.train[1] for p in plans if p.task == "lis"}
    looped = relay_recipe.merge(looped, {"loss": {"max_value_offset": shifts}})
    buckets = {
        name: b | {"sampled_rounds": DRAWN[b["task"]]}
        for name, b in _buckets(plans).items()
    }
    looped = relay_recipe.merge(
        looped, {"data": {"batch_size": 512, "buckets": buckets}}
    )
    # A decoder's heads all look left; texts are long, and fewer heads are faster.
    place = POSITION | {"directional_heads": False, "max_distance": 24}
    decoder = {"model": model | {"kind": "decoder", "num_heads": 4, "position": place}}
    runs = {
        "looped_aligned": looped,
        "ar": decoder | {"num_steps": 20_000 * len(plans)},
        "looped_vanilla": {
            "model": model | {"kind": "looped"},
            "loss": {"round_weight": 0.0},
            "num_steps": 4000 * len(plans),
        },
        "ar_relay": decoder | {"num_steps": 5000 * len(plans)},
        "ar_control": decoder | {"num_steps": 5000 * len(plans)},
    }
    train = {
        "optimizer": MUON,
        "data": {"batch_size": 128, "num_workers": 4},
        "evaluation": relay_recipe.evaluation(
            plans, every_steps=5000, during=64, final=512
        ),
        "log_every_steps": 100,
        "checkpoint_every_seconds": 60.0,
    }
    config = relay_recipe.whole(plans, runs, train)
    # Five phases together take as many steps as `ar_relay`.
    phase = {"num_steps": 1000 * len(plans)}
    relay_recipe.add_self_made(config, plans, self_made, phase)
    return config


def _buckets(plans: list[relay_recipe.TaskPlan]) -> dict[str, dict]:
    """The longest problems cost most: each task has a bucket of problems half as long,
    whose steps are cheaper, and arithmetic practises first rounds alone."""
    buckets = {}
    for plan in plans:
        name = plan.task
        (usual,) = relay_recipe.original_buckets([plan]).values()
        shorter = {"lengths": (1, plan.train[1] // 2)}
        shares = {name: (0.6, {}), "shorter": (0.4, shorter)}
        if name == "arithmetic":
            practice = {"max_rounds": 1}
            shares = {
                name: (0.2, {}),
                "first_rounds": (0.65, practice),
                "shorter": (0.15, shorter),
            }
        for kind, (weight, changes) in shares.items():
            key = kind if len(plans) == 1 or kind == name else f"{name}_{kind}"
            share = {"weight": weight / len(plans)}
            buckets[key] = usual | changes | share
    return buckets

"""RELAY at the paper's lengths with this project's recipe, tested far beyond them.

    --config=experiments/configs/far.py:arithmetic                   the whole method
    --config=experiments/configs/far.py:lis/looped_aligned           one run, for train.py

Trained as the paper is (15 operators, 30 letters, 100 numbers), for minutes on one GPU
instead of about 2.9 M steps, and tested to four times that. The model has the paper's
size. `experiments/configs/paper.py` is the paper's own recipe.
"""

from ml_collections import ConfigDict

from experiments.configs import recipe

PLANS = {
    "arithmetic": recipe.TaskPlan(
        task="arithmetic",
        options={"modulus": 11},
        train=(1, 15),
        test=(1, 60),
        chains={str(n): 5000 for n in range(16, 31)},
        within=42_515,
        train_options=(("lean", True),),
        merged_buckets=3,
        eval_step=5,
    ),
    "edit_distance": recipe.TaskPlan(
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
    "lis": recipe.TaskPlan(
        task="lis",
        options={"group": 10, "smallest": 401, "number_range": 802},
        train=(1, 100),
        test=(1, 400),
        chains={str(n): 1000 for n in range(105, 201, 5)},
        within=73_235,
        merged_buckets=4,
        eval_step=50,
    ),
}
NUM_NUMBERS = {"arithmetic": 16, "edit_distance": 512, "lis": 1104}
# The longest problems cost most: each task has a bucket of shorter ones, whose steps are
# cheaper, and arithmetic practises first rounds alone.
SHORTER = {"arithmetic": (1, 7), "edit_distance": (1, 15), "lis": (1, 50)}
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
LOOPED = {
    "arithmetic": {
        "model": {"num_heads": 8},
        "optimizer": STEADY
        | {"kind": "adamw", "learning_rate": 1e-3, "weight_decay": 0.3},
        "data": {"batch_size": 512},
        "num_steps": 6000,
    },
    "edit_distance": {
        "model": {"differences": True},
        "optimizer": STEADY,
        "loss": {"answer_weight": 0.3},
        "data": {"batch_size": 128},
        "num_steps": 4000,
    },
    "lis": {
        "model": {
            "num_layers": 4,
            "position": {"directional_heads": False, "distance_slopes": False},
        },
        "optimizer": STEADY,
        "loss": {"answer_weight": 0.1, "max_shift": {"lis": 300}},
        "data": {"batch_size": 256},
        "num_steps": 4000,
    },
}
ALL_MODELS = {
    "arithmetic": {},
    "edit_distance": {"number_code": "digits"},
    "lis": {"number_code": "ordinal"},
}


def get_config(which: str = "arithmetic") -> ConfigDict:
    """`which`: a task, and after a slash the name of one run."""
    name, _, run = which.partition("/")
    if name not in PLANS:
        raise ValueError(f"unknown task {name!r}; there are {', '.join(PLANS)}")
    return ConfigDict(recipe.choose(far(name), run))


def far(name: str) -> dict:
    """The method on one task."""
    plan = PLANS[name]
    model = MODEL | {"num_numbers": NUM_NUMBERS[name]} | ALL_MODELS[name]
    looped = {"model": model | {"kind": "looped", "loop_input": "feedback"}}
    looped = recipe.merge(looped, LOOPED[name])
    looped["data"] |= {"buckets": _buckets(plan)}
    # A decoder's heads all look left; texts are long, and fewer heads are faster.
    place = POSITION | {"directional_heads": False, "max_distance": 24}
    decoder = {"model": model | {"kind": "decoder", "num_heads": 4, "position": place}}
    runs = {
        "looped_aligned": looped,
        "ar": decoder | {"num_steps": 20_000},
        "looped_vanilla": {
            "model": model | {"kind": "looped"},
            "loss": {"round_weight": 0.0},
            "num_steps": 4000,
        },
        "ar_relay": decoder | {"num_steps": 5000},
        "ar_control": decoder | {"num_steps": 5000},
    }
    train = {
        "optimizer": MUON,
        "data": {"batch_size": 128, "num_workers": 4},
        "evaluation": recipe.evaluation([plan], every_steps=2000, during=64, final=512),
        "log_every_steps": 100,
        "checkpoint_every_seconds": 60.0,
    }
    return recipe.whole([plan], runs, train)


def _buckets(plan: recipe.TaskPlan) -> dict[str, dict]:
    name = plan.task
    (usual,) = recipe.original_buckets([plan]).values()
    if name == "arithmetic":
        practice = usual | {"weight": 0.65, "most_rounds": 1}
        shorter = usual | {"weight": 0.15, "lengths": SHORTER[name]}
        return {
            name: {"weight": 0.2},
            "first_rounds": practice,
            "shorter": shorter,
        }
    shorter = usual | {"weight": 0.4, "lengths": SHORTER[name]}
    return {name: {"weight": 0.6}, "shorter": shorter}

"""RELAY on arithmetic modulo 5: trained on up to 4 operators, tested to 8.

`--config=.../quickstart.py` is the whole method (experiments/quickstart.py);
`--config=.../quickstart.py:looped_aligned` is one of its runs (experiments/train.py).
"""

from ml_collections import ConfigDict

from experiments.configs import relay_recipe

PLANS = [
    relay_recipe.TaskPlan(
        task="arithmetic",
        options={"modulus": 5},
        train=(1, 4),
        test=(1, 8),
        chains={"5": 4000, "6": 4000, "7": 4000, "8": 4000},
        within=12_000,
        train_options=(("right_heavy", True),),
        merged_buckets=4,
    )
]
NUM_NUMBERS = 8
STEPS = {
    "looped_aligned": 10_000,
    "ar": 1200,
    "looped_vanilla": 2000,
    "ar_relay": 800,
    "ar_control": 800,
}
# AdamW goes further beyond the training lengths here than Muon does, and the average of
# its parameters at a constant rate further than where a falling rate comes to rest. Of
# four steps three practise first rounds alone: a step is then four times as cheap, and
# long expressions, which are the hard ones, are met three times as often.
LOOPED = {
    "optimizer": {"kind": "adamw", "constant_share": 0.95, "average_share": 0.1},
    "data": {
        "buckets": {
            "arithmetic": {"weight": 0.25},
            "first_rounds": relay_recipe.original_buckets(PLANS)["arithmetic"]
            | {"weight": 0.75, "max_rounds": 1},
        }
    },
}


# Two places left of an innermost bracket, its end is 6 away; 8 distances tell that end
# from those further right.
ALL_MODELS = {"position": {"max_distance": 8}}


def get_config(run: str = "") -> ConfigDict:
    changes = {"looped_aligned": LOOPED}
    return ConfigDict(quickstart(PLANS, NUM_NUMBERS, STEPS, run, changes, ALL_MODELS))


def quickstart(
    plans: list[relay_recipe.TaskPlan],
    num_numbers: int,
    steps: dict[str, int],
    run: str = "",
    changes: dict[str, dict] | None = None,
    all_models: dict | None = None,
) -> dict:
    """The small size: 64 wide, 3 layers; trained in minutes on two cores.

    `changes` is what a task changes in each run, `all_models` in every model.
    """
    model = {
        "num_layers": 3,
        "dim": 64,
        "num_heads": 8,
        "mlp_dim": 256,
        "activation": "relu",  # on a CPU, GELU takes a fifth of a step
        "num_numbers": num_numbers,
        "dropout": 0.0,
        "remat": True,  # faster here: on a CPU, storing costs more than computing
    }
    position = {
        "scheme": "relative_bias",
        "max_distance": 6,
        "bias_scale": 8.0,
        "distance_slopes": True,
        "log_length_scaling": True,
    }
    both_ways = {"position": position | {"directional_heads": True}}
    everywhere = all_models or {}
    vanilla = relay_recipe.merge(model | both_ways | {"kind": "looped"}, everywhere)
    aligned = vanilla | {"input_injection": "feedback"}
    # Texts are long, and fewer heads are faster; parameters are as many.
    own = {"kind": "decoder", "num_heads": 4, "position": position}
    decoder = relay_recipe.merge(model | own, everywhere)
    stages = {
        "looped_aligned": {"model": aligned},
        "ar": {"model": decoder},
        "looped_vanilla": {"model": vanilla, "loss": {"round_weight": 0.0}},
        "ar_relay": {"model": decoder},
        "ar_control": {"model": decoder},
    }
    runs = {
        name: relay_recipe.merge(values, (changes or {}).get(name, {}))
        | {"num_steps": steps[name]}
        for name, values in stages.items()
    }
    train = {
        "optimizer": {
            "kind": "muon",
            "learning_rate": 3e-3,
            "warmup_share": 0.05,
            "constant_share": 0.5,
            "weight_decay": 0.3,
            "b2": 0.98,
        },
        "data": {"batch_size": 32},
        "evaluation": relay_recipe.evaluation(
            plans, every_steps=2000, during=64, final=1024
        ),
        "log_every_steps": 50,
        "checkpoint_every_seconds": 20.0,
    }
    return relay_recipe.whole(plans, runs, train, run)

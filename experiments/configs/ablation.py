"""What each aid of the looped model is worth: one less at a time.

    python -m experiments.quickstart --config=experiments/configs/ablation.py \\
        --workdir=runs/ablation0 --seed=0

The looped model of the arithmetic quickstart, in a fifth of its steps: `looped_aligned` has
every aid; the last two hear no round, their loops carry the hidden state of the paper.
"""

from ml_collections import ConfigDict

from experiments.configs import quickstart, relay_recipe

STEPS = 2000
HIDDEN = {"model": {"input_injection": "hidden"}}
BARE = {
    "scheme": "rope",
    "log_length_scaling": False,
    "directional_heads": False,
}
VARIANTS = {
    "looped_aligned": {},
    "no_bias": {"model": {"position": {"scheme": "rope"}}},
    "bias_unscaled": {"model": {"position": {"bias_scale": 1.0}}},
    "no_log_scaling": {"model": {"position": {"log_length_scaling": False}}},
    "no_directions": {"model": {"position": {"directional_heads": False}}},
    "no_practice": {  # as many loops in all
        "data": {"buckets": {"first_rounds": {"max_rounds": 0}}},
        "num_steps": STEPS * 7 // 16,
    },
    "sampled_rounds": {  # instead of practice: two of each chain's rounds
        "data": {
            "buckets": {
                "arithmetic": {"sampled_rounds": 2},
                "first_rounds": {"max_rounds": 0, "sampled_rounds": 2},
            }
        }
    },
    "soft_feedback": {
        "model": {"feedback": "soft"},
        "loss": {"forcing_start": 1.0, "forcing_end": 0.0},
    },
    "hidden": HIDDEN,
    "hidden_bare": relay_recipe.merge(HIDDEN, {"model": {"position": BARE}}),
}


def get_config(run: str = "") -> ConfigDict:
    whole = quickstart.get_config("looped_aligned").to_dict()
    small = {"num_steps": STEPS, "evaluation": {"final": 512}}
    runs = {
        name: relay_recipe.merge(relay_recipe.merge(whole, small), changes)
        | {"name": name}
        for name, changes in VARIANTS.items()
    }
    return ConfigDict(relay_recipe.choose({"runs": runs, "chains": {}}, run))

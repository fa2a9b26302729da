"""The effect of each feature of the looped model: one is removed or replaced at a time.

    python -m experiments.quickstart --config=experiments/configs/ablation.py \\
        --workdir=runs/ablation0 --seed=0

    --config=experiments/configs/ablation.py:arithmetic/no_bias      one run, for train.py

The looped model of the arithmetic quickstart with a fifth of its steps:
`looped_aligned` has every feature; the last two carry the hidden state from loop to loop,
as the paper does, instead of feeding rounds back.
"""

from ml_collections import ConfigDict

from experiments.configs import quickstart, relay_recipe

NUM_STEPS = 2000
HIDDEN = {"model": {"input_injection": "hidden"}}
PLAIN_POSITION = {
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
    "no_practice": {  # whole chains only; the total number of loops is the same
        "data": {"buckets": {"first_rounds": {"max_rounds": 0}}},
        "num_steps": NUM_STEPS * 7 // 16,
    },
    "sampled_rounds": {  # two rounds of each chain instead of first rounds
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
    "hidden_bare": relay_recipe.merge_dicts(
        HIDDEN, {"model": {"position": PLAIN_POSITION}}
    ),
}


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: `arithmetic`, optionally followed by a slash and a run."""
    _, run = relay_recipe.split_name(name, ["arithmetic"])
    full = quickstart.get_config("arithmetic/looped_aligned").to_dict()
    shorter = {"num_steps": NUM_STEPS, "evaluation": {"final": 512}}
    shorter = relay_recipe.merge_dicts(full, shorter)
    runs = {
        variant: relay_recipe.merge_dicts(shorter, changes) | {"name": variant}
        for variant, changes in VARIANTS.items()
    }
    return ConfigDict(relay_recipe.select_run({"runs": runs, "chains": {}}, run))

"""The effect of each feature of the looped model: one is removed or replaced at a time.

    python -m experiments.quickstart --config=experiments/configs/ablation.py \\
        --workdir=runs/ablation0 --seed=0

    --config=experiments/configs/ablation.py:arithmetic/no_bias      one run, for train.py

The looped model of the arithmetic quickstart with fewer steps: `looped_aligned` carries
the hidden state, as the paper does, and has every aid. The last four feed rounds back.
"""

from ml_collections import ConfigDict

from experiments.configs import quickstart, relay_recipe

NUM_STEPS = 2000
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
    "rope_alone": {"model": {"position": PLAIN_POSITION}},  # as the paper
    "adamw": {"optimizer": {"kind": "adamw"}},
    "no_practice": {  # whole chains only; the total number of loops is the same
        "data": {"buckets": {"first_rounds": {"max_rounds": 0}}},
        "num_steps": NUM_STEPS * 13 // 16,
    },
}
FEEDBACK_VARIANTS = {
    "looped_feedback": {},
    "feedback_no_practice": {
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
}


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: `arithmetic`, optionally followed by a slash and a run."""
    _, run = relay_recipe.split_name(name, ["arithmetic"])
    shorter = {"num_steps": NUM_STEPS, "evaluation": {"final": 512}}
    runs = {}
    for base, variants in (
        ("looped_aligned", VARIANTS),
        ("looped_feedback", FEEDBACK_VARIANTS),
    ):
        full = quickstart.get_config(f"arithmetic/{base}").to_dict()
        for variant, changes in variants.items():
            changed = relay_recipe.merge_dicts(full | {"name": variant}, shorter)
            runs[variant] = relay_recipe.merge_dicts(changed, changes)
    return ConfigDict(relay_recipe.select_run({"runs": runs, "chains": {}}, run))

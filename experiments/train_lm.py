"""Trains a small language model of source code: words, tokens and model, in one run.

    python -m experiments.train_lm --config=experiments/configs/code_lm.py \
        --workdir=runs/code_lm

The corpus is the standard library of the Python that runs, some files held out. Running
the same command again goes on where it was interrupted. What is in the directory is all
that the following needs:

    python -m experiments.build_datastore --datastore=runs/code_store \
        --token_array=runs/code_lm/train.npy --tokenizer=runs/code_lm/tokenizer.model
    python -m experiments.rest_benchmark --run=runs/code_lm --datastore=runs/code_store \
        --token_array=runs/code_lm/held_out.npy --drafters=prompt_lookup,rest_paper,rest \
        --workdir=runs/code_bench
"""

import json
import sys

from absl import flags
from ml_collections import config_flags

from experiments import command
from relay_jax import config as configs
from relay_jax.data.language_corpus import prepare_corpus
from relay_jax.training import loop
from relay_jax.training.validate import check_devices, check_settings

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    config = command.build(configs.LanguageConfig, _CONFIG.value.to_dict())
    check_settings(config.train)  # the corpus takes a while
    check_devices(config.train)
    vocab_size = config.train.model.text_vocab_size
    told = command.first_alone(
        lambda: prepare_corpus(config.corpus, vocab_size, _WORKDIR.value)
    )
    for name in ("train", "held_out"):
        print(f"{name}: {told[name]['files']} files, {told[name]['tokens']:,} tokens")
    try:
        summary = loop.train(config.train, _WORKDIR.value)
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(143)
    print(json.dumps({k: v for k, v in summary.items() if k != "final"}, indent=2))
    for line in summary["final"]:
        print(f"held-out {line['metric']}: {line['value']:.3f}")


if __name__ == "__main__":
    command.run(main, is_shared=True)

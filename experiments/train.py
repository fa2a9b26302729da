r"""Trains a model: a looped model, an AR model, or a language model of source code.

    python -m experiments.train --config=experiments/configs/tiny.py --workdir=/tmp/tiny
    python -m experiments.train --workdir=runs/lis/looped_aligned \\
        --config=experiments/configs/quickstart.py:lis/looped_aligned
    python -m experiments.train --config=experiments/configs/code_lm.py \\
        --workdir=runs/code_lm

Any field of the config can be set on the command line (--config.num_steps=100). Running
the same command again resumes an interrupted training. WORKDIR/run.jsonl has the command,
commit and machine of every call that trained; `collect_results` reads it.

For a language model the corpus is prepared first: by default the standard library of the
running Python, with some files held out. WORKDIR then also holds tokenizer.model,
train.npy and held_out.npy, from which a datastore can be built.
"""

import json
import sys
import time

from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import command, processes
from relay_jax import config as configs
from relay_jax import files
from relay_jax.data.language_corpus import prepare_corpus
from relay_jax.training import loop, run_dir
from relay_jax.training.validate import check_devices, check_settings

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
_PROFILE = flags.DEFINE_string(
    "profile_steps", "", "FIRST,LAST: trace these steps into WORKDIR/profile."
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    values = _CONFIG.value.to_dict()
    corpus = None
    if "corpus" in values:
        language = command.build(configs.LanguageConfig, values)
        config, corpus = language.train, language.corpus
    else:
        config = command.build(configs.TrainConfig, values)
    profile = profiled_steps()
    call, start = command.describe(), time.monotonic()
    path = epath.Path(_WORKDIR.value)
    was_finished = run_dir.is_finished(path)
    if corpus:
        prepare(corpus, config)
    try:
        summary = loop.train(config, path, profile)
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(143)
    if not was_finished:
        minutes = round((time.monotonic() - start) / 60, 1)
        call |= {"minutes": minutes, "seed": config.seed}
        files.append_lines(path / "run.jsonl", [call])
    print(json.dumps({k: v for k, v in summary.items() if k != "final"}, indent=2))
    for line in summary["final"]:
        if line["task"] == "text":
            print(f"held-out {line['metric']}: {line['value']:.3f}")


def profiled_steps() -> range:
    """The steps of --profile_steps. Raises ValueError if there are none."""
    if not _PROFILE.value:
        return range(0)
    first, last = command.whole_numbers("profile_steps", _PROFILE.value, 2)
    if last < first:
        raise ValueError(
            f"--profile_steps={first},{last} contains no step; give FIRST,LAST"
        )
    return range(first, last + 1)


def prepare(corpus: configs.CorpusConfig, config: configs.TrainConfig) -> None:
    """Trains the tokenizer and tokenizes the corpus, unless that is done already."""
    check_settings(config)  # before the corpus, which takes minutes
    check_devices(config)
    counts = processes.first_alone(
        lambda: prepare_corpus(corpus, config.model.text_vocab_size, _WORKDIR.value)
    )
    for name in ("train", "held_out"):
        part = counts[name]
        print(f"{name}: {part['files']} files, {part['tokens']:,} tokens")


if __name__ == "__main__":
    command.run(main, is_shared=True)

"""Learns from a model's own texts what a match is worth, for --weights of other scripts.

    python -m experiments.calibrate --run=DIR --datastore=STORE --weights_file=FILE.json \
        --token_array=DIR/held_out.npy --piece_tokens=512 --prompt_tokens=128 --count=61

The prompts are decoded plainly; at every place of these texts, the rows that drafters find
are held against what the model said (`relay_jax/rest/calibrate.py`).
"""

from absl import flags
from etils import epath

from experiments import command, drafting, prompting
from relay_jax import files
from relay_jax.config import DraftConfig
from relay_jax.decoding import decode
from relay_jax.rest import calibrate
from relay_jax.rest.replay import Target

_FILE = flags.DEFINE_string("weights_file", None, "The file to be.", required=True)
_COUNT = flags.DEFINE_integer("count", 64, "How many prompts, at most.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Texts at once.", 1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 128, "Tokens to write at most.", 1
)


def main() -> None:
    config, tokenizer = prompting.open_run(needs_words=False)
    _, store = drafting.from_flags(tokenizer, ["rest"])
    prompts = prompting.read_prompts(tokenizer, _COUNT.value)
    about, index = command.describe(), drafting.load_index(store)
    params, width = prompting.load_params(config, index), max(map(len, prompts))
    targets = []
    for first in range(0, len(prompts), _BATCH_SIZE.value):
        group = prompts[first : first + _BATCH_SIZE.value]
        state = decode.decode(
            *(params, group),
            model=config.model,
            max_new_tokens=_MAX_NEW_TOKENS.value,
            eos_id=prompting.end_ids(tokenizer),
            width=width,
        )
        texts = zip(state.tokens, state.length, map(len, group))
        targets += [Target(row[:size], begin) for row, size, begin in texts]
    counts = calibrate.count(targets, index, DraftConfig(), progress=True)
    found = calibrate.weigh(counts)
    told = {name: part.tolist() for name, part in counts._asdict().items()}
    files.write_json(
        epath.Path(_FILE.value), {"weights": found, "counts": told} | about
    )
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    command.run(main)

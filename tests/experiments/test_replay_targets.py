"""Texts to replay: prompts and what follows them, from JSON lines, files and tokens."""

import gzip
import json
import pathlib

import numpy as np
import pytest
import sentencepiece
from etils import epath

from relay_jax.data.corpora import read_json_fields
from relay_jax.data.language_corpus import train_tokenizer
from relay_jax.rest.replay import load_targets
from relay_jax.tokenizers import SentencePieceTokenizer
from relay_jax.vocabulary import TaskTokenizer
from tests.experiments.test_scripts import refusal, script

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
HUMAN_EVAL = DATA / "HumanEval.jsonl.gz"
TOKENIZER = TaskTokenizer(12)


def make(path, *arguments, tokenizer="relay:12", run=script):
    file = f"--targets={path}/targets.npz"
    return run("replay", "--make", file, f"--tokenizer={tokenizer}", *arguments)


def read_targets(path):
    """Prompt and text of each target, as ids."""
    targets = load_targets(path / "targets.npz")
    cuts = [np.split(target.tokens, [target.prompt_length]) for target in targets]
    return [tuple(part.tolist() for part in cut) for cut in cuts]


def test_every_other_line_of_packed_json(tmp_path):
    lines = [{"ask": f"{i}*2", "say": f"={i} + {i}"} for i in range(5)]
    lines.insert(3, {"ask": "9-9", "say": ""})  # nothing to draft
    content = "\n".join(map(json.dumps, lines)).encode()
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(content))
    keys = "--prompt_key=ask", "--text_key=say", "--every=2", "--offset=1"
    source = f"--jsonl={tmp_path}/lines.jsonl.gz", *keys
    done = make(tmp_path, *source)
    assert done.returncode == 0, done.stderr
    assert "targets.npz: 2 texts, 8 tokens after their prompts" in done.stdout
    expected = [(f"{i}*2", f"={i}+{i}") for i in (1, 4)]
    assert read_targets(tmp_path) == [
        tuple(map(TOKENIZER.encode, pair)) for pair in expected
    ]
    assert "or give --overwrite" in make(tmp_path, *source, run=refusal)
    done = make(tmp_path, *source, "--count=1", "--overwrite")
    assert done.returncode == 0 and len(read_targets(tmp_path)) == 1


def test_files_and_token_arrays_are_cut(tmp_path):
    (tmp_path / "code").mkdir()
    for name, text in (("long", "1+2+3+4+5="), ("short", "1+2")):
        (tmp_path / "code" / name).write_text(text)
    done = make(tmp_path, f"--files={tmp_path}/code", "--prompt_tokens=4")
    assert done.returncode == 0, done.stderr
    assert read_targets(tmp_path) == [
        (TOKENIZER.encode("1+2+"), TOKENIZER.encode("3+4+5="))
    ]
    np.save(tmp_path / "tokens.npy", np.array([5, 6, 7, 8, 9, 1, 5, 1], np.uint16))
    array = f"--token_array={tmp_path}/tokens.npy", "--prompt_tokens=4", "--overwrite"
    done = make(tmp_path, *array)
    assert done.returncode == 0, done.stderr
    assert read_targets(tmp_path) == [([5, 6, 7, 8], [9, 1])]
    both = make(tmp_path, *array, f"--files={tmp_path}/code", run=refusal)
    assert "give one of --jsonl, --files and --token_array" in both


@pytest.mark.skipif(not HUMAN_EVAL.exists(), reason="HumanEval is not on this machine")
def test_half_of_human_eval(tmp_path):
    keys = "prompt", "canonical_solution"
    pairs = list(read_json_fields([epath.Path(HUMAN_EVAL)], keys))
    assert len(pairs) == 164
    model = tmp_path / "words.model"
    model.write_bytes(train_tokenizer([a + b for a, b in pairs], 600))
    arguments = (f"--jsonl={HUMAN_EVAL}", f"--text_key={keys[1]}", "--every=2")
    done = make(tmp_path, *arguments, "--offset=1", tokenizer=model)
    assert done.returncode == 0, done.stderr
    tokenizer = SentencePieceTokenizer(model)
    decoded = [tuple(map(tokenizer.decode, pair)) for pair in read_targets(tmp_path)]
    assert decoded == [tuple(pair) for pair in pairs[1::2]]


def test_the_prefix_that_a_tokenizer_adds_occurs_once(tmp_path):
    """Llama's kind: begin of text, and an additional space before the first word."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat", "on the mat"] * 9),
        model_prefix=str(tmp_path / "words"),
        model_type="bpe",
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(tmp_path / "words.model")
    begin = tokenizer.encode("")
    assert len(begin) == 1
    # Of the second pair the texts run together in a word that is none of the prompt's.
    pairs = [("the cat", " sat"), ("the ca", "t sat")]
    lines = [json.dumps({"prompt": a, "text": b}) for a, b in pairs]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    source = f"--jsonl={tmp_path}/lines.jsonl"
    done = make(tmp_path, source, tokenizer=tmp_path / "words.model")
    assert done.returncode == 0, done.stderr
    (prompt, text), (cut, rest) = read_targets(tmp_path)
    assert prompt + text == tokenizer.encode("the cat sat")
    assert prompt == tokenizer.encode("the cat")
    assert cut == tokenizer.encode("the ca")
    assert rest == tokenizer.encode("t sat")[1:] and begin[0] not in rest

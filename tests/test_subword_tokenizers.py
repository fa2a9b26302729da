"""Tokenizers of text: token for token those of transformers, built from one file.

All are trained here, on this repository's own sources.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
import sentencepiece

from relay_jax import tokenizers
from relay_jax.hf_tokenizer import HuggingFaceTokenizer
from relay_jax.sentencepiece_tokenizer import SentencePieceTokenizer
from relay_jax.tokenizers import (
    Tokenizer,
    decode_spans,
    load_run_tokenizer,
    load_tokenizer,
)

transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "relay_jax").rglob("*.py"))
ODD = [
    "",
    " ",
    "   ",
    "a",
    " a",
    "  a b  ",
    "a\nb",
    "\n\n\ta\r\n",
    "    return x",
    "é漢字😀 ünï",
    "\u200b\u00a0\x00\x7f",
    "▁ ▁▁a",
    "<0x0A>",
    "</s>",
    "<s>a</s>",
    "a</s> b</s>c <unk> d",
    "<s> <s>",
    "1234567 3.14",
]


def some_texts(num=2000):
    """Pieces of code and of any characters, special names strewn in."""
    rng = np.random.default_rng(0)
    code = "".join(file.read_text() for file in SOURCES)
    marks = ["</s>", "<s>", "<unk>", " ", "\n", "  ", "漢", "😀", "é", "\t"]
    texts = []
    for _ in range(num):
        parts = []
        for _ in range(rng.integers(1, 4)):
            start = rng.integers(len(code) - 40)
            parts += [code[start : start + rng.integers(40)], rng.choice(marks)]
        texts.append("".join(map(str, parts)))
    return ODD + texts


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return train_llama(tmp_path_factory.mktemp("llama"))


def train_llama(folder):
    """A SentencePiece model with the settings of Llama-2's, in a folder."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            line for file in SOURCES for line in file.read_text().splitlines()
        ),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=600,
        character_coverage=0.99,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
        num_threads=1,
    )
    return folder


def set_up(folder, **settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    settings = {"add_bos_token": True} | settings
    settings.pop("added_tokens_decoder", None)  # it reads the file
    theirs = transformers.LlamaTokenizer.from_pretrained(folder, **settings)
    return load_tokenizer(folder), theirs


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": False}])
def test_a_sentencepiece_model_encodes_as_in_transformers(llama, settings):
    ours, theirs = set_up(llama, **settings)
    assert isinstance(ours, SentencePieceTokenizer) and isinstance(ours, Tokenizer)
    assert (ours.vocab_size, ours.eos_id) == (600, theirs.eos_token_id)
    for text in some_texts():
        if not text.startswith((" ", "▁")):  # transformers 5 loses that space
            ids = ours.encode(text)
            assert ids == theirs.encode(text), text
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_unknown_ids_are_omitted(llama):
    """A model may have more rows of embeddings than its tokenizer has tokens."""
    ours, theirs = set_up(llama)
    ids = ours.encode("def f(x)")
    assert ours.decode([*ids, 600, 640]) == theirs.decode([*ids[1:], 600]) == "def f(x)"


ADDED = {
    "600": {"content": "<|im_end|>", "special": True},
    "601": {"content": "<tool>", "special": False},
    "602": {"content": "<|im_start|>", "special": True},
}


def test_added_tokens_are_found_whole_and_special_ones_hidden(llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "copy")
    plain, _ = set_up(folder)
    whole = {i: {"normalized": False} | token for i, token in ADDED.items()}
    ours, theirs = set_up(folder, added_tokens_decoder=whole, eos_token="<|im_end|>")
    assert (ours.vocab_size, ours.eos_id) == (603, theirs.eos_token_id) == (603, 600)
    assert ours.identity != plain.identity
    rng = np.random.default_rng(1)
    marks = [token["content"] for token in ADDED.values()]
    for text in some_texts(500):
        for mark in rng.choice(marks, size=2):
            cut = rng.integers(len(text) + 1)
            text = text[:cut] + mark + text[cut:]
        if not text.startswith((" ", "▁")):  # transformers 5 loses that space
            ids = ours.encode(text)
            assert ids == theirs.encode(text), text
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_added_tokens_of_an_older_folder(llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "copy")
    added = {"<tool>": 604, "<|im_end|>": 601}  # 600, 602, 603 are no token
    (folder / "added_tokens.json").write_text(json.dumps(added))
    settings = {"eos_token": {"content": "<|im_end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = load_tokenizer(folder)
    ids = ours.encode("a<tool> b<|im_end|>")
    assert 604 in ids and ids[-1] == ours.eos_id == 601 and ours.vocab_size == 605
    assert ours.decode([600, *ids, 602, 603]) == "a<tool> b"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eos_token": "<|no|>"}, "names the eos_token '<|no|>', which is neither"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "added tokens of .* id"),
        ({"added_tokens_decoder": {"600": "a"}}, "cannot be read .*expected"),
        (
            {"added_tokens_decoder": {"600": {"content": ""}}},
            "a name that is not a str",
        ),
    ],
)
def test_tokens_that_cannot_be_added(llama, tmp_path, settings, message):
    folder = shutil.copytree(llama, tmp_path / "copy")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(folder)


def test_a_leading_space_is_preserved(llama):
    """As in SentencePiece itself and in the published tokenizer.json of Llama-2, whose
    normalizer prepends a space to every part."""
    from tokenizers import normalizers

    ours, theirs = set_up(llama, legacy=True)
    published = theirs.backend_tokenizer
    published.pre_tokenizer = None
    published.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    for text in some_texts():
        assert ours.encode(text) == published.encode(text).ids, text
    modern, _ = set_up(llama)
    for text in ("a", " a", "    return x", "  "):
        assert ours.encode(text) == modern.encode(text)
        assert modern.decode(modern.encode(text)) == text


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return train_qwen(tmp_path_factory.mktemp("qwen"))


def train_qwen(folder, split=None):
    """A byte-level tokenizer.json with a begin-of-text token, as Llama-3 has.

    Args:
      split: what splits a text; by default GPT-2's regular expression.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    default = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = split or default
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((file.read_text() for file in SOURCES), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[(special[0], 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_tokenizer_json_encodes_as_in_transformers(qwen):
    ours = load_run_tokenizer(qwen, 8)
    theirs = transformers.AutoTokenizer.from_pretrained(qwen)
    assert isinstance(ours, HuggingFaceTokenizer) and isinstance(ours, Tokenizer)
    assert (ours.vocab_size, ours.eos_id) == (600, theirs.eos_token_id)
    for text in some_texts():
        text = text.replace("</s>", "<|eot_id|>")
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == text.replace("<|eot_id|>", "")


def test_texts_are_neither_truncated_nor_padded(qwen, tmp_path):
    import tokenizers

    folder = shutil.copytree(qwen, tmp_path / "copy")
    file = str(folder / "tokenizer.json")
    changed = tokenizers.Tokenizer.from_file(file)
    changed.enable_truncation(8)
    changed.enable_padding(length=16)
    changed.save(file)
    tokenizer = load_tokenizer(qwen)
    for text in ("a", "a long text, of more than eight tokens"):
        assert load_tokenizer(folder).encode(text) == tokenizer.encode(text)


def test_spans_preserve_spaces_and_characters(llama):
    tokenizer, _ = set_up(llama)
    text = "    return x  # 漢字\n  y"
    ids = tokenizer.encode(text)
    for cut in range(1, len(ids)):
        spans = decode_spans(tokenizer, ids, [1, cut, len(ids)])
        assert "".join(spans) == text and tokenizers.UNFINISHED not in spans[0]
    assert decode_spans(tokenizer, ids, [3, 3]) == [""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.model", None, "nowhere.model' is not a file; give a SentencePiece"),
        ("nowhere.json", None, "nowhere.json' is not a file; give a tokenizer.json"),
        ("bad.model", "?", "bad.model is not a SentencePiece model"),
        ("bad.json", "{}", "bad.json is not a tokenizer: "),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path / name)


def test_the_end_of_text_token_must_be_named(qwen, tmp_path):
    copy = tmp_path / "tokenizer.json"
    copy.write_text((qwen / "tokenizer.json").read_text())
    with pytest.raises(ValueError, match="must name an eos_token .* got None"):
        load_tokenizer(copy)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "x!"}}')
    with pytest.raises(ValueError, match="must name an eos_token .* got 'x!'"):
        load_tokenizer(tmp_path)

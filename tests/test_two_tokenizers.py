"""Folders with a tokenizer.model and a tokenizer.json, and settings that contradict one."""

import json
import logging
import shutil

import pytest

from relay_jax.hf_tokenizer import HuggingFaceTokenizer
from relay_jax.sentencepiece_tokenizer import SentencePieceTokenizer
from relay_jax.tokenizers import load_tokenizer
from tests.test_subword_tokenizers import train_llama, train_qwen

transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

LLAMA_2 = {
    "pre_tokenizer": None,
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    },
}
TEXTS = ["a b", "def f(x):\n    return x", " é 12 <x>", "", "  a"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A SentencePiece model, and what transformers makes of it."""
    folder = train_llama(tmp_path_factory.mktemp("saved"))
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    theirs = transformers.LlamaTokenizer.from_pretrained(folder, **settings)
    theirs.save_pretrained(folder)
    # As Llama-2's file has it: a space is put before every text, whatever it begins with.
    edit(folder / "tokenizer.json", lambda values: values.update(LLAMA_2))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def load(folder, caplog):
    """The tokenizer, and the warnings."""
    with caplog.at_level(logging.WARNING, "absl"):
        ours = load_tokenizer(folder)
    return ours, [x.getMessage() for x in caplog.records if x.name == "absl"]


def is_theirs(ours, folder):
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return all(ours.encode(text) == theirs.encode(text) for text in TEXTS)


def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def swap_ids(values):
    vocab = values["model"]["vocab"]
    vocab["▁a"], vocab["▁b"] = vocab["▁b"], vocab["▁a"]


def add_token(values):
    new = values["added_tokens"][0] | {"id": 600, "content": "<x>", "special": False}
    values["added_tokens"].append(new)


def begin_without_space(values):
    del values["normalizer"]["normalizers"][0]


def begin_without_token(values):
    values["post_processor"] = None


def remove_piece(values):
    vocab = values["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    merges = values["model"]["merges"]
    values["model"]["merges"] = [pair for pair in merges if last not in pair]
    del vocab[last]


def test_two_files_that_agree_are_the_sentencepiece_model(folder, caplog):
    ours, warnings = load(folder, caplog)
    assert isinstance(ours, SentencePieceTokenizer) and not warnings
    assert is_theirs(ours, folder)
    (folder / "tokenizer.json").unlink()
    assert load(folder, caplog)[0].identity == ours.identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_ids, "give 2 tokens different ids, as '▁"),
        (add_token, "give 1 tokens different ids, as '<x>' (none and 600)"),
        (remove_piece, "give 1 tokens different ids"),
        (begin_without_space, "encode 'a' differently"),
        (begin_without_token, "encode '' differently"),
    ],
)
def test_two_files_that_differ_are_the_tokenizer_json(folder, change, message, caplog):
    edit(folder / "tokenizer.json", change)
    ours, (warning,) = load(folder, caplog)
    assert isinstance(ours, HuggingFaceTokenizer)
    assert f"tokenizer.model and tokenizer.json {message}" in warning
    assert is_theirs(ours, folder)


@pytest.mark.parametrize(
    ("file", "content", "kind", "message"),
    [
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", HuggingFaceTokenizer, "is not a Sent"),
        ("tokenizer.model", b"", HuggingFaceTokenizer, "is not a SentencePiece"),
        ("tokenizer.json", b"{}", SentencePieceTokenizer, "is not a tokenizer"),
        ("tokenizer.json", b"", SentencePieceTokenizer, "is not a tokenizer"),
    ],
)
def test_one_that_cannot_be_read_leaves_the_other(
    folder, file, content, kind, message, caplog
):
    (folder / file).write_bytes(content)
    ours, (warning,) = load(folder, caplog)
    assert isinstance(ours, kind)
    assert message in warning and "beside it is used" in warning


def test_neither_can_be_read(folder):
    for name in ("tokenizer.model", "tokenizer.json"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="tokenizer.json is not a tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("value", "is_named"), [(True, True), (False, False), (None, False)]
)
def test_a_leading_space_that_the_file_does_not_have(tmp_path, value, is_named, caplog):
    folder = train_qwen(tmp_path)
    edit(
        folder / "tokenizer_config.json",
        lambda values: values.update(add_prefix_space=value),
    )
    ours, warnings = load(folder, caplog)
    assert is_theirs(ours, folder)
    assert len(warnings) == is_named
    if is_named:
        assert (
            "add_prefix_space is true, but tokenizer.json begins a text without"
            in (warnings[0])
        )


def test_a_leading_space_that_the_file_has(folder, caplog):
    (folder / "tokenizer.model").unlink()
    edit(
        folder / "tokenizer_config.json",
        lambda values: values.update(add_prefix_space=False),
    )
    _, (warning,) = load(folder, caplog)
    assert "tokenizer.json begins a text with a space" in warning


MISSING = "are no tokens of {}; transformers adds them, here they are ordinary text"


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json", "both"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pad_token": "[PAD]"}, "the special tokens '[PAD]' " + MISSING),
        ({"pad_token": {"content": "[PAD]", "lstrip": True}}, "'[PAD]' " + MISSING),
        ({"extra_special_tokens": ["<a>", "<b>"]}, "'<a>', '<b>' " + MISSING),
        ({"extra_special_tokens": {"image_token": "<i>"}}, "'<i>' " + MISSING),
        ({"additional_special_tokens": ["<a>", "</s>"]}, "tokens '<a>' " + MISSING),
        ({"split_special_tokens": True}, "split_special_tokens is ignored"),
        ({"pad_token": "</s>", "unk_token": None}, ""),
    ],
    ids=str,
)
def test_special_tokens_that_are_not_there_are_named(
    folder, kind, values, message, caplog
):
    for name in ("tokenizer.model", "tokenizer.json"):
        if kind not in (name, "both"):
            (folder / name).unlink()
    kind = "tokenizer.model" if kind == "both" else kind  # the two agree
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(values))
    _, warnings = load(folder, caplog)
    assert len(warnings) == bool(message)
    assert not message or message.format(kind) in warnings[0]


def test_a_text_begins_with_the_token_that_the_settings_name(folder, caplog):
    (folder / "tokenizer.json").unlink()
    usual, _ = load(folder, caplog)
    edit(
        folder / "tokenizer_config.json",
        lambda settings: settings.update(bos_token="</s>"),
    )
    ours, _ = load(folder, caplog)
    theirs = transformers.AutoTokenizer.from_pretrained(folder, add_bos_token=True)
    assert ours.encode("a b") == theirs.encode("a b")
    assert ours.encode("a b")[0] == 2 != usual.encode("a b")[0]
    assert ours.identity != usual.identity


def lowercase(values):
    values["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})


def test_two_files_that_normalize_differently(folder, caplog):
    edit(folder / "tokenizer.json", lowercase)
    ours, (warning,) = load(folder, caplog)
    assert isinstance(ours, HuggingFaceTokenizer)
    assert "encode 'Ab 12" in warning

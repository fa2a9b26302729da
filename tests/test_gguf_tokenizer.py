"""Tokenizers of GGUF files: token for token those that the metadata was made of, and
those of transformers' GGUF loader, on a few thousand texts."""

import json

import pytest

from relay_jax import chat_template, gguf_tokenizer
from relay_jax.gguf_file import read_gguf
from relay_jax.gguf_splits import SPLITS
from relay_jax.tokenizers import Tokenizer, load_tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
pytest.importorskip("torch", reason="transformers' GGUF loader needs torch")
gguf = pytest.importorskip("gguf", reason="gguf writes the files")

from tests import gguf_files
from tests.test_subword_tokenizers import some_texts, train_llama, train_qwen

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
CONTROL, USER_DEFINED = int(gguf.TokenType.CONTROL), int(gguf.TokenType.USER_DEFINED)


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """A folder with a SentencePiece model and its metadata."""
    folder = train_llama(tmp_path_factory.mktemp("llama"))
    return folder, gguf_files.sentencepiece_fields(folder / "tokenizer.model")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A folder with a tokenizer.json and its metadata."""
    folder = train_qwen(tmp_path_factory.mktemp("qwen"))
    return folder, gguf_files.byte_level_fields(folder / "tokenizer.json", "gpt-2")


def write(path, fields):
    """A file with a tokenizer alone."""
    return gguf_files.write(path / "x.gguf", fields=fields, tensors={})


def load_theirs(file):
    how = {"gguf_file": file.name}
    return transformers.AutoTokenizer.from_pretrained(file.parent, **how)


def with_token(fields, name, kind, *extra):
    """The metadata with one more token of a type."""
    added = {"tokens": name, "token_type": kind}
    added |= {"scores": -1000.0} if "tokenizer.ggml.scores" in fields else {}
    keys = {f"tokenizer.ggml.{key}": value for key, value in added.items()}
    return fields | {key: [*fields[key], value] for key, value in keys.items()}


@pytest.mark.parametrize("adds_bos", [None, True, False])
def test_sentencepiece_tokens_are_those_of_the_model_it_was_made_of(
    adds_bos, sentencepiece, tmp_path
):
    folder, fields = sentencepiece
    file = write(tmp_path, fields | {"tokenizer.ggml.add_bos_token": adds_bos})
    settings = {} if adds_bos is None else {"add_bos_token": adds_bos}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, same, theirs = load_tokenizer(file), load_tokenizer(folder), load_theirs(file)
    assert isinstance(ours, Tokenizer)
    assert (ours.vocab_size, ours.eos_id) == (600, same.eos_id)
    for text in some_texts():
        ids = ours.encode(text)
        assert ids == same.encode(text), text
        assert ours.decode(ids) == same.decode(ids)
        if not text.startswith((" ", "▁")):  # transformers 5 loses that space
            assert ids == theirs.encode(text), text


def test_added_tokens_of_sentencepiece_are_found_whole(sentencepiece, tmp_path):
    _, fields = sentencepiece
    fields = with_token(fields, "<|im_end|>", CONTROL)
    fields = with_token(fields, "<tool>", USER_DEFINED)
    file = write(tmp_path, fields | {"tokenizer.ggml.eos_token_id": 600})
    ours, theirs = load_tokenizer(file), load_theirs(file)
    assert (ours.vocab_size, ours.eos_id) == (602, 600)
    for text in some_texts(300):
        text = f"x{text[:9]}<tool>{text[9:]}<|im_end|>{text[:3]}"
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


# For the others, transformers takes the regular expression of GPT-2.
KNOWN = ("gpt-2", "llama-bpe", "qwen2", "tekken")


@pytest.mark.parametrize("split", KNOWN)
def test_byte_level_tokens_are_those_of_transformers(split, byte_level, tmp_path):
    _, fields = byte_level
    fields = with_token(fields, "<|im_end|>", CONTROL)
    fields = with_token(fields, "<tool>", USER_DEFINED)
    # llama.cpp begins a text with Llama 3's and Tekken's token by itself.
    changes = {"tokenizer.ggml.pre": split, "tokenizer.ggml.add_bos_token": True}
    file = write(tmp_path, fields | changes)
    ours, theirs = load_tokenizer(file), load_theirs(file)
    assert (ours.vocab_size, ours.eos_id) == (602, 1)
    for text in some_texts():
        text = text.replace("</s>", "<|im_end|>").replace("<s>", "<tool>")
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    _, plain = byte_level
    plain = plain | {"tokenizer.ggml.pre": split}
    begins = load_tokenizer(write(tmp_path / "b", plain)).encode("a")[0] == 0
    assert begins == (split in ("llama-bpe", "tekken"))


def test_smollm_separates_digits_as_its_own_tokenizer_does(byte_level, tmp_path):
    from tokenizers import pre_tokenizers

    rule = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    folder = train_qwen(tmp_path, rule)
    fields = gguf_files.byte_level_fields(folder / "tokenizer.json", "smollm")
    file = write(tmp_path / "file", fields | {"tokenizer.ggml.add_bos_token": True})
    ours, same = load_tokenizer(file), load_tokenizer(folder)
    for text in [*some_texts(500), "a  1", "12 345\n  6"]:
        assert ours.encode(text) == same.encode(text), text


def test_deepseek_coder_separates_lines_punctuation_and_digits(byte_level, tmp_path):
    from tokenizers import Tokenizer as Library

    _, fields = byte_level
    file = write(tmp_path, fields | {"tokenizer.ggml.pre": "deepseek-coder"})
    content = gguf_tokenizer.read_files(read_gguf(file)).content
    rule = Library.from_buffer(content).pre_tokenizer
    parts = [part for part, _ in rule.pre_tokenize_str("def f12(x): #\n漢字 y")]
    marks = [part.replace("Ġ", " ").replace("Ċ", "\n") for part in parts[:9]]
    assert marks == ["def", " f", "1", "2", "(", "x", "):", " #", "\n"]
    assert len(parts) == 11  # 漢字 is one part


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_encodes_and_decodes(split, byte_level, tmp_path):
    _, fields = byte_level
    tokenizer = load_tokenizer(write(tmp_path, fields | {"tokenizer.ggml.pre": split}))
    for text in ("Grüße,  12345 Wörter…\r\n\t!?", "don't WON'T 漢字😀", "    return x"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_is_that_of_the_metadata(byte_level, tmp_path):
    _, fields = byte_level
    file = write(tmp_path, fields | {"tokenizer.chat_template": TEMPLATE})
    template = chat_template.find(file)
    assert (template.source, template.tool_source) == (TEMPLATE, "")
    names = load_tokenizer(file).special_tokens
    assert names == {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    tools = {"tokenizer.chat_template.tool_use": "{{ tools }}"}
    file = write(tmp_path, fields | {"tokenizer.chat_template": TEMPLATE} | tools)
    assert chat_template.find(file).tool_source == "{{ tools }}"
    assert chat_template.find(write(tmp_path, fields)) is None


def test_a_written_folder_has_the_same_tokenizer(sentencepiece, byte_level, tmp_path):
    texts = [text for text in some_texts(200) if not text.startswith((" ", "▁"))]
    for name, (_, fields) in (("llama", sentencepiece), ("gpt2", byte_level)):
        folder = tmp_path / name
        fields = fields | {"tokenizer.chat_template": TEMPLATE}
        fields = with_token(fields, "<tool>", USER_DEFINED)
        fields = with_token(fields, "<|im_end|>", CONTROL)
        file = write(folder, fields)
        gguf_tokenizer.write_files(read_gguf(file), folder)
        ours, again = load_tokenizer(file), load_tokenizer(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert ours.identity == again.identity and ours.eos_id == theirs.eos_token_id
        assert theirs.chat_template == TEMPLATE
        for text in texts:
            text = f"x{text}<tool>{text}<|im_end|>"
            assert ours.encode(text) == again.encode(text) == theirs.encode(text), text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "bert"},
            "the tokenizer kind bert .* is not supported; supported are",
        ),
        ({"model": None}, "the tokenizer kind None .* is not supported"),
        ({"pre": "qwen9"}, "the pre-tokenizer 'qwen9' .* supported are default, gpt-2"),
        ({"merges": None}, "has no tokenizer.ggml.merges; convert it again"),
        ({"merges": ["a"]}, "is not a tokenizer: "),
        ({"merges": ["a zz9"]}, "is not a tokenizer: .*zz9"),
        ({"merges": [1, 2]}, "merges must be of type list, got"),
        ({"tokens": ["a", "b", "a"]}, "tokens must be unique and not empty, got 'a'"),
        ({"tokens": ["a", ""]}, "tokens must be unique and not empty, got ''"),
        ({"tokens": None}, "has no tokenizer.ggml.tokens"),
        ({"token_type": [1, 1]}, "token_type must be an array of 600 numbers"),
        ({"token_type": [9] * 600}, "token_type has a type that is not 1 to 6"),
        ({"eos_token_id": None}, "has no tokenizer.ggml.eos_token_id"),
        ({"bos_token_id": 600}, "tokenizer.ggml.bos_token_id is 600, of 600 tokens"),
        ({"add_bos_token": 1}, "add_bos_token must be of type bool, got 1"),
        ({"add_eos_token": True}, "add_eos_token is True; only False is supported"),
    ],
)
def test_bad_metadata_is_named(changes, message, byte_level, tmp_path):
    _, fields = byte_level
    changes = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    file = write(tmp_path, fields | changes)
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "has no tokenizer.ggml.scores"),
        ({"scores": [float("nan")] * 600}, "scores must be an array of 600 numbers"),
        ({"token_type": [1] * 600}, "is not a SentencePiece model"),
    ],
)
def test_bad_sentencepiece_metadata_is_named(changes, message, sentencepiece, tmp_path):
    _, fields = sentencepiece
    changes = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        load_tokenizer(write(tmp_path, fields | changes))

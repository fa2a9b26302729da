"""Added tokens and special tokens of a folder's files: transformers is the oracle."""

import itertools
import json
import logging
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_jax.added_tokens import AddedToken, split
from relay_jax.tokenizers import load_tokenizer
from tests.test_subword_tokenizers import train_llama, train_qwen

transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

PLAIN = dict.fromkeys(
    ("special", "normalized", "lstrip", "rstrip", "single_word"), False
)
TEXTS = [
    "a <x> b",
    "a<x>b",
    "a  <x>  b",
    "<x>",
    "x<x>",
    "_<x> 7<x>",
    "é<x> <x>  <x>y",
    "a\n<x>\n\tb",
    "a \u00a0<x>\u3000b",
    "a</s> b",
    "def <x>f(x)",
    "a <x",
    "<x><x>",
    "<x> <xy> <x",
]
MODES = [
    {},
    {"lstrip": True},
    {"rstrip": True},
    {"lstrip": True, "rstrip": True},
    {"single_word": True},
    {"normalized": True},
    {"special": True, "normalized": True},
    {"lstrip": True, "rstrip": True, "single_word": True},
]


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory):
    return train_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def json_folder(tmp_path_factory):
    return train_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(params=["sentencepiece", "json"])
def folder(request, sentencepiece_folder, json_folder, tmp_path):
    source = sentencepiece_folder if request.param == "sentencepiece" else json_folder
    return shutil.copytree(source, tmp_path / "copy")


def write(folder, files=None, **values):
    """Its settings; `add_bos_token` has another default in transformers 5."""
    is_json = (folder / "tokenizer.json").exists()
    base = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    if is_json:
        base = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|eot_id|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(base | values))
    for name, content in (files or {}).items():
        (folder / name).write_text(json.dumps(content))


def load_both(folder):
    return load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)


def check(folder):
    ours, theirs = load_both(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
    assert ours.eos_id == theirs.eos_token_id
    return ours


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_added_token_is_found_as_in_transformers(folder, mode):
    tokens = {"600": PLAIN | mode | {"content": "<x>"}}
    tokens["601"] = PLAIN | {"content": "<xy>"}  # begins like the other
    write(folder, added_tokens_decoder=tokens)
    ours = check(folder)
    assert 600 in ours.encode("a <x> b") and ours.vocab_size == 602


def test_settings_of_an_added_token_are_part_of_the_identity(folder):
    identities = set()
    for mode in MODES[:5]:
        write(folder, added_tokens_decoder={"600": PLAIN | mode | {"content": "<x>"}})
        identities.add(load_tokenizer(folder).identity)
    assert len(identities) == 5


def test_an_older_folder_adds_tokens_in_a_file_of_their_own(folder):
    write(folder, {"added_tokens.json": {"<x>": 600}})
    assert 600 in check(folder).encode("a <x> b")


EOT = "<|begin_of_text|>"


@pytest.mark.parametrize(
    ("values", "roles", "is_named"),
    [
        ({}, {"eos_token": "FIRST"}, True),
        ({"added_tokens_decoder": {}}, {"eos_token": "FIRST"}, True),
        ({"eos_token": "FIRST"}, {}, False),
        ({"eos_token": "FIRST"}, {"eos_token": "FIRST"}, False),
        ({"eos_token": "LAST"}, {"eos_token": {"content": "FIRST"}}, True),
        (
            {"eos_token": "FIRST", "added_tokens_decoder": {}},
            {"eos_token": "LAST"},
            True,
        ),
    ],
    ids=str,
)
def test_the_end_of_a_text_in_two_files(folder, values, roles, is_named, caplog):
    """Both are named if they differ; a SentencePiece model without one is silent."""
    is_json = (folder / "tokenizer.json").exists()
    names = ("<|begin_of_text|>", "<|eot_id|>") if is_json else ("<s>", "</s>")
    text = json.dumps([{"eos_token": names[1]} | values, roles])
    text = text.replace("FIRST", names[0]).replace("LAST", names[1])
    values, roles = json.loads(text)
    write(folder, {"special_tokens_map.json": roles}, **values)
    with caplog.at_level(logging.WARNING, "absl"):
        check(folder)
    lines = [x.getMessage() for x in caplog.records if x.name == "absl"]
    assert len(lines) == is_named
    assert all(name in line for name in names for line in lines)


@pytest.mark.parametrize(
    ("values", "files", "message"),
    [
        ({"add_eos_token": True}, {}, "add_eos_token is ignored"),
        (
            {"added_tokens_decoder": {"7": PLAIN | {"content": "<x>"}}},
            {},
            "the added token '<x>' has the id 7, which is that of '<0x04>'",
        ),
        (
            {"added_tokens_decoder": {"600": PLAIN | {"content": "return"}}},
            {},
            "the added token 'return' has the id 600 in the files beside",
        ),
        (
            {"added_tokens_decoder": {"600": PLAIN | {"content": "<x>"}}},
            {"added_tokens.json": {"<x>": 601}},
            "added_tokens.json gives '<x>' the id 601, tokenizer_config.json 600",
        ),
    ],
    ids=str,
)
def test_doubtful_settings_of_a_sentencepiece_folder_are_named(
    sentencepiece_folder, tmp_path, values, files, message, caplog
):
    folder = shutil.copytree(sentencepiece_folder, tmp_path / "copy")
    write(folder, files, **values)
    with caplog.at_level(logging.WARNING, "absl"):
        load_tokenizer(folder)
    assert message in caplog.text
    if "'return'" in message:
        check(folder)


def test_ids_beside_a_tokenizer_json_are_transformers_own(
    json_folder, tmp_path, caplog
):
    folder = shutil.copytree(json_folder, tmp_path / "copy")
    write(folder, added_tokens_decoder={"640": PLAIN | {"content": "<x>"}})
    with caplog.at_level(logging.WARNING, "absl"):
        assert 600 in check(folder).encode("a <x> b")
    assert (
        "'<x>' has the id 640 in the files beside tokenizer.json; as in" in caplog.text
    )


def test_a_text_may_begin_without_a_space(sentencepiece_folder, tmp_path):
    folder = shutil.copytree(sentencepiece_folder, tmp_path / "copy")
    write(folder, add_prefix_space=False)
    ours = check(folder)
    for text in ("a b", " a", "x<0x0A>", "f(x)"):
        assert ours.decode(ours.encode(text)) == text


NAMES = ("<x>", "<xy>", "ab", "a b")


@pytest.mark.parametrize("seed", range(8))
def test_split_is_that_of_the_tokenizers_library(seed):
    """Names that overlap, with every setting, in texts of their characters."""
    import tokenizers
    from tokenizers import models

    rng = np.random.default_rng(seed)
    model = models.WordLevel({"?": 0}, unk_token="?")
    theirs, ours = tokenizers.Tokenizer(model), {}
    for index, name in enumerate(NAMES, 1):
        modes = rng.integers(0, 2, 4).astype(bool).tolist()
        flags = dict(zip(("lstrip", "rstrip", "single_word", "normalized"), modes))
        theirs.add_tokens([tokenizers.AddedToken(name, **flags)])
        ours[name] = AddedToken(index, False, **flags)
    pieces = [*NAMES, *"<xy> ab_\n\u00a0é "]
    for _ in range(200):
        text = "".join(rng.choice(pieces, rng.integers(0, 12)))
        found = theirs.encode(text)
        parts = split(text, ours)
        assert [index or 0 for _, index in parts] == found.ids, text
        for (part, index), span in zip(parts, found.offsets):
            whole = text[slice(*span)]
            assert part == (whole if index is None else whole.strip()), text


tokens = st.lists(
    st.tuples(
        st.sampled_from(["<x>", "<xy>", "x", " y", "ab", "é", "</t>", "1"]),
        st.fixed_dictionaries({name: st.booleans() for name in PLAIN}),
    ),
    max_size=3,
    unique_by=lambda pair: pair[0],
)
texts = st.lists(
    st.sampled_from(["<x>", "<xy>", "x", " y", "ab", "é", " ", "\n", "_", "</s>", "1"]),
    max_size=8,
).map(lambda parts: "a" + "".join(parts))  # transformers 5 drops a leading space


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["sentencepiece", "json"])
def test_any_settings_of_a_folder(kind, sentencepiece_folder, json_folder, data):
    """Whatever tokens are added, and however texts begin: transformers' ids."""
    source = sentencepiece_folder if kind == "sentencepiece" else json_folder
    added = data.draw(tokens)
    known, free = load_tokenizer(source).token_ids, itertools.count(600)
    values = {
        "added_tokens_decoder": {
            str(known[name] if name in known else next(free)): flags | {"content": name}
            for name, flags in added
        }
    }
    if kind == "sentencepiece":
        names = ("add_bos_token", "add_prefix_space", "legacy")
        optional = {name: st.booleans() for name in names}
        values |= data.draw(st.fixed_dictionaries({}, optional=optional))
    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(source, pathlib.Path(name) / "copy")
        write(folder, **values)
        ours, theirs = load_both(folder)
        for text in (*TEXTS, *data.draw(st.lists(texts, max_size=20))):
            assert ours.encode(text) == theirs.encode(text), text

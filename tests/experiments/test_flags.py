"""The flags that scripts share: tree sizes and prompts, read in this process."""

import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import flags as shared
from experiments import prompt_flags
from relay_jax.config import ModelConfig, SamplingConfig, TrainConfig
from relay_jax.logits_config import LogitsRules
from relay_jax.models import hf_weights
from relay_jax.rest import drafters
from relay_jax.rest.build import build_datastore
from relay_jax.training.step import init_params
from relay_jax.vocabulary import TaskTokenizer

TOKENIZER = TaskTokenizer(12)
shared.define_model()
shared.define_drafting()
shared.define_sampling()
prompt_flags.define()
LLAMA = ModelConfig(
    kind="decoder",
    num_layers=1,
    dim=16,
    mlp_dim=16,
    norm="rms",
    activation="swiglu",
    dropout=0.0,
    text_vocab_size=320,
)


@pytest.fixture(autouse=True)
def parsed():
    # Other tests of this process may have imported scripts that need more.
    required = [f"--{name}=x" for name in ("data", "workdir") if name in flags.FLAGS]
    flags.FLAGS(["test", "--run=nowhere", *required])
    yield
    flags.FLAGS.unparse_flags()


def test_rules_are_those_of_the_flags_else_of_the_model():
    rules = LogitsRules(1.2, 3, 4, (5, 6))
    assert shared.sampling().rules == LogitsRules()
    assert shared.sampling(rules).rules == rules
    with flagsaver.flagsaver(repetition_penalty=1.0, min_p=0.1, temperature=0.5):
        expected = LogitsRules(1.0, 3, 4, (5, 6))
        assert shared.sampling(rules) == SamplingConfig(0.5, 1.0, 0, 0.1, expected)
    with flagsaver.flagsaver(
        suppress_tokens="7,8", no_repeat_ngram_size=0, min_new_tokens=9
    ):
        assert shared.sampling(rules).rules == LogitsRules(1.2, 0, 9, (7, 8))
    refused = pytest.raises(ValueError, match="--suppress_tokens must be whole numbers")
    with flagsaver.flagsaver(suppress_tokens="a"), refused:
        shared.sampling()


def test_num_draft_is_auto_or_numbers():
    assert shared.read_sizes() == [drafters.AUTOTUNE]
    with flagsaver.flagsaver(num_draft="8,auto, 64", drafter="prompt_lookup"):
        drafts, store = shared.open_drafts()
        assert [draft.num_draft for draft in drafts] == [8, drafters.AUTOTUNE, 64]
        assert store is shared.load_index(store) is None
        with pytest.raises(ValueError, match="takes one size here, got '8,auto, 64'"):
            shared.only(drafts)
    for wrong in ("many", "-1", "", "8,"):
        refused = pytest.raises(ValueError, match="must be auto or whole numbers")
        with flagsaver.flagsaver(num_draft=wrong), refused:
            shared.read_sizes()
    refused = pytest.raises(ValueError, match="num_draft must be 0..320")
    with flagsaver.flagsaver(num_draft="999", drafter="prompt_lookup"), refused:
        shared.open_drafts()


def test_prompts_come_from_text_and_files(tmp_path):
    (tmp_path / "lines.txt").write_text("1+2=\n\n3*4=\n")
    rows = [{"question": "5-1="}, {"question": "(1)="}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "long.txt").write_text("1+2+3+4+5=")
    (tmp_path / "code" / "short.txt").write_text("1+2")
    documents = [*TOKENIZER.encode("9*8*7*6"), 1, *TOKENIZER.encode("0="), 1]
    np.save(tmp_path / "tokens.npy", np.array(documents, np.uint16))
    values = {
        "prompt": ["0="],
        "prompt_ids": ["2,3"],
        "prompt_file": f"{tmp_path}/lines.txt",
        "prompts_jsonl": [f"{tmp_path}/rows.jsonl"],
        "prompt_key": "question",
        "files": [f"{tmp_path}/code"],
        "token_array": f"{tmp_path}/tokens.npy",
        "prompt_tokens": 4,
    }
    with flagsaver.flagsaver(**values):
        prompts = prompt_flags.read(TOKENIZER)
        assert prompt_flags.read(TOKENIZER, 3) == prompts[:3]
        assert prompt_flags.source().endswith("code," + f"{tmp_path}/tokens.npy")
    texts = ["0=", "1+2=", "3*4=", "5-1=", "(1)=", "1+2+", "9*8*"]
    expected = [TOKENIZER.encode(text) for text in texts]
    assert prompts == [expected[0], [2, 3], *expected[1:]]


class Characters:
    """A tokenizer whose tokens are characters, to see the texts that it is given."""

    eos_id = -1

    def encode(self, text):
        return list(map(ord, text))


@pytest.mark.parametrize(
    ("content", "expected", "where"),
    [
        (b"a\x0cb\nc", ["a\x0cb", "c"], ""),
        ("a\u2028b\u2029\r\nc\r\n".encode(), ["a\u2028b\u2029", "c"], ""),
        ("a\x85b\x1cc".encode(), ["a\x85b\x1cc"], ""),
        (b"\xef\xbb\xbfa\n\n \nb\rc", ["a", "b\rc"], ""),
        ("\ufeffa\nb".encode("utf-16-le"), ["a", "b"], ""),
        (b"a\ncaf\xe9", ["a", "caf\ufffd"], "in line 2"),
        (b"\xff\xfe", [], ""),
    ],
)
def test_the_lines_of_a_prompt_file(tmp_path, caplog, content, expected, where):
    (tmp_path / "lines.txt").write_bytes(content)
    with flagsaver.flagsaver(prompt_file=f"{tmp_path}/lines.txt"):
        if not expected:
            with pytest.raises(ValueError, match="no prompt"):
                prompt_flags.read(Characters())
            return
        prompts = prompt_flags.read(Characters())
    assert ["".join(map(chr, prompt)) for prompt in prompts] == expected
    assert len(caplog.records) == bool(where)
    assert not where or "lines.txt: char" in caplog.text and where in caplog.text


def test_documents_that_are_too_short_are_counted(tmp_path, caplog):
    for name, text in (("a", "1+2"), ("b", "1+2+3+4"), ("c", "1+2+3")):
        (tmp_path / name).write_text(text)
    with flagsaver.flagsaver(files=[str(tmp_path)], prompt_tokens=4):
        assert len(prompt_flags.read(TOKENIZER)) == 1
    assert "2 documents or pieces are left out: they end within a" in caplog.text


def test_documents_are_cut_into_pieces_and_first_prompts_left_out(tmp_path):
    documents = [*range(10, 21), 1, *range(30, 35), 1]
    np.save(tmp_path / "tokens.npy", np.array(documents, np.uint16))
    values = {"token_array": f"{tmp_path}/tokens.npy", "prompt_tokens": 2}
    with flagsaver.flagsaver(piece_tokens=4, **values):
        prompts = prompt_flags.read(TOKENIZER)
    assert prompts == [
        [10, 11],
        [14, 15],
        [18, 19],
        [30, 31],
    ]  # a piece of 2 is too short
    with flagsaver.flagsaver(piece_tokens=4, skip_prompts=1, **values):
        assert prompt_flags.read(TOKENIZER, 2) == prompts[1:3]
        assert prompt_flags.read(TOKENIZER) == prompts[1:]


def test_a_mix_takes_a_store_if_there_is_one():
    with flagsaver.flagsaver(num_draft="8"):
        drafts, store = shared.open_drafts(names=["mixed", "token_recycling"])
        assert [draft.drafter for draft in drafts] == ["mixed", "token_recycling"]
        assert store is None
        with pytest.raises(
            ValueError, match="rest_paper and rest need one; --drafter=m"
        ):
            shared.open_drafts(names=["mixed", "rest"])
        with flagsaver.flagsaver(datastore="/nowhere"):
            shared.open_drafts(names=["token_recycling"])
            with pytest.raises(ValueError, match="/nowhere is not a datastore"):
                shared.open_drafts(names=["mixed"])


def test_the_default_drafter_is_that_of_the_api():
    (draft,), store = shared.open_drafts()
    assert (draft.drafter, store) == ("prompt_lookup", None)
    refused = pytest.raises(ValueError, match="/nowhere is not a datastore")
    with flagsaver.flagsaver(datastore="/nowhere"), refused:
        shared.open_drafts()
    with flagsaver.flagsaver(datastore="/nowhere", drafter="prompt_lookup"):
        (draft,), store = shared.open_drafts()
        assert (draft.drafter, store) == ("prompt_lookup", None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no prompt: give --prompt, "),
        ({"prompt_file": "/nowhere"}, "--prompt_file: /nowhere does not exist"),
        ({"prompts_jsonl": ["/nowhere"]}, "no file matches '/nowhere'"),
        ({"token_array": "/nowhere"}, "/nowhere does not exist"),
        ({"prompt_ids": ["1,x"]}, "--prompt_ids must be whole numbers with commas"),
    ],
)
def test_bad_prompts(values, message):
    with flagsaver.flagsaver(**values), pytest.raises(ValueError, match=message):
        prompt_flags.read(TOKENIZER)


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder without a tokenizer."""
    params = init_params(TrainConfig(model=LLAMA))
    hf_weights.save_params(params, LLAMA, tmp_path / "llama")
    return tmp_path / "llama"


def test_a_model_of_text_does_not_get_the_task_vocabulary(folder):
    expected_message = (
        "llama has neither tokenizer.model nor tokenizer.json, and its model has 320"
    )
    with flagsaver.flagsaver(run=str(folder)):
        with pytest.raises(ValueError, match=expected_message):
            shared.open_model()
        tokenizer = shared.open_model(needs_text=False).tokenizer
        assert (tokenizer.vocab_size, tokenizer.identity) == (320, "")
        for use in (lambda: tokenizer.encode("a"), lambda: tokenizer.decode([1])):
            with pytest.raises(ValueError, match=expected_message):
                use()
        with flagsaver.flagsaver(tokenizer="relay:12"):
            assert shared.open_model().tokenizer == TOKENIZER


def test_a_tokenizer_must_end_texts_as_the_model_does(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 1]}')
    with flagsaver.flagsaver(run=str(folder), tokenizer="relay:12"):
        assert shared.open_model().eos_ids == (5, 1)
        (folder / "generation_config.json").write_text('{"eos_token_id": [5, 9]}')
        expected_message = (
            "relay:12 ends a text with the token 1, but .*llama with 5, 9; give"
        )
        with pytest.raises(ValueError, match=expected_message):
            shared.open_model()


def test_the_dtype_of_a_run_cannot_be_overridden(tmp_path):
    expected_message = (
        f"dtype=bfloat16 is for a published model, but {tmp_path} is a run"
    )
    refused = pytest.raises(ValueError, match=expected_message)
    with flagsaver.flagsaver(run=str(tmp_path), dtype="bfloat16"), refused:
        shared.open_model()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "model-00002-of-.* is missing, though model.safetensors.index.json"),
        ({"mesh": "1,64"}, "a mesh of 1 x 1 x 64 .* does not fit the 8 devices"),
        ({"mesh": "1"}, "--mesh must be 2 whole numbers with commas, got '1'"),
    ],
)
def test_a_wrong_model_is_refused_before_the_datastore_is_loaded(
    folder, tmp_path, values, message, monkeypatch
):
    monkeypatch.setitem(shared.INDEXES, "device", None)
    hf_weights.save_params(init_params(TrainConfig(model=LLAMA)), LLAMA, folder, 20_000)
    (folder / hf_weights.WEIGHTS).unlink()
    sorted(folder.glob("model-*"))[1].unlink()
    vocab = {"tokenizer": TOKENIZER.identity, "vocab_size": 53, "eos_id": 1}
    store = build_datastore([np.arange(9)], tmp_path / "store", **vocab)
    values = values | {"run": str(folder), "tokenizer": "relay:12"}
    refused = pytest.raises(ValueError, match=message)
    with flagsaver.flagsaver(datastore=str(store.path), **values), refused:
        shared.open_drafts(shared.open_model().tokenizer)

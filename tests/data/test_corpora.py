"""Corpora: the documents read from files, and the files that are errors."""

import gzip
import json
import pickle
import threading
from functools import partial
from itertools import chain

import numpy as np
import pytest
import sentencepiece
import tokenizers as hf
from etils import epath

from relay_jax.data import corpora
from relay_jax.tasks import TASKS
from relay_jax.tokenizers import load_tokenizer

RECORDS = [{"prompt": "1+2", "text": "=3"}, {"prompt": "2*2", "text": "=4 é"}]
LINES = "\n\n".join(map(json.dumps, RECORDS)).encode()


def write(path, content):
    path.write_bytes(content)
    return [epath.Path(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_compressed_or_not(tmp_path, name):
    content = gzip.compress(LINES, mtime=0) if name.endswith(".gz") else LINES
    files = write(tmp_path / name, content)
    assert list(corpora.read_json_lines(files, "prompt")) == ["1+2", "2*2"]
    pairs = list(corpora.read_json_fields(files, ["prompt", "text"]))
    assert pairs == [["1+2", "=3"], ["2*2", "=4 é"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "a.jsonl, line 1: not JSON"),
        ("a.jsonl", LINES + b"\n[1]", "a.jsonl, line 4: not a JSON object ('[1]')"),
        ("a.jsonl", LINES[:-3], "a.jsonl, line 3: not JSON (Invalid"),
        ("a.jsonl", b'{"text": 1}', "line 1 has no text in the field 'text';"),
        (
            "a.jsonl",
            gzip.compress(LINES, mtime=0),
            "a.jsonl cannot be read ('utf-8' codec",
        ),
        ("a.gz", LINES, "a.gz cannot be read (Not a gzipped file"),
        (
            "a.gz",
            gzip.compress(LINES, mtime=0)[:-12],
            "a.gz cannot be read (Compressed file",
        ),
    ],
)
def test_bad_json_lines(tmp_path, name, content, message):
    files = write(tmp_path / name, content)
    with pytest.raises(ValueError) as error:
        list(corpora.read_json_lines(files, "text"))
    assert message in str(error.value)


def test_documents_of_a_token_array(tmp_path):
    np.save(tmp_path / "tokens.npy", np.array([5, 6, 1, 7, 1, 8], np.uint16))
    documents = corpora.read_tokens(tmp_path / "tokens.npy", 1)
    assert [d.tolist() for d in documents] == [[5, 6, 1], [7, 1], [8]]
    np.savez(tmp_path / "tokens.npz", tokens=np.arange(3))
    with pytest.raises(
        ValueError, match="tokens.npz cannot be read .* expected a .npy"
    ):
        list(corpora.read_tokens(tmp_path / "tokens.npz", 1))


def test_broken_and_cyclic_links_are_skipped(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "text").write_text("text")
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "a" / "same").symlink_to(tmp_path / "a" / "text")
    found = corpora.find_files([str(tmp_path)])
    assert [file.name for file in found] == ["same", "text"]


def test_files_in_parts_are_all_files_in_order(monkeypatch):
    monkeypatch.setattr(corpora, "FILES_PER_PART", 3)
    files = [epath.Path(str(number)) for number in range(7)]
    parts = corpora.group_files(files)
    assert [len(part) for part in parts] == [3, 3, 1]
    assert [*chain(*parts)] == files


def test_a_split_in_parts_is_all_examples_in_order(tmp_path, monkeypatch):
    """Of any dataset of TFDS, and of a part of a split."""
    from relay_jax.data import tfds_builder

    config = tfds_builder.TaskRange(
        task=TASKS["lis"](), lengths=(1, 3), num_train=25, num_test=0
    )
    tfds_builder.build(config, tmp_path)
    where = "relay_tasks/lis_1_3", str(tmp_path)
    monkeypatch.setattr(corpora, "EXAMPLES_PER_PART", 4)

    def read(split):
        return list(corpora.read_tfds(where[0], split, "tokens", where[1]))

    for split, count in [("train", 25), ("train[3:12]", 9)]:
        parts = corpora.split_tfds(where[0], split, where[1])
        assert len(parts) == -(-count // 4)
        texts = [read(pickle.loads(pickle.dumps(part))) for part in parts]
        assert max(map(len, texts)) <= 4
        assert [*chain(*texts)] == read(split) and len(read(split)) == count
    with pytest.raises(ValueError, match="the TFDS dataset 'no_such' cannot be read"):
        corpora.split_tfds("no_such", "train")


@pytest.fixture(scope="module")
def subword_tokenizers(tmp_path_factory):
    """A tokenizer of each form, which begins every text with a special token."""
    folder = tmp_path_factory.mktemp("tokenizers")
    text = epath.Path(corpora.__file__).read_text()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()),
        model_prefix=str(folder / "code"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel()
    how = {"vocab_size": 300, "special_tokens": ["<s>"], "show_progress": False}
    tokenizer.train_from_iterator([text], hf.trainers.BpeTrainer(**how))
    tokenizer.post_processor = hf.processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<s>"}')
    return [load_tokenizer(folder / name) for name in ("code.model", "tokenizer.json")]


@pytest.mark.parametrize("cores", [1, 3])
def test_all_cores_encode_as_one_does(subword_tokenizers, monkeypatch, cores):
    monkeypatch.setattr(corpora, "count_cores", lambda: cores)
    monkeypatch.setattr(corpora, "BATCH_CHARACTERS", 500)
    text = epath.Path(corpora.__file__).read_text()
    sizes = np.random.default_rng(0).integers(0, 300, 60)
    texts = [text[i : i + size] + "<s>é" for i, size in enumerate(sizes)]
    texts += ["", text, "a"]  # one is more than a batch
    for tokenizer in subword_tokenizers:
        expected = [tokenizer.encode(text) for text in texts]
        assert tokenizer.encode_batch(texts) == expected
        assert list(corpora.encode_all(iter(texts), tokenizer)) == expected
    ends = tokenizer.eos_id
    encoded = [ids.tolist() for ids in corpora.encode(texts, tokenizer)]
    assert encoded == [[*ids, ends] for ids in expected]
    assert list(corpora.encode_all([], tokenizer)) == []


@pytest.mark.parametrize(
    "text", ["cut \ud83d", "\ude00<s>", "a\udce9b", "\ud83d\ude00"]
)
def test_halves_of_surrogate_pairs_are_encoded_as_one_character(
    subword_tokenizers, caplog, text
):
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for tokenizer in subword_tokenizers:
        assert tokenizer.encode(text) == tokenizer.encode(expected)
        assert tokenizer.encode_batch(["a", text]) == tokenizer.encode_batch(
            ["a", expected]
        )
    assert bool(caplog.records) == ("\ufffd" in expected)


def test_texts_are_read_a_few_batches_ahead(subword_tokenizers, monkeypatch):
    monkeypatch.setattr(corpora, "count_cores", lambda: 2)
    monkeypatch.setattr(corpora, "BATCH_CHARACTERS", 30)
    read = []

    def texts():
        for number in range(1000):
            read.append(number)
            yield f"text {number:05d}"  # three make a batch

    encoded = corpora.encode_all(texts(), subword_tokenizers[0])
    for number in range(1, 100):
        next(encoded)
        assert len(read) <= number + 3 * 6
    threads = threading.active_count()
    encoded.close()
    assert threading.active_count() <= threads - 2 and len(read) < 130


def test_an_unreadable_text_ends_encoding(subword_tokenizers):
    def texts():
        yield "one"
        raise ValueError("line 2 is not JSON")

    for tokenizer in subword_tokenizers:
        with pytest.raises(ValueError, match="line 2 is not JSON"):
            list(corpora.encode_all(texts(), tokenizer))
    with pytest.raises(ValueError, match="is not in the task vocabulary"):
        list(corpora.encode_all(["1", "?"], load_tokenizer("relay:8")))


def test_a_worker_encodes_with_the_expected_tokenizer():
    part = partial(iter, ["1+2", "3"])
    tokenizer = load_tokenizer("relay:8")
    encoded = corpora.encode_part(part, "relay:8", tokenizer.identity)
    for one, two in zip(encoded, corpora.encode(part(), tokenizer), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError) as error:
        corpora.encode_part(part, "relay:9", tokenizer.identity)
    assert str(error.value) == (
        "relay:9 is the tokenizer relay-tasks-v1-9 on a worker, expected "
        "relay-tasks-v1-8; give a path that is the same file on every machine"
    )

"""Corpora: the documents read from files, and the files that are errors."""

import gzip
import json
import pickle
from functools import partial
from itertools import chain

import numpy as np
import pytest
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

"""Corpora with records that are no text: each is read, replaced, counted and named."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from etils import epath

from relay_jax.data import corpora, published_corpora
from relay_jax.data.published_corpora import PUBLISHED_CORPORA, read_corpus_file

SHAREGPT = "ShareGPT_V4.3_unfiltered_cleaned_split.json"
# What a JSON file has between quotes, and the text that it stands for.
BAD = {
    b"cut \\ud83d": "cut \ufffd",
    b"\\uDE00 alone": "\ufffd alone",
    b"\\ude00\\ud83d": "\ufffd\ufffd",  # the wrong way round
    b"\\ud83d\\u0041": "\ufffdA",
    b"caf\xe9": "caf\ufffd",
    b"\xed\xa0\xbd": "\ufffd\ufffd\ufffd",
    b"\xf0\x9f\x98": "\ufffd",
}
GOOD = {
    b"\\ud83d\\ude00": "😀",
    b"\\\\ud83d": "\\ud83d",  # six characters
    "\u2028\x85".encode(): "\u2028\x85",
    b"\\ufffd": "\ufffd",
}


def sharegpt(text):
    return b'{"id": 1, "conversations": [{"from": "gpt", "value": "' + text + b'"}]}'


@pytest.mark.parametrize("text", [*BAD, *GOOD])
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "list.json", "train_0.jsonl"]
)
def test_a_bad_string_is_replaced_and_the_others_are_read(tmp_path, caplog, name, text):
    expected = ["one", (BAD | GOOD)[text], "three"]
    records = [b"one", text, b"three"]
    file = epath.Path(tmp_path / name)
    if name == "list.json":
        file.write_bytes(b" [" + b",\n".join(map(sharegpt, records)) + b"]")
        read = list(read_corpus_file(PUBLISHED_CORPORA["sharegpt"], file))
    elif name == "train_0.jsonl":
        lines = [b'{"id": "0", "data": ["' + record + b'"]}' for record in records]
        file.write_bytes(b"\n".join(lines))
        read = list(read_corpus_file(PUBLISHED_CORPORA["ultrachat"], file))
    else:
        content = b"\n".join(b'{"text": "' + record + b'"}' for record in records)
        is_packed = name.endswith(".gz")
        file.write_bytes(gzip.compress(content) if is_packed else content)
        read = list(corpora.read_json_lines([file], "text"))
    assert read == expected
    "".join(read).encode()
    assert len(caplog.records) == (text in BAD)
    if text in BAD:
        assert f"{name}: characters" in caplog.text
        assert "in 1 place, the first of them in line 2" in caplog.text


def test_bad_bytes_of_documents_are_counted(tmp_path, caplog):
    contents = [b"\xef\xbb\xbfone", b"\xff", b"t\xffwo", "\ufeffthree".encode("utf-16")]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.txt").write_bytes(content)
    read = list(corpora.read_files(corpora.find_files([str(tmp_path)])))
    assert read[:3] == ["one", "\ufffd", "t\ufffdwo"]
    assert f"in 2 places, the first of them {tmp_path}/1.txt" in caplog.text


def test_bad_strings_of_a_parquet_file_are_replaced(tmp_path, caplog):
    contents = [b"one", b"caf\xe9", b"\xff\xfe", b""]
    ends = np.cumsum([0, *map(len, contents)], dtype=np.int32)
    buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(contents))]
    column = pyarrow.Array.from_buffers(pyarrow.string(), len(contents), buffers)
    file = epath.Path(tmp_path / "data.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"content": column}), file)
    stack = PUBLISHED_CORPORA["the_stack_small"]
    expected = ["one", "caf\ufffd", "\ufffd\ufffd", ""]
    assert list(read_corpus_file(stack, file)) == expected
    assert "data.parquet: char" in caplog.text
    assert "in 2 places, the first of them in record 2" in caplog.text
    file.write_bytes(file.read_bytes()[:-6])
    with pytest.raises(ValueError, match=r"data.parquet cannot be read .* complete\?"):
        list(read_corpus_file(stack, file))


def test_bad_features_of_a_tfds_dataset_are_replaced(monkeypatch, caplog):
    examples = [{"text": b"one"}, {"text": b"caf\xe9"}, {"text": "three"}]
    monkeypatch.setattr(corpora, "_open_tfds", lambda *_: examples)
    assert list(corpora.read_tfds("name", "train", "text")) == [
        "one",
        "caf\ufffd",
        "three",
    ]
    assert "name: char" in caplog.text and "them in example 1" in caplog.text


def test_the_line_of_a_record_in_a_list_is_named(tmp_path, caplog):
    file = epath.Path(tmp_path / SHAREGPT)
    one, bad = sharegpt(b"\\ud83d\\ude00").replace(b", ", b",\n"), sharegpt(b"\\ud83d")
    file.write_bytes(b"\n[\n" + one + b"\r\n ,\n\n" + bad + b",\n" + bad + b"\n]")
    corpus = PUBLISHED_CORPORA["sharegpt"]
    assert list(read_corpus_file(corpus, file)) == ["😀", "\ufffd", "\ufffd"]
    assert "in 2 places, the first of them in line 8" in caplog.text
    file.write_bytes(b"[" + bad + b",[[\n1]]]")  # a record that is a list
    with pytest.raises(ValueError, match="record 2 has no text at conversations"):
        list(read_corpus_file(corpus, file))


def test_a_list_that_is_no_json_is_named(tmp_path):
    file = epath.Path(tmp_path / SHAREGPT)
    for content, message in (
        (b"[1,\n2", ", line 2: not JSON (Expecting ',' delimiter); is the file compl"),
        (b"[" * 100_000, ": not JSON (maximum recursion depth"),
        (b"\xff\n[", ", line 1: not JSON (Expecting value)"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError) as error:
            list(
                published_corpora.read_corpus_file(PUBLISHED_CORPORA["sharegpt"], file)
            )
        assert f"{SHAREGPT}{message}" in str(error.value)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": None}, "its value is null"),
        ({"prompt": 7}, "its value is 7"),
        ({"prompt": ["a"]}, 'its value is ["a"]'),
        ({"Prompt": "a", "b": 1}, "its fields are Prompt, b"),
        ({}, "its fields are none"),
        ({"prompt": {"text": "a"}}, 'its value is {"text": "a"}'),
    ],
)
def test_a_field_without_a_text_is_explained(tmp_path, record, reason):
    file = epath.Path(tmp_path / "a.jsonl")
    file.write_text('{"prompt": "a"}\n' + json.dumps(record))
    with pytest.raises(ValueError) as error:
        list(corpora.read_json_lines([file], "prompt"))
    assert str(error.value) == (
        f"{file}, line 2 has no text in the field 'prompt'; {reason}"
    )


@pytest.mark.parametrize("data", ["hello there", {"a": "b"}, None, 3])
def test_a_list_that_is_none_is_named(tmp_path, data):
    file = epath.Path(tmp_path / "train_0.jsonl")
    file.write_text(json.dumps({"id": "0", "data": data}))
    with pytest.raises(ValueError, match=r"train_0\.jsonl"):
        list(read_corpus_file(PUBLISHED_CORPORA["ultrachat"], file))

"""Published corpora, with a few invented records of the same layout."""

import json
import sys
from itertools import chain

import pyarrow
import pyarrow.parquet
import pytest

from relay_jax.data.published_corpora import (
    PUBLISHED_CORPORA,
    find_corpus_files,
    read_corpus_file,
)


def publish(folder, name):
    """Writes a folder in the published layout, and returns its texts."""
    if name.startswith("the_stack"):
        texts = []
        (folder / "data" / "python").mkdir(parents=True)
        for file in PUBLISHED_CORPORA[name].files:
            rows = [f"x = {len(texts) + i}\n" for i in range(3)]
            table = {"content": rows, "size": [6, 6, 6], "lang": ["Python"] * 3}
            pyarrow.parquet.write_table(pyarrow.table(table), folder / file)
            texts += rows
        return texts
    if name == "sharegpt":
        messages = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        records = [{"id": str(i), "conversations": messages} for i in range(2)]
        file = folder / "ShareGPT_V4.3_unfiltered_cleaned_split.json"
        file.write_text(json.dumps(records))
        (folder / "another_version.json").write_text(json.dumps(records))
        return ["a", "b"] * 2
    for number in range(2):
        lines = [{"id": "0", "data": ["q", f"a{number}"]}]
        file = folder / f"train_{number}.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
    return ["q", "a0", "q", "a1"]


def read_all(corpus, folder):
    files = find_corpus_files(corpus, folder)
    return [text for file in files for text in read_corpus_file(corpus, file)]


@pytest.mark.parametrize("name", PUBLISHED_CORPORA)
def test_a_published_layout_is_read(name, tmp_path):
    texts = publish(tmp_path, name)
    corpus = PUBLISHED_CORPORA[name]
    files = find_corpus_files(corpus, tmp_path)
    parts = [list(read_corpus_file(corpus, file)) for file in files]
    assert [*chain(*parts)] == texts and all(parts)


def test_the_large_datastore_has_thirty_files():
    assert (
        PUBLISHED_CORPORA["the_stack_small"].files
        == PUBLISHED_CORPORA["the_stack_large"].files[:1]
    )
    assert len(PUBLISHED_CORPORA["the_stack_large"].files) == 30


def test_errors_name_the_file_and_what_is_missing(tmp_path, monkeypatch):
    stack, chat = PUBLISHED_CORPORA["the_stack_small"], PUBLISHED_CORPORA["ultrachat"]
    with pytest.raises(ValueError, match="no file matches '.*train_.*jsonl'"):
        read_all(chat, tmp_path)
    (tmp_path / "train_0.jsonl").write_text('{"data": ["a"]}\n{"data": [1]}')
    with pytest.raises(ValueError, match=r"jsonl, record 2 has no text at data.\*"):
        read_all(chat, tmp_path)
    (tmp_path / "train_0.jsonl").write_text('{"data": ["a"]}\n{"data": [')
    with pytest.raises(ValueError, match="train_0.jsonl, line 2: not JSON"):
        read_all(chat, tmp_path)
    shared = PUBLISHED_CORPORA["sharegpt"]
    file = tmp_path / shared.files[0]
    for text, message in (
        ("[{},\n{", ", line 2: not JSON"),
        ("{}", " must be a JSON list of records, got dict"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"split.json{message}"):
            read_all(shared, tmp_path)
    publish(tmp_path, "the_stack_small")
    with pytest.raises(ValueError, match="has no column 'text', only content"):
        read_all(stack._replace(texts="text"), tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'relay_jax\[parquet\]'"):
        read_all(stack, tmp_path)

"""Published corpora, with a few made-up records of the same layout."""

import json
import sys
from itertools import chain

import pyarrow
import pyarrow.parquet
import pytest

from relay_jax.data.published_corpora import (
    RECIPES,
    find_recipe,
    read_recipe,
    read_recipe_file,
)


def publish(folder, name):
    """A folder as it is published; the texts that are in it."""
    if name.startswith("the_stack"):
        texts = []
        (folder / "data" / "python").mkdir(parents=True)
        for file in RECIPES[name].files:
            rows = [f"x = {len(texts) + i}\n" for i in range(3)]
            table = {"content": rows, "size": [6, 6, 6], "lang": ["Python"] * 3}
            pyarrow.parquet.write_table(pyarrow.table(table), folder / file)
            texts += rows
        return texts
    if name == "sharegpt":
        said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        records = [{"id": str(i), "conversations": said} for i in range(2)]
        file = folder / "ShareGPT_V4.3_unfiltered_cleaned_split.json"
        file.write_text(json.dumps(records))
        (folder / "another_version.json").write_text(json.dumps(records))
        return ["a", "b"] * 2
    for number in range(2):
        lines = [{"id": "0", "data": ["q", f"a{number}"]}]
        file = folder / f"train_{number}.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
    return ["q", "a0", "q", "a1"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_published_layout_is_read(name, tmp_path):
    texts = publish(tmp_path, name)
    assert list(read_recipe(RECIPES[name], tmp_path)) == texts
    files = find_recipe(RECIPES[name], tmp_path)
    parts = [list(read_recipe_file(RECIPES[name], file)) for file in files]
    assert [*chain(*parts)] == texts and all(parts)


def test_the_large_datastore_is_made_of_thirty_files():
    assert RECIPES["the_stack_small"].files == RECIPES["the_stack_large"].files[:1]
    assert len(RECIPES["the_stack_large"].files) == 30


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    stack, chat = RECIPES["the_stack_small"], RECIPES["ultrachat"]
    with pytest.raises(ValueError, match="train_.*jsonl' names no file"):
        list(read_recipe(chat, tmp_path))
    (tmp_path / "train_0.jsonl").write_text('{"data": ["a"]}\n{"data": [1]}')
    with pytest.raises(ValueError, match=r"jsonl, record 2 has no text at data.\*"):
        list(read_recipe(chat, tmp_path))
    (tmp_path / "train_0.jsonl").write_text('{"data": ["a"]}\n{"data": [')
    with pytest.raises(ValueError, match="train_0.jsonl, line 2: not JSON"):
        list(read_recipe(chat, tmp_path))
    shared = RECIPES["sharegpt"]
    file = tmp_path / shared.files[0]
    for text, told in (("[{},\n{", ", line 2: not JSON"), ("{}", " must be a list of")):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"split.json{told}"):
            list(read_recipe(shared, tmp_path))
    publish(tmp_path, "the_stack_small")
    with pytest.raises(ValueError, match="has no column 'text' but .'content'"):
        list(read_recipe(stack._replace(texts="text"), tmp_path))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'relay_jax\[parquet\]'"):
        list(read_recipe(stack, tmp_path))

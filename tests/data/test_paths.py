"""Paths: names are names whatever their characters, and patterns are patterns."""

import os

import pytest
from etils import epath

from relay_jax import files
from relay_jax.data import corpora, published_corpora
from relay_jax.data.language_corpus import is_held_out
from relay_jax.relay.measurement import collect_records

NAMES = ("br[1]", "a b ", "x,y", "-dash", "~", "st*r", "wh?t", "{b}", "a$b", "é", "c:d")


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_name_is_a_name(tmp_path, name):
    folder = tmp_path / name
    (folder / "in[2]").mkdir(parents=True)
    (tmp_path / "br1" / "in2").mkdir(parents=True)  # what the patterns would match
    (tmp_path / "br1" / "in2" / "wrong.txt").write_text("wrong")
    for file in ("one.txt", "two[a].txt", "in[2]/three.txt", "four.md"):
        (folder / file).write_text(file)

    def find(*names):
        found = corpora.find_files([f"{folder}{name}" for name in names])
        return [str(file.relative_to(folder)) for file in found]

    assert len(find("")) == len(find("/")) == 4
    assert find("/two[a].txt", "/one.txt") == ["two[a].txt", "one.txt"]
    assert find("/*.txt") == ["one.txt", "two[a].txt"]
    assert find("/in[2]/*") == ["in[2]/three.txt"]
    assert find("/**/*.txt") == ["in[2]/three.txt", "one.txt", "two[a].txt"]
    assert find("/[!f]*.txt") == ["one.txt", "two[a].txt"]
    assert find("/one.txt", "/*.txt", "/one.txt") == ["one.txt", "two[a].txt"]
    for wrong in ("/*.py", "/none", "/two[b].txt", "/in[3]/*", "/one.txt/x"):
        with pytest.raises(ValueError, match="no file matches"):
            find(wrong)
    corpus = published_corpora.PublishedCorpus(("t*.txt", "four.md"), "x")
    found = published_corpora.find_corpus_files(corpus, folder)
    assert [file.name for file in found] == ["two[a].txt", "four.md"]


def test_a_link_to_nothing_is_named(tmp_path, caplog):
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "one.txt").write_text("one")
    with pytest.raises(ValueError, match="is a link to a file that does not exist"):
        corpora.find_files([str(tmp_path / "gone.txt")])
    with caplog.at_level("WARNING", "absl"):
        found = corpora.find_files([str(tmp_path)])
    assert [file.name for file in found] == ["one.txt"]
    assert "gone.txt is a link to nothing and is left out" in caplog.text


def test_a_file_is_read_once_whatever_its_path(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    names = ["a/one.txt", str(tmp_path / "a/one.txt"), "a/../a/one.txt", "./a/*.txt"]
    assert list(map(str, corpora.find_files(names))) == ["a/one.txt"]


def test_a_pattern_that_is_no_name_is_a_pattern(tmp_path, monkeypatch):
    for file in ("br1/a.txt", "br2/a.txt", "b.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
    monkeypatch.chdir(tmp_path)

    def find(name):
        return list(map(str, corpora.find_files([name])))

    assert find("br[12]/*") == ["br1/a.txt", "br2/a.txt"]
    assert find("./br[1]/a.*") == find("br1/../br1/a.t?t")[:0] + ["br1/a.txt"]
    assert find("*.txt") == ["b.txt"] and find("**") == sorted(find("."))
    with pytest.raises(ValueError, match="a name of files is empty"):
        find("")  # it would be the working directory


@pytest.mark.parametrize("name", NAMES)
def test_records_are_collected_from_a_folder_of_any_name(tmp_path, name):
    run = tmp_path / name
    (run / "measured").mkdir(parents=True)
    (run / "measured" / "a.jsonl").write_text('{"a": 1}\n')
    assert [file.name for file in files.LiteralPath(run).glob("*/*.jsonl")] == [
        "a.jsonl"
    ]
    assert collect_records(epath.Path(run)) == [{"a": 1}]


def test_a_name_that_is_no_utf_8_is_held_out_or_not():
    name = os.fsdecode(b"caf\xe9.py")
    assert is_held_out(name, 1) and is_held_out("café.py", 1)
    assert is_held_out("a/b.py", 7) == is_held_out("a/b.py", 7)

"""The datastore on disk: its suffix array, its documents, and what must not open."""

import json
import threading

import numpy as np
import pytest
from etils import epath

from relay_jax import files
from relay_jax.rest import build, datastore
from relay_jax.rest.build import build_datastore, sort_suffixes
from relay_jax.rest.checksum import load_checked
from relay_jax.rest.datastore import open_datastore
from relay_jax.rest.index import load_index
from relay_jax.tokenizers import IdTokenizer
from relay_jax.vocabulary import TaskTokenizer

VOCAB = {"tokenizer": "test", "vocab_size": 50, "eos_id": 1}


def documents(seed=0, num=20):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 9, size=rng.integers(1, 30)) for _ in range(num)]


def left_context(tokens, position):
    """Read backwards."""
    return tokens[:position][::-1].tolist()


@pytest.mark.parametrize("vocab_size", [9, 5_000, 65_535, 128_256])
def test_positions_are_sorted_by_their_left_contexts(vocab_size):
    rng = np.random.default_rng(vocab_size)
    few = rng.integers(vocab_size, size=6)  # repeats, and ids of every size
    tokens = rng.choice([*few, 0, vocab_size - 1], size=400)
    tokens = tokens.astype(datastore.token_dtype(vocab_size))
    suffix_array = sort_suffixes(tokens)
    assert sorted(suffix_array) == list(range(1, 401))
    contexts = [left_context(tokens, position) for position in suffix_array]
    assert contexts == sorted(contexts)


def test_documents_end_with_the_end_of_text(tmp_path):
    texts = documents()
    store = build_datastore(texts, tmp_path / "store", **VOCAB)
    expected = np.concatenate([[*text, 1] for text in texts])
    np.testing.assert_array_equal(store.shards[0].tokens, expected)
    assert store.num_documents == len(texts) and store.num_tokens == len(expected)
    assert store.shards[0].tokens.dtype == np.uint16


def test_shards_hold_the_same_tokens(tmp_path):
    texts = documents()
    whole = build_datastore(texts, tmp_path / "one", **VOCAB)
    parts = build_datastore(texts, tmp_path / "many", shard_tokens=37, **VOCAB)
    assert len(parts.shards) == -(-whole.num_tokens // 37)
    joined = np.concatenate([shard.tokens for shard in parts.shards])
    np.testing.assert_array_equal(joined, whole.shards[0].tokens)


def test_a_wide_vocabulary_takes_32_bits(tmp_path):
    vocab = VOCAB | {"vocab_size": 128_256}
    store = build_datastore([np.array([5, 128_255])], tmp_path / "s", **vocab)
    np.testing.assert_array_equal(store.shards[0].tokens, [5, 128_255, 1])


def test_nothing_is_replaced_unless_asked(tmp_path):
    path = tmp_path / "store"
    build_datastore(documents(0), path, **VOCAB)
    with pytest.raises(ValueError, match="exists; choose another directory or give"):
        build_datastore(documents(1), path, **VOCAB)
    again = build_datastore(documents(1), path, overwrite=True, **VOCAB)
    assert again.num_documents == 20
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    assert len(list(path.iterdir())) == 3  # nothing is left of the old one


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains notes.txt, which does not belong"):
        build_datastore(documents(), tmp_path, overwrite=True, **VOCAB)
    with pytest.raises(ValueError, match="notes.txt contains notes.txt, which d"):
        build_datastore(documents(), tmp_path / "notes.txt", overwrite=True, **VOCAB)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["tokens_00000.npy", ".mine.unfinished"])
def test_a_file_with_a_similar_name_is_never_removed(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        ValueError, match=f"contains {name}, which does not belong to a data"
    ):
        build_datastore(documents(), tmp_path, overwrite=True, **VOCAB)

    def meanwhile():
        yield from documents()
        path.mkdir()
        (path / name).write_text("mine")

    path = tmp_path / "store"
    build_datastore(meanwhile(), path, **VOCAB)
    assert (path / name).read_text() == "mine"


def test_an_unwritable_path_is_an_error_before_any_document_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    read = []
    with pytest.raises(OSError, match="file"):
        build_datastore(map(read.append, [1]), tmp_path / "file" / "store", **VOCAB)
    assert not read


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("writes", range(7))
def test_an_interrupted_overwrite_leaves_the_old_store(
    tmp_path, monkeypatch, writes, same
):
    """Interrupted at each of its writes; the same command then builds the new store."""
    path, count = tmp_path / "store", 0
    old = build_datastore(documents(0), path, shard_tokens=100, **VOCAB)
    texts = documents(0 if same else 1)

    def cut_short(real):
        def write(*args):
            nonlocal count
            count += 1
            if count > writes:
                raise KeyboardInterrupt
            return real(*args)

        return write

    monkeypatch.setattr(build, "_save", cut_short(build._save))
    monkeypatch.setattr(files, "write_json", cut_short(files.write_json))
    with pytest.raises(KeyboardInterrupt):
        build_datastore(texts, path, shard_tokens=100, overwrite=True, **VOCAB)
    still = open_datastore(path, verify=True)
    assert still.checksums == old.checksums
    monkeypatch.undo()
    store = build_datastore(texts, path, shard_tokens=100, overwrite=True, **VOCAB)
    other = build_datastore(texts, tmp_path / "other", shard_tokens=100, **VOCAB)
    assert store.checksums == other.checksums
    assert len(list(path.iterdir())) == 1 + 2 * len(store.shards)


def test_a_shard_is_sorted_while_the_next_one_is_read(tmp_path, monkeypatch):
    is_read, sort = threading.Event(), build.sort_suffixes

    def texts():
        yield np.full(40, 5)  # a whole shard
        is_read.set()
        yield np.full(30, 6)

    def sort_late(tokens):
        assert is_read.wait(20)
        return sort(tokens)

    monkeypatch.setattr(build, "sort_suffixes", sort_late)
    store = build_datastore(texts(), tmp_path / "store", shard_tokens=40, **VOCAB)
    assert [len(shard.tokens) for shard in store.shards] == [40, 32]


def test_an_interrupted_build_leaves_nothing_that_opens(tmp_path, monkeypatch):
    path, texts = tmp_path / "store", documents()

    def cut_short():
        yield from texts[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_datastore(cut_short(), path, shard_tokens=40, **VOCAB)
    with pytest.raises(ValueError, match="is not a datastore"):
        open_datastore(path)
    # The resumed build sorts only what is missing, with the same result.
    sorted_, sort = [], build.sort_suffixes
    monkeypatch.setattr(
        build, "sort_suffixes", lambda t: (sorted_.append(1), sort(t))[1]
    )
    store = build_datastore(texts, path, shard_tokens=40, **VOCAB)
    assert 0 < len(sorted_) < len(store.shards)
    other = build_datastore(texts, tmp_path / "other", shard_tokens=40, **VOCAB)
    for one, two in zip(store.shards, other.shards, strict=True):
        np.testing.assert_array_equal(one.suffix_array, two.suffix_array)


def test_two_workers_may_save_the_same_file_at_once(tmp_path, monkeypatch):
    file, save = epath.Path(tmp_path) / "tokens_00000_0123456789ab.npy", np.save

    def interrupted(stream, array):
        monkeypatch.undo()
        build._save(file, array)
        save(stream, array)

    monkeypatch.setattr(np, "save", interrupted)
    checksum = build._save(file, np.arange(9))
    np.testing.assert_array_equal(
        load_checked(file.parent, checksum, True), np.arange(9)
    )
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_files_of_a_killed_worker_are_removed(tmp_path, monkeypatch):
    def killed(stream, array):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        build_datastore(documents(), tmp_path, **VOCAB)
    assert [path.suffix for path in tmp_path.iterdir()] == [".unfinished"]
    monkeypatch.undo()
    build_datastore(documents(), tmp_path, **VOCAB)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_altered_shard_is_sorted_again(tmp_path):
    """Shards of an interrupted build with other documents are not used."""
    path = tmp_path / "store"

    def cut_short():
        yield from documents(1)[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_datastore(cut_short(), path, shard_tokens=40, **VOCAB)
    store = build_datastore(documents(0), path, shard_tokens=40, **VOCAB)
    for shard in store.shards:
        np.testing.assert_array_equal(shard.suffix_array, sort_suffixes(shard.tokens))


def test_damage_is_found(tmp_path):
    path = tmp_path / "store"
    build_datastore(documents(), path, **VOCAB)
    (file,) = path.glob("suffix_array_00000_*.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    found = pytest.raises(
        ValueError, match=r"suffix_array_\w+.npy has \d+ bytes.*build it again"
    )
    with found:
        open_datastore(path)
    file.write_bytes(whole[:-4] + b"\0\0\0\7")
    with pytest.raises(ValueError, match="has changed since it was written"):
        open_datastore(path)


def test_every_byte_is_checked_when_it_is_read(tmp_path):
    path = tmp_path / "store"
    build_datastore([np.full(200_000, 5)], path, **VOCAB)
    (file,) = path.glob("tokens_*.npy")
    content = bytearray(file.read_bytes())
    content[20_000] ^= 1  # between the blocks that are always checked
    file.write_bytes(content)
    store = open_datastore(path)
    for read in (
        lambda: open_datastore(path, verify=True),
        lambda: load_index(store),
        lambda: datastore.read_array(store, 0, "tokens"),
    ):
        with pytest.raises(ValueError, match="tokens_.* has changed since it was"):
            read()


def altered(content, **changes):
    """Edited metadata with a matching checksum."""
    store = content["store"] | changes
    return content | {"store": store, "sha256": datastore._hash_content(store)}


DAMAGES = {
    "not JSON": lambda c: "{",
    "no dict": lambda c: "[1]",
    "empty": lambda c: "{}",
    "another end of text": lambda c: c | {"store": c["store"] | {"eos_id": 2}},
    "a larger vocabulary": lambda c: c | {"store": c["store"] | {"vocab_size": 51}},
    "shards left out": lambda c: c | {"store": c["store"] | {"shards": []}},
    "no checksum": lambda c: {"format": c["format"], "store": c["store"]},
    "no shard": lambda c: altered(c, shards=[]),
    "a shard without files": lambda c: altered(c, shards=[{"num_tokens": 3}]),
    "a file without a size": lambda c: altered(
        c, shards=[{"tokens": {"name": "x"}, "suffix_array": {"name": "x"}}]
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_altered_metadata_does_not_open(tmp_path, kind):
    build_datastore(documents(), tmp_path, **VOCAB)
    file = tmp_path / "metadata.json"
    content = DAMAGES[kind](json.loads(file.read_text()))
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"metadata.json is damaged .*build the datas"):
        open_datastore(tmp_path)


def test_foreign_stores_do_not_open(tmp_path):
    path, tokenizer = tmp_path / "store", TaskTokenizer(9)
    vocab = VOCAB | {"tokenizer": tokenizer.identity}
    build_datastore(documents(), path, **vocab)
    open_datastore(path, tokenizer=tokenizer)
    message = "built with the tokenizer 'relay-tasks-v1-9', but.* 'relay-tasks-v1-8'"
    with pytest.raises(ValueError, match=message):
        open_datastore(path, tokenizer=TaskTokenizer(8))
    open_datastore(path, tokenizer=IdTokenizer("llama", VOCAB["vocab_size"]))
    with pytest.raises(
        ValueError, match="store has a vocabulary of 50 tokens, the model has 51; "
    ):
        open_datastore(path, tokenizer=IdTokenizer("llama", 51))
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps(metadata | {"format": 1}))
    message = "has format 1, this version reads 3; build the datastore again, with --o"
    with pytest.raises(ValueError, match=message):
        open_datastore(path)


def test_without_a_tokenizers_name_the_vocabulary_size_must_match(tmp_path):
    store = build_datastore(documents(), tmp_path, **VOCAB | {"tokenizer": ""})
    opened = open_datastore(tmp_path, tokenizer=TaskTokenizer(50 - 41))
    assert opened.checksums == store.checksums
    with pytest.raises(ValueError) as error:
        open_datastore(tmp_path, tokenizer=TaskTokenizer(12))
    assert str(error.value) == (
        f"{tmp_path} was built without naming its tokenizer and has a vocabulary of 50 "
        "tokens, the model has 53; build it with the model's --tokenizer, or with "
        "--tokenizer_identity=relay-tasks-v1-12"
    )


@pytest.mark.parametrize(
    "texts, options, message",
    [
        ([], {}, "the corpus is empty"),
        ([np.array([5, 50])], {}, "token id 50, outside the vocabulary of 50"),
        ([np.array([5, -1])], {}, "token id -1, outside"),
        ([np.array([5])], {"eos_id": 50}, "eos_id 50 is outside"),
        ([np.array([5])], {"shard_tokens": 0}, "shard_tokens must be 1"),
    ],
)
def test_bad_input(tmp_path, texts, options, message):
    with pytest.raises(ValueError, match=message):
        build_datastore(texts, tmp_path / "store", **(VOCAB | options))
    assert not (tmp_path / "store").exists()

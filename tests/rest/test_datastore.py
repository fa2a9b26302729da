"""The store on disk: its order, its boundaries, and what must not open."""

import json

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

WORDS = {"tokenizer": "test", "vocab_size": 50, "eos_id": 1}


def documents(seed=0, num=20):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 9, size=rng.integers(1, 30)) for _ in range(num)]


def before(tokens, place):
    return tokens[:place][::-1].tolist()


@pytest.mark.parametrize("vocab_size", [9, 5_000, 65_535, 128_256])
def test_places_are_sorted_by_the_text_before_them(vocab_size):
    rng = np.random.default_rng(vocab_size)
    few = rng.integers(vocab_size, size=6)  # repeats, and ids of every size
    tokens = rng.choice([*few, 0, vocab_size - 1], size=400)
    tokens = tokens.astype(datastore.token_dtype(vocab_size))
    order = sort_suffixes(tokens)
    assert sorted(order) == list(range(1, 401))
    texts = [before(tokens, place) for place in order]
    assert texts == sorted(texts)


def test_documents_end_with_the_end_of_text(tmp_path):
    texts = documents()
    store = build_datastore(texts, tmp_path / "store", **WORDS)
    expected = np.concatenate([[*text, 1] for text in texts])
    np.testing.assert_array_equal(store.shards[0].tokens, expected)
    assert store.num_documents == len(texts) and store.num_tokens == len(expected)
    assert store.shards[0].tokens.dtype == np.uint16


def test_shards_hold_the_same_tokens(tmp_path):
    texts = documents()
    whole = build_datastore(texts, tmp_path / "one", **WORDS)
    parts = build_datastore(texts, tmp_path / "many", shard_tokens=37, **WORDS)
    assert len(parts.shards) == -(-whole.num_tokens // 37)
    joined = np.concatenate([shard.tokens for shard in parts.shards])
    np.testing.assert_array_equal(joined, whole.shards[0].tokens)


def test_a_wide_vocabulary_takes_32_bits(tmp_path):
    words = WORDS | {"vocab_size": 128_256}
    store = build_datastore([np.array([5, 128_255])], tmp_path / "s", **words)
    np.testing.assert_array_equal(store.shards[0].tokens, [5, 128_255, 1])


def test_nothing_is_replaced_unless_asked(tmp_path):
    path = tmp_path / "store"
    build_datastore(documents(0), path, **WORDS)
    with pytest.raises(ValueError, match="exists; choose another place or give"):
        build_datastore(documents(1), path, **WORDS)
    again = build_datastore(documents(1), path, overwrite=True, **WORDS)
    assert again.num_documents == 20
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    assert len(list(path.iterdir())) == 3  # nothing is left of the old one


def test_what_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds notes.txt, which is no part of a data"):
        build_datastore(documents(), tmp_path, overwrite=True, **WORDS)
    with pytest.raises(ValueError, match="notes.txt holds notes.txt, which is no"):
        build_datastore(documents(), tmp_path / "notes.txt", overwrite=True, **WORDS)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["tokens_00000.npy", ".mine.unfinished"])
def test_a_file_whose_name_is_nearly_ours_is_never_removed(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name}, which is no part of a data"):
        build_datastore(documents(), tmp_path, overwrite=True, **WORDS)

    def meanwhile():
        yield from documents()
        path.mkdir()
        (path / name).write_text("mine")

    path = tmp_path / "store"
    build_datastore(meanwhile(), path, **WORDS)
    assert (path / name).read_text() == "mine"


def test_a_place_that_cannot_be_written_is_told_of_before_any_document(tmp_path):
    (tmp_path / "file").write_text("")
    asked = []
    with pytest.raises(OSError, match="file"):
        build_datastore(map(asked.append, [1]), tmp_path / "file" / "store", **WORDS)
    assert not asked


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("writes", range(7))
def test_an_interrupted_overwrite_leaves_the_old_store(
    tmp_path, monkeypatch, writes, same
):
    """Cut off before any of its writes; the same command then makes the new store."""
    path, count = tmp_path / "store", 0
    old = build_datastore(documents(0), path, shard_tokens=100, **WORDS)
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
        build_datastore(texts, path, shard_tokens=100, overwrite=True, **WORDS)
    still = open_datastore(path, verify=True)
    assert still.checksums == old.checksums
    monkeypatch.undo()
    made = build_datastore(texts, path, shard_tokens=100, overwrite=True, **WORDS)
    other = build_datastore(texts, tmp_path / "other", shard_tokens=100, **WORDS)
    assert made.checksums == other.checksums
    assert len(list(path.iterdir())) == 1 + 2 * len(made.shards)


def test_an_interrupted_build_leaves_nothing_that_opens(tmp_path, monkeypatch):
    path, texts = tmp_path / "store", documents()

    def cut_short():
        yield from texts[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_datastore(cut_short(), path, shard_tokens=40, **WORDS)
    with pytest.raises(ValueError, match="is not a datastore"):
        open_datastore(path)
    # Going on sorts only what is not there yet, and the result is the same.
    sorted_, sort = [], build.sort_suffixes
    monkeypatch.setattr(
        build, "sort_suffixes", lambda t: (sorted_.append(1), sort(t))[1]
    )
    store = build_datastore(texts, path, shard_tokens=40, **WORDS)
    assert 0 < len(sorted_) < len(store.shards)
    other = build_datastore(texts, tmp_path / "other", shard_tokens=40, **WORDS)
    for one, two in zip(store.shards, other.shards, strict=True):
        np.testing.assert_array_equal(one.order, two.order)


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


def test_what_a_killed_worker_leaves_is_removed(tmp_path, monkeypatch):
    def killed(stream, array):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        build_datastore(documents(), tmp_path, **WORDS)
    assert [path.suffix for path in tmp_path.iterdir()] == [".unfinished"]
    monkeypatch.undo()
    build_datastore(documents(), tmp_path, **WORDS)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_altered_shard_is_sorted_again(tmp_path):
    """What is left of a build with other documents is not used."""
    path = tmp_path / "store"

    def cut_short():
        yield from documents(1)[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_datastore(cut_short(), path, shard_tokens=40, **WORDS)
    store = build_datastore(documents(0), path, shard_tokens=40, **WORDS)
    for shard in store.shards:
        np.testing.assert_array_equal(shard.order, sort_suffixes(shard.tokens))


def test_damage_is_found(tmp_path):
    path = tmp_path / "store"
    build_datastore(documents(), path, **WORDS)
    (file,) = path.glob("order_00000_*.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    found = pytest.raises(
        ValueError, match=r"order_\w+.npy has \d+ bytes.*build it anew"
    )
    with found:
        open_datastore(path)
    file.write_bytes(whole[:-4] + b"\0\0\0\7")
    with pytest.raises(ValueError, match="is not what was written"):
        open_datastore(path)


def test_every_byte_is_checked_when_it_is_read(tmp_path):
    path = tmp_path / "store"
    build_datastore([np.full(200_000, 5)], path, **WORDS)
    (file,) = path.glob("tokens_*.npy")
    content = bytearray(file.read_bytes())
    content[20_000] ^= 1  # between the blocks that are always checked
    file.write_bytes(content)
    store = open_datastore(path)
    for read in (
        lambda: open_datastore(path, verify=True),
        lambda: load_index(store),
        lambda: datastore.read_part(store, 0, 0),
    ):
        with pytest.raises(ValueError, match="tokens_.* is not what was written"):
            read()


def altered(content, **changes):
    """Metadata that someone has edited, checksum and all."""
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
    "a file without a size": lambda c: altered(c, shards=[[{"name": "x"}] * 2]),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_altered_metadata_does_not_open(tmp_path, kind):
    build_datastore(documents(), tmp_path, **WORDS)
    file = tmp_path / "metadata.json"
    content = DAMAGES[kind](json.loads(file.read_text()))
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"metadata.json is damaged .*build the store"):
        open_datastore(tmp_path)


def test_foreign_stores_do_not_open(tmp_path):
    path, tokenizer = tmp_path / "store", TaskTokenizer(9)
    words = WORDS | {"tokenizer": tokenizer.identity}
    build_datastore(documents(), path, **words)
    open_datastore(path, tokenizer=tokenizer)
    message = "built with the tokenizer 'relay-tasks-v1-9', but.* 'relay-tasks-v1-8'"
    with pytest.raises(ValueError, match=message):
        open_datastore(path, tokenizer=TaskTokenizer(8))
    open_datastore(path, tokenizer=IdTokenizer("llama", WORDS["vocab_size"]))
    with pytest.raises(ValueError, match="store has 50 words, the model 51; build it"):
        open_datastore(path, tokenizer=IdTokenizer("llama", 51))
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps(metadata | {"format": 1}))
    message = "has format 1, this version reads 2; build the store anew, with --overw"
    with pytest.raises(ValueError, match=message):
        open_datastore(path)


def test_a_store_of_untold_ids_opens_for_as_many_words(tmp_path):
    store = build_datastore(documents(), tmp_path, **WORDS | {"tokenizer": ""})
    opened = open_datastore(tmp_path, tokenizer=TaskTokenizer(50 - 41))
    assert opened.checksums == store.checksums
    with pytest.raises(ValueError) as error:
        open_datastore(tmp_path, tokenizer=TaskTokenizer(12))
    assert str(error.value) == (
        f"{tmp_path} was built without telling its tokenizer, and has 50 words, the "
        "model 53; build it with the model's --tokenizer, or with "
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
        build_datastore(texts, tmp_path / "store", **(WORDS | options))
    assert not (tmp_path / "store").exists()

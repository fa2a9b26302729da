"""Text as training data: windows, the corpus of a folder, a lossless tokenizer."""

import itertools

import numpy as np
import pytest

from relay_jax.config import (
    BucketConfig,
    CorpusConfig,
    DataConfig,
    ModelConfig,
    TrainConfig,
)
from relay_jax.data import loader
from relay_jax.data.buckets import open_buckets
from relay_jax.data.language_corpus import find_sources, is_held_out, prepare_corpus
from relay_jax.data.text import open_windows
from relay_jax.tokenizers import SentencePieceTokenizer, load_run_tokenizer

SOURCE = '''
class Point{i}:
    """A point."""

    def __init__(self, x, y):
        self.x, self.y = x, y

\tdef tabs_and  blanks(self):   # trailing   \r
        return [self.x * {i} for x in range({i})] + "é漢😀"
'''


def save(path, tokens):
    np.save(path, tokens)
    return path


def test_a_window_is_a_piece_of_the_text(tmp_path):
    file = save(tmp_path / "tokens.npy", np.arange(50, dtype=np.uint16))
    windows = open_windows(file, 8, 50)
    batch = windows.sample(3, 16)
    assert batch.tokens.shape == batch.trained.shape == (16, 9)
    assert np.all(np.diff(batch.tokens, axis=1) == 1)
    assert batch.trained[:, 1:].all() and not batch.trained[:, 0].any()
    assert batch.tokens.dtype == np.int32
    spaced = windows.evenly_spaced(100)
    np.testing.assert_array_equal(spaced.tokens[[0, -1], [0, -1]], [0, 49])
    assert len(spaced.tokens) == 6  # none overlap
    starts = {
        int(windows.sample(i, 16).tokens[j, 0]) for i in range(60) for j in range(16)
    }
    assert starts == set(range(42))


def test_a_batch_is_a_function_of_seed_and_step(tmp_path):
    save(tmp_path / "train.npy", np.arange(500, dtype=np.uint16))
    bucket = BucketConfig("text", (8, 8), kind="text", path="train.npy")
    model = ModelConfig(kind="decoder", text_vocab_size=500)
    config = TrainConfig(model=model, data=DataConfig(4, {"text": bucket}))
    batches = list(loader.steps(config, tmp_path, 2, 5))
    buckets = open_buckets(config, tmp_path)
    for now, step in zip(batches, range(2, 5), strict=True):
        again = loader.step_at(step, buckets, config)
        assert now.task.name == "text" and now.step == step
        np.testing.assert_array_equal(now.batch.tokens, again.batch.tokens)
    for one, two in itertools.combinations(batches, 2):
        assert not np.array_equal(one.batch.tokens, two.batch.tokens)
    looped = TrainConfig(data=config.data)
    with pytest.raises(ValueError, match="only a decoder can train on text"):
        open_buckets(looped, tmp_path)


@pytest.mark.parametrize(
    ("tokens", "size", "message"),
    [
        (None, 4, "does not exist; python -m experiments.train creates it"),
        (np.zeros((2, 9), int), 4, "must be a one-dimensional array of integers"),
        (np.zeros(9), 4, "must be a one-dimensional array of integers"),
        (np.zeros(4, int), 4, "has 4 tokens: too few for a window of 4"),
        (
            np.full(9, 20),
            4,
            "ids from 20 to 20, but the model's vocabulary has 20 tokens",
        ),
    ],
)
def test_invalid_token_files_are_errors(tmp_path, tokens, size, message):
    if tokens is not None:
        save(tmp_path / "tokens.npy", tokens)
    with pytest.raises(ValueError, match=message):
        open_windows(tmp_path / "tokens.npy", size, 20)


@pytest.fixture
def folder(tmp_path):
    """Thirty files, and some that are excluded."""
    root = tmp_path / "library"
    for i in range(30):
        file = root / ("inner" if i % 2 else "test") / f"file_{i}.py"
        file = file if i % 2 else root / f"file_{i}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((SOURCE.replace("{i}", str(i)) * 4).encode())
    for name in ("test/wrong.py", "site-packages/wrong.py", "wrong.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("wrong")
    return root


def test_a_corpus_is_prepared_once_and_lossless(folder, tmp_path):
    config, run = CorpusConfig(folder=str(folder), held_out_one_in=4), tmp_path / "run"
    summary = prepare_corpus(config, 340, run)
    tokenizer = SentencePieceTokenizer(run / "tokenizer.model")
    assert load_run_tokenizer(run, 8).identity == tokenizer.identity
    assert tokenizer.vocab_size == 340 and summary["tokenizer"] == tokenizer.identity
    root, files = find_sources(config)
    assert len(files) == 30 and not any("wrong" in str(file) for file in files)
    texts: dict[bool, list[str]] = {False: [], True: []}
    for file in files:
        is_test = is_held_out(str(file.relative_to(root)), 4)
        texts[is_test].append(file.read_bytes().decode())
    assert len(texts[True]) == summary["held_out"]["files"] > 0
    for name, is_test in (("train", False), ("held_out", True)):
        tokens = np.load(run / f"{name}.npy")
        assert tokens.dtype == np.uint16 and len(tokens) == summary[name]["tokens"]
        ends = np.flatnonzero(tokens == tokenizer.eos_id)
        documents = np.split(tokens, ends + 1)[:-1]
        assert [tokenizer.decode(d[:-1]) for d in documents] == texts[is_test]
    (run / "train.npy").unlink()  # it is not prepared again
    assert prepare_corpus(config, 340, run) == summary
    with pytest.raises(ValueError, match="has a corpus of .* give another --workdir"):
        prepare_corpus(config, 341, run)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "    x\n\n\t y \n",
        "a\r\nb",
        "é漢字😀",
        "\x00\x7f",
        "<s></s> [ARI] <0x0A>",
    ],
)
def test_any_text_is_restored(folder, tmp_path, text):
    prepare_corpus(CorpusConfig(folder=str(folder), held_out_one_in=4), 340, tmp_path)
    tokenizer = load_run_tokenizer(tmp_path, 8)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.eos_id not in ids


@pytest.mark.parametrize(
    ("changes", "vocab_size", "message"),
    [
        ({"folder": "/nowhere"}, 300, "corpus.folder must be a folder, got /nowhere"),
        ({"suffix": ".rs"}, 300, "has no files ending with '.rs'"),
        ({"held_out_one_in": 1}, 300, "none of its 30 files is left for train"),
        ({"held_out_one_in": 2**60}, 300, "none of its 30 files is left for held_out"),
        ({}, 9000, "no vocabulary of 9000 tokens can be trained"),
    ],
)
def test_invalid_corpora_are_errors(folder, tmp_path, changes, vocab_size, message):
    config = CorpusConfig(**{"folder": str(folder)} | changes)
    with pytest.raises(ValueError, match=message):
        prepare_corpus(config, vocab_size, tmp_path / "run")
    assert not (tmp_path / "run" / "corpus.json").exists()

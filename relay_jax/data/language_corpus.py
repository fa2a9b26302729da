"""Prepares a folder of source files as a corpus for a language model.

    DIR/tokenizer.model   sentencepiece; decode(encode(text)) == text, to the character
    DIR/train.npy         token ids; one document per file, each with its end-of-text token
    DIR/held_out.npy      the same for the held-out files
    DIR/corpus.json       written last: the config, numbers of files and tokens

A hash of a file's path below the folder decides whether it is held out. The tokenizer is
trained on the other files alone.
"""

import hashlib
import io
import sysconfig
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from relay_jax import config_io, files
from relay_jax.base import Host, Integer
from relay_jax.config import CorpusConfig
from relay_jax.data import corpora
from relay_jax.tokenizers import RUN_TOKENIZER, SentencePieceTokenizer

CHUNK = 2000  # characters of one training sentence of the tokenizer
MAX_CHUNKS = 20_000


def prepare_corpus(
    config: CorpusConfig, vocab_size: int, workdir: epath.PathLike
) -> dict[str, Any]:
    """Writes the files above, unless they exist, and returns the contents of corpus.json.

    Raises:
      ValueError: the folder has no such files, or too few for the vocabulary; the
        directory has a corpus of another config.
    """
    path = epath.Path(workdir)
    expected = config_io.to_dict(config) | {"vocab_size": vocab_size}
    finished = path / "corpus.json"
    if finished.exists():
        summary = files.read_json(finished)
        if summary["config"] != expected:
            raise ValueError(
                f"{path} has a corpus of {summary['config']}, expected {expected}; "
                "give another --workdir"
            )
        return summary
    root, parts = _split_sources(config)
    path.mkdir(parents=True, exist_ok=True)
    model = train_tokenizer(corpora.read_files(parts["train"]), vocab_size)
    files.write_atomically(path / RUN_TOKENIZER, model)
    tokenizer = SentencePieceTokenizer(path / RUN_TOKENIZER)
    summary: dict[str, Any] = {"config": expected, "root": str(root)}
    summary["tokenizer"] = tokenizer.identity
    for name, part in parts.items():
        progress = tqdm(part, name, unit=" files")
        documents = list(corpora.encode(corpora.read_files(progress), tokenizer))
        _save_tokens(path / f"{name}.npy", documents, vocab_size)
        summary[name] = {"files": len(part), "tokens": sum(map(len, documents))}
    files.write_json(finished, summary)
    return summary


def _split_sources(
    config: CorpusConfig,
) -> tuple[epath.Path, dict[str, list[epath.Path]]]:
    """The folder, and its files for training and for testing."""
    root, sources = find_sources(config)
    parts: dict[str, list[epath.Path]] = {"train": [], "held_out": []}
    for file in sources:
        name = str(file.relative_to(root))
        held_out = is_held_out(name, config.held_out_one_in)
        parts["held_out" if held_out else "train"].append(file)
    for name, part in parts.items():
        if not part:
            raise ValueError(
                f"{root}: none of its {len(sources)} files is left for {name}; "
                "give more files"
            )
    return root, parts


def find_sources(config: CorpusConfig) -> tuple[epath.Path, list[epath.Path]]:
    """The folder, and its files in the order of their names.

    Raises:
      ValueError: the folder does not exist, or has no such file.
    """
    root = epath.Path(config.folder or sysconfig.get_paths()["stdlib"])
    excluded = set(config.exclude.split())
    if not root.is_dir():
        raise ValueError(f"corpus.folder must be a folder, got {root}")
    files = [
        file
        for file in corpora.find_files([str(root)])
        if file.name.endswith(config.suffix)
        and not excluded & set(file.relative_to(root).parts)
    ]
    if not files:
        raise ValueError(f"{root} has no files ending with {config.suffix!r}")
    return root, files


def is_held_out(name: str, one_in: int) -> bool:
    """Whether the file with this path below the folder is held out, by its hash."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % one_in == 0


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """Trains a lossless sentencepiece model and returns its file.

    It has byte-pair merges, keeps white space, and falls back to bytes, so that decoding
    restores any text (except U+2581, which sentencepiece uses for blanks).

    Raises:
      ValueError: the texts are too few for a vocabulary of this size.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_chunks(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n"],
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=4 * CHUNK,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"no vocabulary of {vocab_size} tokens can be trained on the corpus: {error}"
        ) from None
    return model.getvalue()


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Yields at most `MAX_CHUNKS` evenly spaced chunks of all texts."""
    pieces = [t[i : i + CHUNK] for t in texts for i in range(0, len(t), CHUNK)]
    step = -(-len(pieces) // MAX_CHUNKS) or 1
    yield from pieces[::step]


def _save_tokens(
    file: epath.Path, documents: list[Integer[Host, "_"]], vocab_size: int
) -> None:
    stream = io.BytesIO()
    dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    np.save(stream, np.concatenate(documents).astype(dtype))
    files.write_atomically(file, stream.getvalue())

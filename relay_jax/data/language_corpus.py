"""A folder of source files as a corpus: words learnt from it, files held out, tokens.

DIR/tokenizer.model   sentencepiece; decode(encode(text)) is the text to the character
DIR/train.npy         token ids, a document a file, each with its end-of-text token
DIR/held_out.npy      the same of the files that are held out
DIR/corpus.json       written last: the config, and what was counted

Whether a file is held out is decided by a hash of its path below the folder. The words
are learnt from the other files alone.
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

CHUNK = 2000  # characters that the words are learnt from at once
MAX_CHUNKS = 20_000


def prepare_corpus(
    config: CorpusConfig, vocab_size: int, workdir: epath.PathLike
) -> dict[str, Any]:
    """Makes the files above, if they are not there yet -> what was counted.

    Raises:
      ValueError: the folder has no such files, or too few for the vocabulary; the
        directory holds another corpus.
    """
    path = epath.Path(workdir)
    wanted = config_io.to_dict(config) | {"vocab_size": vocab_size}
    done = path / "corpus.json"
    if done.exists():
        told = files.read_json(done)
        if told["config"] != wanted:
            raise ValueError(
                f"{path} holds a corpus of {told['config']}, expected {wanted}; "
                "give another --workdir"
            )
        return told
    root, sources = find_sources(config)
    held = [
        is_held_out(str(f.relative_to(root)), config.held_out_one_in) for f in sources
    ]
    parts = {
        "train": [f for f, out in zip(sources, held) if not out],
        "held_out": [f for f, out in zip(sources, held) if out],
    }
    for name, part in parts.items():
        if not part:
            raise ValueError(
                f"{root}: of {len(sources)} files none is left for {name}; give more files"
            )
    path.mkdir(parents=True, exist_ok=True)
    model = train_tokenizer(corpora.read_files(parts["train"]), vocab_size)
    files.write_atomically(path / RUN_TOKENIZER, model)
    tokenizer = SentencePieceTokenizer(path / RUN_TOKENIZER)
    told = {"config": wanted, "root": str(root), "tokenizer": tokenizer.identity}
    for name, part in parts.items():
        shown = tqdm(part, name, unit=" files")
        documents = list(corpora.encode(corpora.read_files(shown), tokenizer))
        _save_tokens(path / f"{name}.npy", documents, vocab_size)
        told[name] = {"files": len(part), "tokens": sum(map(len, documents))}
    files.write_json(done, told)
    return told


def find_sources(config: CorpusConfig) -> tuple[epath.Path, list[epath.Path]]:
    """The folder, and its files in the order of their names.

    Raises:
      ValueError: the folder is not there, or has no such file.
    """
    root = epath.Path(config.folder or sysconfig.get_paths()["stdlib"])
    excluded = set(config.exclude.split())
    if not root.is_dir():
        raise ValueError(f"corpus.folder {root} is no folder")
    files = [
        file
        for file in corpora.find_files([str(root)])
        if file.name.endswith(config.suffix)
        and not excluded & set(file.relative_to(root).parts)
    ]
    if not files:
        raise ValueError(f"{root} has no file that ends with {config.suffix!r}")
    return root, files


def is_held_out(name: str, one_in: int) -> bool:
    """Whether the file of this name below the folder is held out: its hash decides."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % one_in == 0


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """A sentencepiece model: byte pairs, white space kept as it is, bytes as a last
    resort, so that any text comes back (but U+2581, sentencepiece's own blank).

    Raises:
      ValueError: the texts do not have so many words.
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
            f"no vocabulary of {vocab_size} words could be learnt from the corpus: {error}"
        ) from None
    return model.getvalue()


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Evenly spread pieces of all texts, at most `MAX_CHUNKS`."""
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

"""Damaged files: refused in one line, or opened with exactly what was written.

Files of each format are damaged at random, with fixed seeds. Where the format has
checksums every change of the content must be found. GGUF and safetensors have none: there
changed numbers and names may go unnoticed, but no file opens with other shapes.
"""

import pathlib
import resource
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from relay_jax import pretrained
from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.models import export, hf_weights
from relay_jax.rest.build import build_datastore
from relay_jax.rest.datastore import open_datastore
from relay_jax.training import checkpoint, run_dir
from relay_jax.training.step import init_params, init_state
from tests import tiny_hf_model
from tests.training.runs import small

CI, SLOW = range(100), range(100, 1000)
SECONDS, MEGABYTES = 30, 700  # in which a file is opened, which is a few kilobytes
NUMBERS = (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


class Format(NamedTuple):
    """A folder with files of one format."""

    files: list[pathlib.Path]
    read: Callable[[], Any]  # the content, or of a format without checksums the shapes
    header: int = (
        400  # bytes at the start of a file in which much of the damage is done
    )


def flip(content, rng, header):
    end = header if rng.random() < 0.5 else len(content)
    for offset in rng.integers(min(end, len(content)), size=rng.integers(1, 4)):
        content[offset] ^= rng.integers(1, 256)
    return content


def cut(content, rng, header):
    return content[: rng.integers(len(content))]


def extend(content, rng, header):
    return np.append(content, rng.integers(256, size=rng.integers(1, 99), dtype="u1"))


def swap(content, rng, header):
    size = max(len(content) // 10, 1)
    one, two = rng.integers(len(content) - size + 1, size=2)
    block = content[one : one + size].copy()
    content[one : one + size] = content[two : two + size]
    content[two : two + size] = block
    return content


def clear(content, rng, header):
    start = rng.integers(len(content))
    content[start : start + rng.integers(1, 64)] = 0
    return content


def renumber(content, rng, header):
    """Another length, count or offset in the header."""
    form = rng.choice(["<u4", "<u8"])
    number = np.array([NUMBERS[rng.integers(len(NUMBERS))] % 2**32]).astype("<u4")
    if form == "<u8":
        number = np.array([NUMBERS[rng.integers(len(NUMBERS))]], "<u8")
    part = number.view("u1")[: len(content)]
    start = rng.integers(max(min(header, len(content)) - len(part), 0) + 1)
    content[start : start + len(part)] = part
    return content


def redigit(content, rng, header):
    """Another digit in a header that is text."""
    digits = np.flatnonzero((content[:header] >= 48) & (content[:header] < 58))
    if digits.size:
        content[rng.choice(digits)] = rng.integers(48, 58)
    return content


DAMAGES = [flip, flip, cut, extend, swap, clear, renumber, redigit]


@pytest.fixture(scope="module")
def datastore(tmp_path_factory):
    path = tmp_path_factory.mktemp("datastore") / "store"
    texts = np.random.default_rng(0).integers(2, 40, (20, 60))
    build_datastore(texts, path, tokenizer="test", vocab_size=40, eos_id=1)

    def read():
        store = open_datastore(path, verify=True)
        arrays = [np.array(array) for shard in store.shards for array in shard]
        return store._replace(shards=(), checksums=()), arrays

    return Format(sorted(path.iterdir()), read)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    pytest.importorskip("gguf", reason="gguf writes the files")
    from relay_jax.gguf_file import read_gguf
    from tests import gguf_files

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf_files.write(path, fields=gguf_files.TOKENIZER)

    def read():
        pretrained.open_folder(path)
        tensors = read_gguf(path).tensors
        return {name: tensor.read().shape for name, tensor in tensors.items()}

    return Format([path], read, header=1500)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    path = tiny_hf_model.write_model(tmp_path_factory.mktemp("hugging_face"))
    model = pretrained.open_folder(path).config.model

    def read():
        params = hf_weights.load_params(path, model)
        return jax.tree.map(lambda x: (x.shape, x.dtype), params)

    return Format([path / hf_weights.WEIGHTS], read, header=2000)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported")
    model = ModelConfig(num_layers=1, dim=8, num_heads=2, mlp_dim=8, num_numbers=4)
    params = init_params(TrainConfig(model))
    export.write_params(path, params)

    def read():
        found = export.read_params(path, params)
        return jax.tree.map(lambda x: (x.shape, x.dtype), found)

    return Format([path / export.FILE], read, header=1500)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    state = init_state(small(), init_params(small()))
    run_dir.open_run(path, small())
    with checkpoint.make_manager(path, 1) as manager:
        checkpoint.save(manager, state, seconds=1.5)

    def read():
        with checkpoint.make_manager(path, 1) as manager:
            restored = checkpoint.restore(manager, state)
        assert restored
        return checkpoint.hash_params(restored[0]._asdict()), restored[1]

    files = sorted(f for f in (path / "checkpoints").rglob("*") if f.is_file())
    return Format(files, read)


def is_same(one, two):
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), one, two)
    return jax.tree.all(same)


def stop(*_):
    raise TimeoutError(f"a damaged file was read for {SECONDS} s")


def check(form: Format, seeds: range):
    """Damages a file of the format for each seed, and opens the folder."""
    whole, refused = form.read(), 0
    contents = {file: file.read_bytes() for file in form.files}
    signal.signal(signal.SIGALRM, stop)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        file = form.files[rng.integers(len(form.files))]
        content = np.frombuffer(contents[file], "u1").copy()
        damage = DAMAGES[seed % len(DAMAGES)]
        file.write_bytes(damage(content, rng, form.header).tobytes())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.alarm(SECONDS)
        try:
            found = form.read()
        except (ValueError, OSError) as error:
            found, refused = None, refused + 1
            where = f"seed {seed}, {damage.__name__} of {file.name}: {error!r}"
            assert type(error) is ValueError or isinstance(error, OSError), where
            assert str(form.files[0].parent.name) in str(error) or file.name in str(
                error
            ), where
        finally:
            signal.alarm(0)
            file.write_bytes(contents[file])
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert after - before < MEGABYTES * 1024, f"seed {seed}: too much memory"
        if found is not None:
            where = f"seed {seed}: {damage.__name__} of {file.name} opens otherwise"
            assert jax.tree.structure(found) == jax.tree.structure(whole), where
            assert is_same(found, whole), where
    assert refused > len(seeds) / 10
    assert is_same(form.read(), whole)


PARTS = [CI, pytest.param(SLOW, marks=pytest.mark.slow)]
FORMATS = ["datastore", "gguf", "hugging_face", "exported"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinite weights
@pytest.mark.parametrize("seeds", PARTS, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_or_whole(name, seeds, request):
    check(request.getfixturevalue(name), seeds)


@pytest.mark.filterwarnings("ignore")  # Orbax leaves its readers behind
@pytest.mark.parametrize("seeds", PARTS, ids=str)
def test_damaged_checkpoints_are_refused_or_whole(seeds, saved):
    check(saved, seeds)

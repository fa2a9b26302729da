"""GGUF files: the package gguf writes them, and its reader is the oracle."""

import struct
import sys

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="gguf writes the files")

from relay_jax import gguf_tokenizer
from relay_jax.gguf_file import is_gguf, read_gguf
from relay_jax.models import gguf as model_file
from tests import gguf_files
from tests.gguf_files import KINDS, TOKENIZER

FIELDS = TOKENIZER | {
    "test.numbers": [0.5, -1.0],
    "test.flags": [True, False],
    "test.signed": [-3, 4],
}
READABLE = [
    kind
    for kind in KINDS
    if kind.name in ("F32", "F16", "BF16", "MXFP4", "NVFP4")
    or kind.name.startswith(("Q2", "Q3", "Q4", "Q5", "Q6", "IQ", "TQ", "Q8_0"))
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return gguf_files.write(path, fields=FIELDS)


def test_metadata_and_tensors_are_those_of_the_package(file):
    ours, theirs = read_gguf(file), gguf.GGUFReader(file)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            value = ours.metadata[key]
            found = value.tolist() if isinstance(value, np.ndarray) else value
            assert found == field.contents() and type(found) is type(field.contents())
    assert len(ours.metadata) == len(theirs.fields) - 3
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        found = ours.tensors[tensor.name]
        assert found.shape == tuple(tensor.shape[::-1])
        np.testing.assert_array_equal(found.read(), numbers)


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_a_part_of_every_quantization_is_read(kind, tmp_path):
    """Any bytes are a tensor. Parts that begin within a block are read too."""
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(0)
    raw = rng.integers(256, size=(6, 3 * type_size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("a", raw, raw_dtype=kind)
    gguf_files.write_all(writer)
    tensor = read_gguf(tmp_path / "x.gguf").tensors["a"]
    with np.errstate(all="ignore"):
        whole = gguf.dequantize(raw, kind)
        assert tensor.shape == whole.shape == (6, 3 * block_size)
        order = np.array([5, 0, 4, 1, 3, 2])
        middle = slice(block_size - 1, 2 * block_size + 1)
        for rows in (slice(None), slice(2, 5)):
            for columns in (slice(None), middle, slice(0, 1)):
                found = tensor.read((rows, columns))
                np.testing.assert_array_equal(found, whole[rows, columns])
                found = tensor.read((rows, columns), order)
                np.testing.assert_array_equal(found, whole[order][rows, columns])


def test_files_are_recognized_by_name_or_first_bytes(file, tmp_path):
    blob = tmp_path / "sha256-1"
    blob.write_bytes(file.read_bytes()[:4])
    assert is_gguf(file) and is_gguf(blob) and is_gguf("nowhere.gguf")
    assert not is_gguf(tmp_path) and not is_gguf(tmp_path / "config.json")
    assert not is_gguf("gs://bucket/run")


def packed_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def open_whole(path):
    """All that is read of a file before its parameters are."""
    file = read_gguf(path)
    model = model_file.read_model(file)
    model_file.check(file, model)
    model_file.read_special(file)
    return file, model, gguf_tokenizer.load_tokenizer(file)


def test_a_file_that_is_cut_off_anywhere_is_refused(file, tmp_path):
    content, part = file.read_bytes(), tmp_path / "part.gguf"
    open_whole(file)
    (last,) = list(read_gguf(file).tensors.values())[-1:]
    whole = len(content) - (-last.rows.size) % 32  # without what pads the last tensor
    cuts = [*range(40), *np.linspace(40, whole - 1, 100).astype(int).tolist()]
    for cut in cuts:
        part.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="is cut off|is not a GGUF file"):
            read_gguf(part)
    part.write_bytes(content[:whole])
    read_gguf(part)


def test_no_changed_bit_of_the_header_crashes_or_changes_a_tensor(file, tmp_path):
    content, changed = file.read_bytes(), tmp_path / "changed.gguf"
    before, *_ = open_whole(file)
    table = content.index(packed_text("token_embd.weight"))
    names = [packed_text(name) for name in before.tensors]
    end = content.index(names[-1]) + len(names[-1]) + 4 + 8 + 4 + 8
    rng = np.random.default_rng(0)
    positions = [*range(24), *rng.integers(24, 900, 50), *rng.integers(24, table, 30)]
    positions += [*rng.integers(table, end, 80)]
    for position in map(int, positions):
        bad = bytearray(content)
        bad[position] ^= 1 << int(rng.integers(8))
        changed.write_bytes(bad)
        try:
            after, *_ = open_whole(changed)
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, error
            continue
        # Such as another name of the model: there is no checksum.
        assert 24 <= position < table
        for name, tensor in before.tensors.items():
            assert after.tensors[name][:3] == tensor[:3]


def edit(file, tmp_path, old, new):
    """A copy with some bytes replaced."""
    content = file.read_bytes()
    assert content.count(old) == 1
    copy = tmp_path / "edited.gguf"
    copy.write_bytes(content.replace(old, new))
    return copy


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b"GGUF\3\0\0\0",
            b"GGML\3\0\0\0",
            "is not a GGUF file: it begins with b'GGML'",
        ),
        (b"GGUF\3\0\0\0", b"GGUF\1\0\0\0", "is a GGUF file of version 1; only little-"),
        (b"GGUF\3\0\0\0", b"GGUF\0\0\0\3", "is a GGUF file big-endian; only little-"),
        (
            packed_text("blk.1.attn_q.weight"),
            packed_text("blk.1.attn_k.weight"),
            "is damaged: it holds the tensor 'blk.1.attn_k.weight' twice; copy it again",
        ),
        (
            packed_text("output_norm.weight") + struct.pack("<IQI", 1, 64, 0),
            packed_text("output_norm.weight") + struct.pack("<IQI", 1, 64, 27),
            "the tensor 'output_norm.weight' is of type I64, which the package gguf can",
        ),
        (
            packed_text("output_norm.weight") + struct.pack("<IQI", 1, 64, 0),
            packed_text("output_norm.weight") + struct.pack("<IQI", 1, 64, 77),
            "the tensor 'output_norm.weight' is of type 77, which the package gguf cann",
        ),
        (
            packed_text("output_norm.weight") + struct.pack("<IQI", 1, 64, 0),
            packed_text("output_norm.weight") + struct.pack("<IQI", 1, 64, 12),
            "is damaged: .* does not consist of blocks of 256 numbers, as Q4_K does",
        ),
        (
            packed_text("output_norm.weight") + struct.pack("<IQI", 1, 64, 0),
            packed_text("output_norm.weight") + struct.pack("<IQI", 1, 96, 0),
            "is damaged: the tensor .* should begin at",
        ),
    ],
)
def test_damaged_headers_are_named(file, tmp_path, old, new, message):
    changed = edit(file, tmp_path, old, new)
    with pytest.raises(ValueError, match=message):
        read_gguf(changed)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match="is not a GGUF file: it begins with b''"):
        read_gguf(tmp_path / "empty.gguf")
    with pytest.raises(ValueError, match="nowhere.gguf is not a file on this machine"):
        read_gguf("nowhere.gguf")
    with pytest.raises(ValueError, match="gs://a/b.gguf is not a file on this machine"):
        read_gguf("gs://a/b.gguf")
    parts = gguf_files.write(tmp_path / "p.gguf", fields={"split.count": 3}, tensors={})
    with pytest.raises(
        ValueError, match="is one of 3 parts of a model; join them firs"
    ):
        read_gguf(parts)


def test_without_the_package_the_command_that_installs_it_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match="not installed: pip install gguf"):
        read_gguf(file)

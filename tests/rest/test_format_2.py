"""Datastores and step times of format 2, as the code before format 3 wrote them.

The files under `data` are that code's: a store of 20 documents in shards of 200 tokens,
with files order_*.npy and other keys in its metadata; and a cache of three settings.
"""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from relay_jax.config import DraftConfig, ModelConfig
from relay_jax.decoding import decode
from relay_jax.rest import step_times
from relay_jax.rest.build import build_datastore, extend_datastore
from relay_jax.rest.datastore import open_datastore
from relay_jax.rest.step_times import step_seconds

STORE = pathlib.Path(__file__).parent / "data" / "store_format_2"
STEP_TIMES = pathlib.Path(__file__).parent / "data" / "step_times_format_2.json"
VOCAB = {"tokenizer": "test", "vocab_size": 50, "eos_id": 1}
SIZES = [0, 4, 16]
DRAFT = DraftConfig(num_store_rows=8, num_text_rows=8, num_paper_rows=8, depth=4)
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=12
)


def documents(seed=0, num=20):
    """Those of the store with seed 0."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 9, size=rng.integers(1, 30)) for _ in range(num)]


def one_each(sizes):
    return dict.fromkeys(sizes, 1.0)


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(STORE, tmp_path / "old")


def test_a_store_has_the_same_content(tmp_path, old):
    store = open_datastore(old, verify=True)
    new = build_datastore(documents(), tmp_path / "new", shard_tokens=200, **VOCAB)
    assert store._replace(path=0, shards=0, checksums=0) == new._replace(
        path=0, shards=0, checksums=0
    )
    for one, two in zip(store.shards, new.shards, strict=True):
        np.testing.assert_array_equal(one.tokens, two.tokens)
        np.testing.assert_array_equal(one.suffix_array, two.suffix_array)
    assert [shard.suffix_array.name for shard in store.checksums] == [
        file.name for file in sorted(STORE.glob("order_*.npy"))
    ]


def test_a_store_is_extended_in_the_new_format(old):
    before = open_datastore(old)
    store = extend_datastore(old, documents(1))
    assert store.checksums[:2] == before.checksums and len(store.shards) == 3
    assert store.num_documents == 40
    assert json.loads((old / "metadata.json").read_text())["format"] == 3
    assert open_datastore(old, verify=True).checksums == store.checksums
    assert len(list(old.glob("order_*"))) == 2
    assert len(list(old.glob("suffix_array_*"))) == 1


def test_a_store_is_replaced_completely(tmp_path, old):
    store = build_datastore(documents(1), old, overwrite=True, **VOCAB)
    build_datastore(documents(1), tmp_path / "new", **VOCAB)
    assert store.num_documents == 20 and not list(old.glob("order_*"))
    for file in (tmp_path / "new").iterdir():
        assert (old / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["metadata.json", "order_00001_6660cc466a0e.npy"])
def test_damage_to_a_store_is_found(old, name):
    content = (old / name).read_bytes()
    (old / name).write_bytes(content.replace(b"\x05", b"\x06").replace(b"285", b"286"))
    assert (old / name).read_bytes() != content
    with pytest.raises(ValueError, match=f"{name}.* (is damaged|has changed)"):
        open_datastore(old, verify=True)


def old_setting(drafter):
    """A setting of the cache, as this version describes it."""
    draft = dataclasses.replace(DRAFT, drafter=drafter, depth_decay=0.8)
    mesh = {"fsdp": 1, "tensor": 2}
    setting = step_times.describe_setting(
        MODEL, draft, decode.GREEDY, None, batch_size=2, mesh=mesh
    )
    return setting | {"device": "TPU v5", "devices": 8, "cores": 112, "jax": "0.10.2"}


def test_cached_step_times_are_used_and_preserved(tmp_path):
    file = shutil.copy(STEP_TIMES, tmp_path / "cache.json")
    measured = []

    def measure(sizes):
        measured.append(sizes)
        return one_each(sizes)

    def check_old_entries():
        for added, drafter in enumerate(("rest", "prompt_lookup", "token_recycling")):
            seconds = step_seconds(measure, SIZES, old_setting(drafter), file)
            assert seconds == {size: 1.0 + size + added for size in SIZES}

    check_old_entries()
    assert not measured
    step_seconds(measure, SIZES, old_setting("mixed"), file)  # an entry more
    assert len(measured) == 1
    assert json.loads(pathlib.Path(file).read_text())["format"] == 4
    check_old_entries()
    assert len(measured) == 1


def test_damaged_entries_are_skipped(tmp_path):
    content = json.loads(STEP_TIMES.read_text())
    first, second, _ = content["entries"]
    del content["entries"][first]["about"]["draft"]
    content["entries"][second] = 3
    file = tmp_path / "cache.json"
    file.write_text(json.dumps(content))
    for drafter, expected in (("rest", 1.0), ("prompt_lookup", 1.0)):
        seconds = step_seconds(one_each, SIZES, old_setting(drafter), file)
        assert seconds == dict.fromkeys(SIZES, expected)
    seconds = step_seconds(one_each, SIZES, old_setting("token_recycling"), file)
    assert seconds[0] == 3.0

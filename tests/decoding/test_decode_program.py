"""The compiled decode loop: how often it is compiled, and what it must not contain."""

import dataclasses

import jax
import numpy as np
import pytest

from relay_jax.config import DraftConfig, MeshConfig, ModelConfig, TrainConfig
from relay_jax.decoding import decode
from relay_jax.decoding.drafter import no_drafter, shard_like
from relay_jax.models.sharding import make_mesh
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import make_drafter
from relay_jax.rest.index import HostIndex, load_index
from relay_jax.training.step import init_params

VOCAB = 12
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=VOCAB
)
DRAFT = DraftConfig(num_draft=8, num_store_rows=8, num_text_rows=8, depth=4)
SETTINGS = {"model": MODEL, "max_new_tokens": 20}


def make_store(path, seed=0):
    texts = np.random.default_rng(seed).integers(2, VOCAB, (30, 20))
    vocab = {"tokenizer": "test", "vocab_size": VOCAB, "eos_id": 1}
    return build_datastore(list(texts), path / f"store{seed}", **vocab)


def make_prompts(seed, num=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCAB, size=rng.integers(1, 9)) for _ in range(num)]


def programs():
    """How many there are, in all."""
    return decode.read_prompts._cache_size(), decode.advance._cache_size()


def test_one_compilation_for_a_batch_size_and_a_tree_size(tmp_path):
    """Prompts, lengths, seeds, ends of text and what the store holds are all data."""
    params = init_params(TrainConfig(model=MODEL))
    indexes = [load_index(make_store(tmp_path, seed)) for seed in (0, 1)]
    assert indexes[0].tokens.shape == indexes[1].tokens.shape

    def run(seed, **changes):
        prompts = make_prompts(seed, changes.pop("num", 3))
        drafter = make_drafter(changes.pop("draft", dataclasses.replace(DRAFT)))
        options = {"index": indexes[seed % 2], "drafter": drafter, "seed": seed}
        options |= {"eos_id": seed - 1, "width": 9}
        return decode.decode(params, prompts, **SETTINGS | options | changes)

    run(0)
    first = programs()
    texts = [np.asarray(run(seed).tokens) for seed in range(1, 7)]
    assert len({text.tobytes() for text in texts}) == 6
    assert programs() == first
    run(0, num=2)  # another batch size
    assert programs() == (first[0] + 1, first[1] + 1)
    run(0, draft=DraftConfig(num_draft=4, num_store_rows=8, num_text_rows=8, depth=4))
    assert programs() == (first[0] + 1, first[1] + 2)


def test_one_compilation_on_a_mesh_for_any_number_of_pieces(tmp_path, caplog):
    index = load_index(make_store(tmp_path), make_mesh(MeshConfig(data=0)))
    params = shard_like(init_params(TrainConfig(model=MODEL)), index)
    tokens, length = decode.pad_prompts(make_prompts(0), VOCAB, 9)
    keys = decode.request_keys(0, 3)
    state = decode.start(params, tokens, length, keys, **SETTINGS)
    settings = {"model": MODEL, "num_steps": 2}
    with jax.log_compiles():
        for _ in range(4):
            state = decode.advance(
                params, state, make_drafter(DRAFT), index, **settings
            )
    assert caplog.text.count("Compiling jit(advance)") == 1


@pytest.mark.parametrize("location", ["none", "device", "mesh", "host"])
def test_only_the_host_index_calls_the_host(tmp_path, location):
    store = make_store(tmp_path)
    index = {
        "none": lambda: None,
        "device": lambda: load_index(store),
        "mesh": lambda: load_index(store, make_mesh(MeshConfig(data=0))),
        "host": lambda: HostIndex(store),
    }[location]()
    params = shard_like(init_params(TrainConfig(model=MODEL)), index)
    tokens, length = decode.pad_prompts(make_prompts(0), VOCAB, 9)
    state = decode.start(
        *(params, tokens, length, decode.request_keys(0, 3)), **SETTINGS
    )
    drafter = make_drafter(DRAFT) if index is not None else no_drafter
    lowered = decode.advance.lower(params, state, drafter, index, model=MODEL)
    program = lowered.as_text().lower()
    assert "while" in program
    assert ("callback" in program) == (location == "host")
    for other in ("infeed", "outfeed", "send", "recv"):
        assert f"stablehlo.{other}" not in program

"""Two real processes, each with half of a datastore, write what one process writes."""

import re

import numpy as np
import pytest

from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.decoding import decode, result
from relay_jax.rest.build import build_datastore
from relay_jax.training.checkpoint import save_params
from relay_jax.training.step import init_params
from tests.processes import finish, start

VOCAB = 12
GLOO = re.compile(
    r"\[Gloo\] Rank | is connected to | peer ranks\. "
    r"|Expected number of connected peer ranks is : |[\d\s]"
)
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, num_heads=2, text_vocab_size=VOCAB
)


@pytest.mark.parametrize(
    "mesh, num_draft",
    [("2,1", "8"), pytest.param("2,2", "auto", marks=pytest.mark.slow)],
)
def test_texts_are_those_of_plain_decoding_in_one_process(tmp_path, mesh, num_draft):
    config = TrainConfig(model=MODEL)
    params = init_params(config)
    save_params(tmp_path / "run", config, params)
    prompts = [[5, 6, 7], [8, 9]]
    state = decode.decode(params, prompts, model=MODEL, max_new_tokens=70)
    texts = result.new_tokens(state, np.array([3, 2]))
    vocab = {"tokenizer": "", "vocab_size": VOCAB, "eos_id": 1}
    store = build_datastore(texts, tmp_path / "store", shard_tokens=50, **vocab)
    assert len(store.shards) > 2
    outputs = finish(
        start(
            "experiments.generate",
            *(f"--run={tmp_path}/run", f"--datastore={tmp_path}/store"),
            *("--prompt_ids=5,6,7", "--prompt_ids=8,9", "--max_new_tokens=70"),
            *("--print_ids", "--ignore_eos", "--index=mesh"),
            *(f"--mesh={mesh}", f"--num_draft={num_draft}"),
        )
    )
    # Gloo's threads print there as well, piece by piece, into each other's lines.
    ids = re.compile(r"^\d+(?:,\d+)+$", re.MULTILINE)
    assert not GLOO.sub("", ids.sub("", outputs[0][0]))
    assert ids.findall(outputs[0][0]) == [",".join(map(str, text)) for text in texts]
    assert not outputs[1][0]

"""Operations of a training step against a count by hand and against XLA's count."""

import dataclasses

import jax
import pytest

from relay_jax import config_io
from relay_jax.config import LossConfig, ModelConfig, TrainConfig
from relay_jax.data import loader
from relay_jax.data.buckets import open_buckets
from relay_jax.evaluation import flops
from relay_jax.models.sharding import named_leaves
from relay_jax.training.metrics import step_workload
from relay_jax.training.step import init_params, init_state, make_train_step

MODEL = ModelConfig(
    kind="decoder", num_layers=2, dim=8, num_heads=2, mlp_dim=16, num_numbers=10
)


def make_config(**changes):
    return TrainConfig(model=dataclasses.replace(MODEL, **changes))


def test_a_count_by_hand():
    vocab_size = MODEL.vocab_size
    layer = 4 * 8 * 8 + 2 * 8 * 16  # query, key, value, out; up, down
    attention = 2 * 5 * 8  # scores with 5 keys and their mix, 2 heads of 4
    layers = 2 * (layer + attention)
    assert flops.step_flops(make_config(), 3, 5) == 6 * 3 * 5 * (
        layers + 8 * vocab_size
    )
    looped, in_answers = make_config(kind="looped"), 6 * 3 * 8 * vocab_size
    in_rounds = 6 * 4 * 3 * 5 * (layers + 8 * vocab_size)
    assert flops.step_flops(looped, 3, 5, num_loops=4) == in_rounds + in_answers
    vanilla = dataclasses.replace(looped, loss=LossConfig(round_weight=0.0))
    in_rounds = 6 * 4 * 3 * 5 * layers
    assert flops.step_flops(vanilla, 3, 5, num_loops=4) == in_rounds + in_answers


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 1, "activation": "swiglu", "head_dim": 6},
        {"kind": "looped", "input_injection": "feedback", "differences": True},
    ],
    ids=("decoder", "grouped", "looped"),
)
def test_entries_are_those_of_the_parameters(changes):
    config = make_config(**changes)
    leaves = named_leaves(init_params(config))
    heads = ("head/words", "round_head/words", "round_difference/kernel")
    in_heads = sum(leaves[name].size for name in heads if name in leaves)
    layers = sum(
        leaf.size
        for name, leaf in leaves.items()
        if name.startswith("layer") and name.endswith("kernel")
    )
    assert flops.head_entries(config.model) == in_heads
    assert flops.layer_entries(config.model) * config.model.num_layers == layers


@pytest.mark.parametrize("kind", ("looped", "decoder"))
def test_xla_counts_little_more(kind):
    """XLA also counts elementwise operations, which are few beside large products. One
    layer and one loop: it counts the body of a loop only once."""
    bucket = {"task": "arithmetic", "lengths": (3, 3), "max_rounds": 1}
    model = {"kind": kind, "num_layers": 1, "dim": 256, "mlp_dim": 1024, "dropout": 0.0}
    model |= {"num_numbers": 16, "activation": "relu"}
    data = {"batch_size": 64, "buckets": {"arithmetic": bucket}}
    config = config_io.build(TrainConfig, {"model": model, "data": data})
    step = loader.step_at(0, open_buckets(config), config)
    state = jax.eval_shape(lambda: init_state(config, init_params(config)))
    static = {"task": step.task, "num_loops": step.num_loops}
    compiled = make_train_step(config).lower(state, step.batch, **static).compile()
    if kind == "looped":
        width = step.batch.problem.shape[1]
    else:
        width = step.batch.tokens.shape[1] - 1
    counted = compiled.cost_analysis()["flops"]
    assert 1 < counted / flops.step_flops(config, 64, width) < 1.1


@pytest.mark.parametrize("kind", ("looped", "decoder"))
def test_the_operations_of_a_run_are_those_of_its_steps(kind):
    """If all problems of a bucket have one length, batches have the maximal width."""
    options = {"group": 5, "smallest": 41, "number_range": 99}
    whole = {"task": "lis", "lengths": (20, 20), "options": options}
    buckets = {"whole": whole | {"weight": 3.0}}
    if kind == "looped":
        buckets["drawn"] = whole | {"sampled_rounds": 2}
    model = {"kind": kind, "input_injection": "feedback", "num_numbers": 256}
    data = {"batch_size": 4, "buckets": buckets}
    values = {"model": model, "data": data, "num_steps": 100}
    config = config_io.build(TrainConfig, values)
    opened, seen = open_buckets(config), {}
    for step in range(20):
        now = loader.step_at(step, opened, config)
        seen[now.num_loops] = step_workload(config, now.batch, now.num_loops).flops
    if kind == "looped":
        assert flops.run_flops(config) == 75 * seen[4] + 25 * seen[2]
    else:
        assert flops.run_flops(config) == pytest.approx(100 * seen[4], rel=0.1)

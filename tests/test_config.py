"""Configs: conversion to dicts and back, and error messages."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Literal

import pytest

from relay_jax.config import (
    BucketConfig,
    ChainsConfig,
    DraftConfig,
    ModelConfig,
    PositionConfig,
    RelayConfig,
    TrainConfig,
    resolve,
)
from relay_jax.config_io import build, to_dict


def other_values(hint, default):
    """Values of a type that differ from the default; every choice of a literal."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return [changed for _, changed in variants(hint)]
    if origin is Literal:
        return list(arguments)
    if origin is tuple and arguments[-1] is ...:
        return [(7, 8, 9)]
    if origin is tuple:
        return [tuple(other_values(a, 0)[0] + i for i, a in enumerate(arguments))]
    if origin is Mapping:
        return [{"some": value} for value in other_values(arguments[1], None)]
    simple = {bool: not default, int: 7, float: 0.125, str: "text"}
    return [simple[hint]] if hint in simple else [1, "text", [1, {"a": None}]]


def variants(cls):
    """(field, an instance in which it has another value) for every field and value."""
    hints = typing.get_type_hints(cls)
    required = {
        field.name: other_values(hints[field.name], None)[0]
        for field in dataclasses.fields(cls)
        if field.default is field.default_factory is dataclasses.MISSING
    }
    for field in dataclasses.fields(cls):
        for value in other_values(hints[field.name], field.default):
            yield field.name, cls(**required | {field.name: value})


@pytest.mark.parametrize("cls", [TrainConfig, ChainsConfig, RelayConfig, DraftConfig])
def test_every_field_survives_a_round_trip_through_json(cls):
    seen = set()
    for name, config in variants(cls):
        seen.add(name)
        text = json.dumps(to_dict(config))
        assert build(cls, json.loads(text)) == config
    assert seen == {field.name for field in dataclasses.fields(cls)}


def test_an_empty_mapping_is_the_paper():
    assert build(TrainConfig, {}) == TrainConfig()
    model = TrainConfig().model
    assert (model.num_layers, model.dim, model.num_heads) == (3, 256, 4)
    assert (model.position.scheme, model.dropout, model.input_injection) == (
        *("rope", 0.1, "hidden"),
    )
    optimizer, loss = TrainConfig().optimizer, TrainConfig().loss
    assert (optimizer.learning_rate, optimizer.weight_decay) == (5e-4, 0.01)
    assert optimizer.warmup_share == 0.01 and TrainConfig().data.batch_size == 512
    assert loss.answer_weight == loss.round_weight == 1.0


def test_models_can_be_static_arguments():
    assert hash(build(ModelConfig, {"dim": 8})) == hash(ModelConfig(dim=8))


def test_nested_mappings_become_dataclasses():
    values = {
        "model": {"position": {"scheme": "relative_bias", "rope_base": 10}},
        "data": {"buckets": {"a": {"task": "lis", "lengths": [1, 3]}}},
        "loss": {"task_weights": {"lis": 5}},
    }
    config = build(TrainConfig, values)
    assert config.model.position == PositionConfig("relative_bias", 10.0)
    assert type(config.model.position.rope_base) is float
    assert config.data.buckets == {"a": BucketConfig("lis", (1, 3))}
    assert config.loss.task_weights == {"lis": 5.0}
    assert build(TrainConfig, {"model": ModelConfig(dim=8)}).model.dim == 8


def bucket(**values):
    return {"data": {"buckets": {"b": {"task": "lis", "lengths": (1, 2), **values}}}}


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"optimizer": {"lr": 1.0}},
            (
                "unknown key config.optimizer.lr; valid keys: average_share, b2, "
                "clip_norm, constant_share, kind, learning_rate, warmup_share, "
                "weight_decay"
            ),
        ),
        (
            bucket(length=3),
            (
                "unknown key config.data.buckets.b.length; valid keys: kind, lengths, "
                "max_rounds, options, path, sampled_rounds, start_share, task, weight"
            ),
        ),
        (
            {"num_steps": "10"},
            "config.num_steps must be a value of type int, got '10'",
        ),
        (
            {"num_steps": 10.0},
            "config.num_steps must be a value of type int, got 10.0",
        ),
        ({"seed": True}, "config.seed must be a value of type int, got True"),
        (
            {"optimizer": {"b2": None}},
            "config.optimizer.b2 must be a value of type float, got None",
        ),
        (
            {"optimizer": {"b2": False}},
            "config.optimizer.b2 must be a value of type float, got False",
        ),
        (
            {"model": {"remat": 1}},
            "config.model.remat must be a value of type bool, got 1",
        ),
        ({"name": 3}, "config.name must be a value of type str, got 3"),
        (
            {"model": {"input_injection": "memory"}},
            (
                "config.model.input_injection must be one of 'hidden', 'feedback', "
                "got 'memory'"
            ),
        ),
        (
            {"model": {"position": {"scheme": ["rope"]}}},
            (
                "config.model.position.scheme must be one of 'rope', 'relative_bias', "
                "got ['rope']"
            ),
        ),
        ({"model": 3}, "config.model must be a mapping, got 3"),
        (
            {"model": PositionConfig()},
            f"config.model must be a mapping, got {PositionConfig()!r}",
        ),
        (
            {"data": {"buckets": [1]}},
            "config.data.buckets must be a mapping, got [1]",
        ),
        (
            {"loss": {"task_weights": {"lis": "1"}}},
            "config.loss.task_weights.lis must be a value of type float, got '1'",
        ),
        (
            bucket(lengths=[1, 2, 3]),
            "config.data.buckets.b.lengths must be 2 values, got [1, 2, 3]",
        ),
        (
            bucket(lengths=4),
            "config.data.buckets.b.lengths must be 2 values, got 4",
        ),
        (
            bucket(lengths=(1, 2.5)),
            "config.data.buckets.b.lengths[1] must be a value of type int, got 2.5",
        ),
    ],
)
def test_messages(values, message):
    with pytest.raises(ValueError) as error:
        build(TrainConfig, values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "config.store_weights must be a list, got 3"),
        ([1, "2"], "config.store_weights[1] must be a value of type int, got '2'"),
    ],
)
def test_messages_of_lists(value, message):
    with pytest.raises(ValueError) as error:
        build(DraftConfig, {"store_weights": value})
    assert str(error.value) == message


def test_a_missing_key_is_named():
    with pytest.raises(ValueError) as error:
        build(TrainConfig, {"data": {"buckets": {"b": {"lengths": [1, 2]}}}})
    assert str(error.value) == (
        "config.data.buckets.b.task is missing; it has no default"
    )


def test_resolve_is_beside_the_run_unless_absolute():
    assert str(resolve("ar", "/runs/looped")) == "/runs/ar"
    assert str(resolve("/other/ar", "/runs/looped")) == "/other/ar"


def test_trained_lengths_are_those_of_all_buckets_but_chains():
    def run(*buckets):
        names = ("task", "lengths", "kind")
        named = {str(i): dict(zip(names, bucket)) for i, bucket in enumerate(buckets)}
        return {"data": {"buckets": named}}

    long, short = ("lis", (5, 20), "synthetic"), ("lis", (1, 3), "tfds")
    chains, other = ("lis", (21, 40), "chains"), ("arithmetic", (2, 4), "synthetic")
    runs = {"a": run(long, other), "b": run(long, chains, short)}
    config = build(RelayConfig, {"runs": runs, "chains": {}})
    assert config.trained_lengths == {"lis": (1, 20), "arithmetic": (2, 4)}

"""Shared compiled steps: a train step is a pure function of its config and shardings."""

import jax
import pytest

from relay_jax.training import loop

TRAIN_STEPS = {}


@pytest.fixture(autouse=True)
def shared_train_steps(monkeypatch):
    """Runs that differ only in their directory, data or logging compile one step."""
    make = loop.make_train_step

    def make_shared(config, shardings=None):
        parts = config.model, config.optimizer, config.loss, config.data.accumulate
        leaves, tree = jax.tree.flatten(shardings)
        key = repr((parts, config.seed, config.num_steps)), str(tree), tuple(leaves)
        if key not in TRAIN_STEPS:
            TRAIN_STEPS[key] = make(config, shardings)
        return TRAIN_STEPS[key]

    monkeypatch.setattr(loop, "make_train_step", make_shared)

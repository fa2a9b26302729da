"""Strict by default: warnings are errors (pyproject.toml), eight virtual devices, no
implicit rank promotion, and every jaxtyping annotation of relay_jax is checked."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

# Here compiling takes longer than running, in the processes that tests start too. XLA's
# new code for fused operations takes it four times as long as the old one.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
options = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later: no such flag
    options += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join(options)
# What one process has compiled, the others of this run need not: scripts, workers.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
os.environ["JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
os.environ["JAX_PERSISTENT_COMPILATION_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jaxtyping
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jaxtyping.install_import_hook("relay_jax", "beartype.beartype")


@pytest.fixture
def expensive_steps(monkeypatch):
    """Two tree sizes, fewer to compile, and 1 + C seconds a step: no draft can pay."""
    from relay_jax.decoding import tree_size
    from relay_jax.rest import autotune

    def time_steps(params, state, drafter, *_):
        return {autotune.DRAFTING: 0.01} | {c: 1.0 + c for c in drafter.sizes}

    monkeypatch.setattr(tree_size, "SIZES", (0, 4))
    monkeypatch.setattr(autotune, "_time_steps", time_steps)


@pytest.fixture
def memories():
    """The rule of `Scratchpad`, cell by cell: the memory before and after each loop."""

    def run(space, rounds):
        copy_from, constants = np.array(space.copy_from), np.array(space.constants)
        seen = [np.array(space.initial)]
        for t, predicted in enumerate(np.array(rounds)):
            memory = seen[-1].copy()
            for b, j in np.ndindex(*memory.shape):
                if constants[t, b, j] != -1:
                    memory[b, j] = constants[t, b, j]
                elif copy_from[t, b, j] != -1:
                    memory[b, j] = predicted[b, copy_from[t, b, j]]
            seen.append(memory)
        return seen

    return run

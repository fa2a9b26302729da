"""Random keys and draws that do not depend on JAX's process-wide settings.

Drafts change no sampled text because the noise of a token is a function of the request's
key and the token's position alone (`decoding.verify`). That holds for threefry keys. It
does not for those of `JAX_DEFAULT_PRNG_IMPL=rbg`, which are faster on a TPU: under
`jax.vmap` their noise depends on the batch and on how many positions are drawn at once.
So every key here is made by `make_key`, whatever the default is, and a run gives the
same results under either.
"""

import contextlib
import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Key
from relay_jax.config import MAX_SEED

KEY_IMPL = "threefry2x32"


def make_key(seed: int) -> Key[Array, ""]:
    """The key `jax.random.key(seed)` of JAX's default settings.

    Raises:
      ValueError: the seed is not 0..MAX_SEED.
    """
    seed = operator.index(seed)
    check_seed(seed)
    key_data = jnp.array([0, seed], jnp.uint32)
    return jax.random.wrap_key_data(key_data, impl=KEY_IMPL)


def check_seed(seed: int) -> None:
    """Raises ValueError if a seed is not 0..MAX_SEED."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be 0..{MAX_SEED}, got {seed}")


def check_keys(keys: Key[Array, "*b"]) -> None:
    """Raises ValueError if keys are of another implementation than `make_key`'s."""
    found = str(jax.random.key_impl(keys))
    if found != KEY_IMPL:
        raise ValueError(
            f"the keys of requests must be {KEY_IMPL} keys, got {found} keys, whose "
            "noise depends on the batch; make them with decode.request_keys(seed, count)"
        )


@contextlib.contextmanager
def standard_settings() -> Iterator[None]:
    """A context, or decorator, in which JAX-wide settings that change numbers are off.

    Numbers have 32 bits, types are promoted as usual, and random draws are those of
    JAX's default, whatever a user has set for the process (`docs/exactness.md`).
    """
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.threefry_partitionable(True),
    ):
        yield

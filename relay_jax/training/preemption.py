"""When a run stops or saves: asked for by a signal or the clock, agreed on by all.

A signal may reach one process of several, and clocks differ; but a checkpoint is written
by all of them, at the same step.
"""

import signal
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from relay_jax.models.sharding import AXES

VOTE_STEPS = 4


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


class stop_requested:
    """While open, SIGTERM and SIGINT only leave a note; a second one acts as usual."""

    def __enter__(self) -> Callable[[], bool]:
        self.asked = False
        self.before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._note)
        return lambda: self.asked

    def _note(self, number, frame):
        self.asked = True
        signal.signal(number, self.before[number])

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Vote:
    """What any process wishes, all are told at the same step.

    One process is told its own wishes at once. Several put theirs together on the
    devices every `VOTE_STEPS` steps and read the result at the next vote, when it has
    long been there: nobody waits for the device.
    """

    def __init__(self, mesh: Mesh):
        self.mesh, self.cast = mesh, None
        whole = NamedSharding(mesh, P())
        self.any = jax.jit(lambda votes: votes.any(axis=0), out_shardings=whole)

    def __call__(self, step: int, *wishes: bool) -> tuple[bool, ...]:
        """The wishes that count after a step; one that is granted may be put again."""
        if jax.process_count() == 1:
            return wishes
        granted = np.zeros(len(wishes), bool)
        if step % VOTE_STEPS == 0:
            granted = granted if self.cast is None else np.asarray(self.cast)
            self.cast = None if granted.any() else self._put(wishes)
        return tuple(granted.tolist())

    def now(self, *wishes: bool) -> tuple[bool, ...]:
        """The same, waiting for all."""
        if jax.process_count() == 1:
            return wishes
        return tuple(np.asarray(self._put(wishes)).tolist())

    def _put(self, wishes):
        mine = np.tile(np.array(wishes), (len(self.mesh.local_devices), 1))
        by_device = NamedSharding(self.mesh, P(AXES))
        shape = self.mesh.size, len(wishes)
        return self.any(jax.make_array_from_process_local_data(by_device, mine, shape))

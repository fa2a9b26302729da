"""Preemption: all processes of a run agree on the step at which they save or stop.

A signal may reach only one of several processes, and their clocks differ; but a
checkpoint is written by all processes, at the same step.
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
    """The run was asked to stop; its state has been saved."""


class stop_requested:
    """A context that records SIGTERM and SIGINT; a second signal has its usual effect.

    Its value is a function that returns whether a signal has arrived.
    """

    def __enter__(self) -> Callable[[], bool]:
        self.is_requested = False
        self.handlers = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            self.handlers[number] = signal.signal(number, self._note)
        return lambda: self.is_requested

    def _note(self, number, frame):
        self.is_requested = True
        signal.signal(number, self.handlers[number])

    def __exit__(self, *_):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


class Vote:
    """Agreement of all processes, at the same step, on what any of them requests.

    Requests of a single process are granted at once. Several processes combine theirs
    on the devices every `VOTE_STEPS` steps and read the result at the next vote, when
    it has long been computed, so that no process waits for the device.
    """

    def __init__(self, mesh: Mesh):
        self.mesh, self.pending = mesh, None
        replicated = NamedSharding(mesh, P())
        self.any = jax.jit(lambda votes: votes.any(axis=0), out_shardings=replicated)

    def __call__(self, step: int, *requests: bool) -> tuple[bool, ...]:
        """Which requests are granted after a step; a granted one may be made again."""
        if jax.process_count() == 1:
            return requests
        granted = np.zeros(len(requests), bool)
        if step % VOTE_STEPS == 0:
            granted = granted if self.pending is None else np.asarray(self.pending)
            self.pending = None if granted.any() else self._combine(requests)
        return tuple(granted.tolist())

    def now(self, *requests: bool) -> tuple[bool, ...]:
        """What any process requests now; waits for all processes."""
        if jax.process_count() == 1:
            return requests
        return tuple(np.asarray(self._combine(requests)).tolist())

    def _combine(self, requests):
        local = np.tile(np.array(requests), (len(self.mesh.local_devices), 1))
        by_device = NamedSharding(self.mesh, P(AXES))
        shape = self.mesh.size, len(requests)
        return self.any(jax.make_array_from_process_local_data(by_device, local, shape))

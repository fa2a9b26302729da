"""relay_jax: loop-aligned reasoning (RELAY) and retrieval drafting (REST) in JAX.

A **task** writes out rounds. A **looped model** says one round per iteration.
A **drafter** guesses a tree. A **verifier** keeps the branch the model would have said.
"""

__version__ = "0.1.0"

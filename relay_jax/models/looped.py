"""The looped Transformer: one block applied T times with shared parameters.

Loop t is trained to say round t of the chain, right-aligned (RELAY section 3). What a
loop is given is `config.input_injection`:

    hidden     e_t = block(e_{t-1}),  e_0 = embed(problem)              the paper
    problem    e_t = block(e_{t-1} + embed(problem))
    feedback   e_t = block(embed(memory_t) [+ embed(problem)] + embed(marks_t)):
               the round just said goes through the task's `Scratchpad` into the memory;
               no hidden state passes from loop to loop

Parameters do not depend on T, and the first T of T' > T loops are the T loops.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Bool, Float, Int, Key, PyTree, Scratchpad
from relay_jax.config import ModelConfig
from relay_jax.models.embeddings import Embedding
from relay_jax.models.feedback import (
    ValueOffset,
    before,
    match_rank,
    move,
    read_round,
    write_memory,
)
from relay_jax.models.layers import (
    MASK_VALUE,
    REMAT_POLICY,
    Layer,
    make_norm,
)
from relay_jax.models.sharding import constrain
from relay_jax.tasks.task import Task
from relay_jax.vocabulary import FIRST_NUMBER, PAD

NUM_MARKS = 32  # pointers of a scratchpad that have a vector, and 0: no pointer


class TeacherForcing(NamedTuple):
    """The true rounds, and where they replace what the model said in the feedback."""

    rounds: Int[AnyArray, "t b r"]
    forced: Bool[AnyArray, "t b"]


class LoopedOutput(NamedTuple):
    """What the model says, loop by loop. Loops past an example's own T say nothing."""

    rounds: Int[Array, "t b r"]  # most likely tokens, in the last r columns
    confidence: Float[Array, "t b r"]  # their probabilities
    round_logits: Float[Array, "t b r v"] | None  # kept in training only
    answer_logits: Float[Array, "b v"]  # after the example's own last loop


class State(NamedTuple):
    """The carry of the scan over loops; a part that is not in use is empty."""

    hidden: Float[Array, "b n d"] | None  # e_t
    memory: Int[Array, "b n"] | None  # tokens in the scratchpad's memory
    vectors: Float[Array, "b n d"] | None  # soft feedback: the memory, embedded


class LoopedModel(nn.Module):
    """See the file's docstring. `RELAY` and `vanilla looped` differ in their loss only."""

    config: ModelConfig

    def setup(self):
        config = self.config
        self.layers = [
            Layer(config, name=f"layer_{i}") for i in range(config.num_layers)
        ]
        self.norm = make_norm(config, "norm")
        self.problem_words = Embedding(config)
        self.round_head = Embedding(config, output=True)
        self.answer_head = Embedding(config, output=True)
        if config.input_injection == "feedback":
            self.memory_words = Embedding(config)
            normal = nn.initializers.normal(1.0)
            self.marks = self.param("marks", normal, (2, NUM_MARKS, config.dim))
            if config.differences:
                size = 2 * config.max_difference + 1
                self.difference_words = self.param(
                    "difference_words", normal, (size, config.dim)
                )
                self.round_difference = nn.Dense(size, use_bias=False)
                self.answer_difference = nn.Dense(size, use_bias=False)

    def __call__(
        self,
        problem: Int[AnyArray, "b n"],
        scratchpad: Scratchpad | None,
        num_rounds: Int[AnyArray, " b"],
        *,
        num_loops: int,
        teacher: TeacherForcing | None = None,
        train: bool = False,
        keep_logits: bool = False,
        columns: int = 0,
    ) -> LoopedOutput:
        """Runs `num_loops` loops; each example's answer is read after its own T.

        Args:
          problem: right-aligned problem tokens.
          scratchpad: the task's memory and pointers; used with `input_injection="feedback"`.
          num_rounds: T of each example, at most `num_loops`.
          teacher: true rounds to feed back; without one the model hears itself.
          train: whether dropout is on (needs the `dropout` key).
          keep_logits: whether to return `round_logits`.
          columns: r; rounds are said in so many columns, the last ones. 0: in all.
        """
        per_loop = (
            (scratchpad.copy_from, scratchpad.constants, scratchpad.pointers)
            if scratchpad
            else None
        )
        per_loop = (per_loop, teacher)

        def loop(self, state, inputs):
            said = keep_logits, columns
            return self._loop(state, problem, scratchpad, inputs, train, *said)

        if self.config.remat and num_loops > 1:  # one loop has nothing to free
            loop = nn.remat(loop, prevent_cse=False, policy=REMAT_POLICY)
        scan = nn.scan(
            loop,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            length=num_loops,
        )
        _, (rounds, confidence, logits, last) = scan(
            self, self._start(problem, scratchpad), per_loop
        )
        # e_T of each example, at the last position: where every answer stands.
        own = jnp.maximum(num_rounds - 1, 0)[None, :]
        last = jax.tree.map(
            lambda x: jnp.take_along_axis(x, match_rank(own, x), axis=0)[0][:, None],
            last,
        )
        answer = self._say(*last, answer=True)[:, 0]
        return LoopedOutput(rounds, confidence, logits, answer)

    def _start(self, problem, scratchpad) -> State:
        if self.config.input_injection != "feedback":
            return State(_embed(problem, self.problem_words()), None, None)
        memory = scratchpad.initial
        soft = self.config.feedback == "soft"
        vectors = _embed(memory, self.memory_words()) if soft else None
        return State(None, memory, vectors)

    def _loop(self, state, problem, scratchpad, inputs, train, keep_logits, columns):
        """One loop: state -> (next state, what it says)."""
        config = self.config
        indices, teacher = inputs
        seen = problem != PAD
        reference = None
        if config.input_injection == "feedback":
            x, seen, reference = self._read(state, problem, scratchpad, indices[2])
        else:
            x = state.hidden
            if config.input_injection == "problem":
                x += _embed(problem, self.problem_words())

        positions = jnp.arange(problem.shape[1])[None]
        mask = jnp.broadcast_to(seen[:, None], (*problem.shape, problem.shape[1]))
        x = constrain(x, "batch", None, None)
        for layer in self.layers:
            x, _ = layer(x, positions, mask, train=train)
        hidden = self.norm(x)
        logits = self._say(
            *jax.tree.map(lambda x: x[:, -columns:], (hidden, reference))
        )
        said = jnp.argmax(logits, axis=-1)
        confidence = jnp.exp(jnp.max(jax.nn.log_softmax(logits), axis=-1))

        if config.input_injection == "feedback":
            state = self._write(state, said, logits, indices[:2], teacher)
        else:
            state = State(hidden, None, None)
        kept = logits if keep_logits else None
        last = jax.tree.map(lambda x: x[:, -1], (hidden, reference))
        return state, (said, confidence, kept, last)

    def _say(self, hidden, reference, answer=False):
        """Logits of a head; numbers are relative to `reference` where there is one."""
        head = self.answer_head if answer else self.round_head
        logits = (hidden @ head().T).astype(jnp.float32)
        if reference is None:
            return logits
        number, known = reference
        limit = self.config.max_difference
        differ = self.answer_difference if answer else self.round_difference
        steps = differ(hidden).astype(jnp.float32)
        offset = jnp.arange(self.config.num_numbers)[None, None] - number[..., None]
        index = jnp.clip(offset + limit, 0, 2 * limit)
        relative = jnp.take_along_axis(steps, index, axis=-1)
        relative = jnp.where(jnp.abs(offset) <= limit, relative, MASK_VALUE)
        words, numbers = jnp.split(logits, [FIRST_NUMBER], axis=-1)
        numbers = jnp.where(known[..., None], relative, numbers)
        return jnp.concatenate([words, numbers], axis=-1)

    def _read(self, state, problem, scratchpad, marks):
        """The loop's input from the memory, and which of its positions can be seen."""
        reference = None
        if state.vectors is not None:
            x = state.vectors
        else:
            x = _embed(state.memory, self.memory_words())
        if self.config.differences and scratchpad.has_differences:
            reference = _reference(state.memory)
            x = self._embed_differences(x, state.memory, reference)
        held = state.memory != PAD
        # The boundary pad is seen too: where nothing else fits, heads can look there.
        seen = held | jnp.pad(held[:, 1:], ((0, 0), (0, 1)))
        x = jnp.where(seen[..., None], x, 0.0)
        if scratchpad.shows_problem:
            x += _embed(problem, self.problem_words())
            seen |= problem != PAD
        one_hot = jax.nn.one_hot(marks, self.marks.shape[1])
        one_hot = jnp.where(marks[..., None] > 0, one_hot, 0.0)
        return x + jnp.einsum("bnck,ckd->bnd", one_hot, self.marks), seen, reference

    def _embed_differences(self, x, memory, reference):
        """Replaces a memory number's vector by that of its step from its left."""
        number, known = reference
        limit = self.config.max_difference
        left = jnp.pad(number[:, :-1], ((0, 0), (1, 0)))
        left_known = jnp.pad(known[:, :-1], ((0, 0), (1, 0)))
        step = jnp.clip(number - left, -limit, limit) + limit
        vector = _embed(step, self.difference_words)
        vector = jnp.where(left_known[..., None], vector, 0.0)
        return jnp.where((memory >= FIRST_NUMBER)[..., None], vector, x)

    def _write(self, state, said, logits, indices, teacher) -> State:
        """What was said, or the teacher's round instead, goes into the memory."""
        source, given = indices
        read = read_round(said)
        forced = jnp.zeros(len(said), bool)
        if teacher is not None:
            forced = teacher.forced
            read = jnp.where(forced[:, None], teacher.rounds, read)
        memory = write_memory(state.memory, read, source, given)
        if state.vectors is None:
            return State(None, memory, None)
        table = self.memory_words()
        share = jnp.where(forced[:, None, None], 0.0, jax.nn.softmax(logits))
        exact = _embed(read, table)
        vectors = jnp.where(forced[:, None, None], exact, share @ table)
        written = _embed(jnp.maximum(given, 0), table)
        return State(None, memory, move(vectors, state.vectors, written, source, given))


def run_looped(
    params: PyTree,
    problem: Int[AnyArray, "b n"],
    num_rounds: Int[AnyArray, " b"],
    *,
    task: Task,
    num_loops: int,
    model: ModelConfig,
    teacher: TeacherForcing | None = None,
    shift: ValueOffset | None = None,
    key: Key[Array, ""] | None = None,
    columns: int = 0,
    drawn: Int[Array, "b k"] | None = None,
) -> LoopedOutput:
    """Applies the looped model; with a key it trains (dropout on, logits kept).

    Args:
      shift: is added to the numbers that the scratchpad starts from.
      columns: r, see `LoopedModel`.
      drawn: rounds that are run alone (with feedback), each after the teacher's rounds
        before it: the result is that of b * k chains of one loop each.
    """
    feedback = model.input_injection == "feedback"
    scratchpad = task.scratchpad(jnp.asarray(problem), num_loops) if feedback else None
    if scratchpad is not None and shift is not None:
        scratchpad = scratchpad._replace(
            initial=shift.apply(scratchpad.initial),
            constants=shift.apply(scratchpad.constants),
        )
    if drawn is not None and scratchpad is not None and teacher is not None:
        scratchpad = before(scratchpad, teacher.rounds, drawn)
        problem = jnp.repeat(jnp.asarray(problem), drawn.shape[1], axis=0)
        num_rounds, num_loops, teacher = jnp.ones(len(problem), jnp.int32), 1, None
    return LoopedModel(model).apply(  # type: ignore[return-value]
        {"params": params},
        problem,
        scratchpad,
        num_rounds,
        num_loops=num_loops,
        teacher=teacher if feedback else None,
        train=key is not None,
        keep_logits=key is not None,
        columns=columns,
        rngs=None if key is None else {"dropout": key},
    )


def _embed(ids, table):
    """Rows of a table, in float32 as all that the loops carry, by a one-hot product:
    its gradient is a matrix product too."""
    one_hot = jax.nn.one_hot(ids, table.shape[0], dtype=table.dtype)
    return (one_hot @ table).astype(jnp.float32)


def _reference(memory):
    """The number at each place, or else the nearest one on its left; whether any."""
    place = jnp.where(memory >= FIRST_NUMBER, jnp.arange(memory.shape[1])[None], -1)
    place = jax.lax.cummax(place, axis=1)
    number = jnp.take_along_axis(memory, jnp.maximum(place, 0), axis=1)
    return number - FIRST_NUMBER, place >= 0

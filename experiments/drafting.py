"""The flags of every script that drafts: which drafter, from which store, how much."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from experiments import devices
from relay_jax.base import Host, Int, PyTree
from relay_jax.config import DraftConfig
from relay_jax.decoding import decode
from relay_jax.rest import autotune, drafters, step_times
from relay_jax.rest import index as indexes
from relay_jax.rest.datastore import Datastore, open_datastore
from relay_jax.rest.index import AnyIndex, HostIndex
from relay_jax.tokenizers import Tokenizer

_DATASTORE = flags.DEFINE_string("datastore", "", "A datastore's directory.")
# A guess is another script's: experiments/foretell.py.
NAMES = [
    n for n, kind in drafters.DRAFTERS.items() if kind.index != drafters.LOOPED_DRAFT
]
_DRAFTER = flags.DEFINE_enum("drafter", "rest", NAMES, "Who drafts.")
NUM_DRAFT = flags.DEFINE_string(
    "num_draft",
    "auto",
    "Nodes of the draft tree; auto: what pays here, as measured (none if none does). "
    f"rest_generate measures on the first {autotune.PROBE} tokens, which it writes "
    "plainly: with auto, a shorter text is never drafted.",
)
_DEPTH = flags.DEFINE_integer("draft_depth", 10, "Depth of the draft tree.", 1)
INDEXES = {
    "device": indexes.load_index,
    "mesh": lambda store: indexes.load_index(store, devices.mesh(everywhere=True)),
    "host": HostIndex,
}
_INDEX = flags.DEFINE_enum(
    "index",
    "device",
    list(INDEXES),
    "Where the datastore is searched: on the first device, spread over all devices "
    "(shard by shard: build it with as many or more), or in its files, on the host (of "
    "which a few blocks are checked, unless --verify_datastore).",
)
_VERIFY = flags.DEFINE_bool("verify_datastore", False, "Check every byte of the store.")
_TIMES = flags.DEFINE_string(
    "tree_size_cache", "", "Where step times are kept; default: in ~/.cache/relay_jax."
)


def from_flags(
    tokenizer: Tokenizer | None = None, names: Sequence[str] = ()
) -> tuple[list[DraftConfig], Datastore | None]:
    """Draft configs and the opened store, None where none is needed; no index is loaded.

    One config for each drafter and each number of --num_draft; `autotune.AUTOTUNE` stands
    for auto.

    Args:
      tokenizer: what the store must be of, if there is a model.
      names: the drafters; by default the one that --drafter names.

    Raises:
      ValueError: a drafter is unknown; the store is missing, damaged, or another's.
    """
    drafts = []
    for name, count in itertools.product(names or [_DRAFTER.value], read_sizes()):
        size = {"num_draft": count, "depth": _DEPTH.value}
        made = DraftConfig(drafter=name, **size)
        drafts.append(drafters.PLAIN if name == "none" else made)
    used = {draft.drafter for draft in drafts}
    if not _DATASTORE.value and used & set(drafters.NEEDS_DATASTORE):
        raise ValueError(
            f"--datastore is missing: {' and '.join(drafters.NEEDS_DATASTORE)} need one; "
            "--drafter=mixed and --drafter=prompt_lookup work without"
        )
    looked_into = {drafters.DRAFTERS[name].index for name in used}
    is_open = _DATASTORE.value and drafters.DATASTORE in looked_into
    store = _open_store(tokenizer) if is_open else None
    for draft in drafts:
        is_auto = draft.num_draft == autotune.AUTOTUNE
        resized = autotune.resize(draft, 1) if is_auto else draft
        drafters.check(resized, store)
    return drafts, store


def _open_store(tokenizer: Tokenizer | None) -> Datastore:
    store = open_datastore(_DATASTORE.value, tokenizer=tokenizer, verify=_VERIFY.value)
    if tokenizer and not store.tokenizer:
        print(
            f"{store.path} does not tell its tokenizer (build_datastore: --tokenizer "
            "or --tokenizer_identity); its words are taken to be the model's",
            file=sys.stderr,
        )
    return store


def load_index(store: Datastore | None) -> AnyIndex | None:
    """The index of a store, where --index says. Large: last, after all that can fail.

    Raises:
      ValueError: a file of the store is damaged; no process may search for all.
    """
    if store and jax.process_count() > 1 and _INDEX.value != "mesh":
        raise ValueError(
            f"--index={_INDEX.value} is searched by one process; several of them search "
            "together with --index=mesh"
        )
    return INDEXES[_INDEX.value](store) if store else None


def read_sizes() -> list[int]:
    """The numbers of --num_draft. Raises ValueError where it holds something else."""
    parts = [part.strip() for part in NUM_DRAFT.value.split(",")]
    if not all(part == "auto" or part.isdecimal() for part in parts):
        raise ValueError(
            "--num_draft must be auto or whole numbers with commas, got "
            f"{NUM_DRAFT.value!r}"
        )
    return [autotune.AUTOTUNE if part == "auto" else int(part) for part in parts]


def one(drafts: list[DraftConfig]) -> DraftConfig:
    """The only draft config. Raises ValueError at several sizes."""
    if len(drafts) > 1:
        raise ValueError(f"--num_draft takes one size here, got {NUM_DRAFT.value!r}")
    return drafts[0]


def choose(params, state, index, draft: DraftConfig, settings: dict[str, Any]):
    """The tree size that pays, if it is open: the state after the probe, a `TunedDraft` and
    the draft config; the `TunedDraft` is None where the size was given."""
    if draft.num_draft != autotune.AUTOTUNE:
        return state, None, draft
    state, fit = autotune.autotune(
        params, state, index, draft=draft, cache_file=cache_file(), **settings
    )
    print(fit.summary(), file=sys.stderr)
    return state, fit, fit.draft


def watch(
    params: PyTree,
    state: decode.DecodeState,
    index: Any,
    draft: DraftConfig,
    fit: autotune.TunedDraft | None,
    num_steps: int,
    settings: dict[str, Any],
) -> Iterator[decode.DecodeState]:
    """Decodes to the end; the state at first, and after every `num_steps` steps.

    A state that was looked at is gone when the next one is asked for. Where drafts do
    not pay any more, by `fit`, it goes on without.

    Args:
      settings: what `decode.advance` takes besides.
    """
    yield state
    while not bool(state.done.all()):
        before = _progress(state)
        state = decode.advance(
            *(params, state, drafters.make_drafter(draft)),
            index if draft.num_draft else None,
            num_steps=num_steps,
            **settings,
        )
        yield state
        if fit and draft.num_draft and not fit.pays(*(_progress(state) - before)):
            draft = drafters.PLAIN
            print("drafts do not pay any more: going on plainly", file=sys.stderr)


def _progress(state: decode.DecodeState) -> Int[Host, "2"]:
    """Tokens and steps of all rows so far."""
    return np.array([int(state.length.sum()), int(state.steps.sum())])


def cache_file() -> epath.Path:
    """Where measured step times are kept."""
    return epath.Path(_TIMES.value or step_times.default_file())

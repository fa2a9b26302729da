"""The flags of every script that drafts: which drafter, from which store, how much."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from relay_jax.config import DraftConfig
from relay_jax.rest import drafters
from relay_jax.rest.datastore import Datastore, open_datastore
from relay_jax.rest.retrieve import HostIndex, load_index

_DATASTORE = flags.DEFINE_string("datastore", "", "A datastore's directory.")
_DRAFTER = flags.DEFINE_enum("drafter", "rest", list(drafters.DRAFTERS), "Who drafts.")
_NUM_DRAFT = flags.DEFINE_integer("num_draft", 64, "Nodes of the draft tree.", 0)
_DEPTH = flags.DEFINE_integer("draft_depth", 10, "Depth of the draft tree.", 1)
_INDEX = flags.DEFINE_enum(
    "index", "device", ["device", "host"], "Where the datastore is searched."
)
_VERIFY = flags.DEFINE_bool("verify_datastore", False, "Check every byte of the store.")


def from_flags(
    tokenizer: str = "", names: Sequence[str] = ()
) -> tuple[list[DraftConfig], Datastore | None, Any]:
    """Draft configs, the opened store and its index; None where none is needed.

    Args:
      tokenizer: identity of the tokenizer that the store must be of, if any.
      names: the drafters; by default the one that --drafter names.

    Raises:
      ValueError: a drafter is unknown; the store is missing, damaged, or another's.
    """
    drafts = [
        DraftConfig(drafter=name, num_draft=_NUM_DRAFT.value, depth=_DEPTH.value)
        for name in names or [_DRAFTER.value]
    ]
    store, index = None, None
    if any(draft.drafter in drafters.NEEDS_STORE for draft in drafts):
        if not _DATASTORE.value:
            raise ValueError(
                f"--datastore is missing: {' and '.join(drafters.NEEDS_STORE)} need one; "
                "--drafter=context drafts from the text alone"
            )
        store = open_datastore(
            _DATASTORE.value, tokenizer=tokenizer, verify=_VERIFY.value
        )
        index = load_index(store) if _INDEX.value == "device" else HostIndex(store)
    for draft in drafts:
        drafters.check(draft, index)
    return drafts, store, index

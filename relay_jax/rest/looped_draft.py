"""Drafts from a whole predicted text, and from the text's own past.

RELAY's looped model predicts a whole reasoning chain at once, which the decoder verifies
(`relay/looped_drafter.py`): it accepts many tokens per step, and its text is unchanged.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from relay_jax.base import AnyArray, Int
from relay_jax.config import DraftConfig
from relay_jax.decoding.draft_tree import DraftSequences, concatenate_sequences
from relay_jax.decoding.drafter import DecodedText
from relay_jax.rest import prompt_lookup, retrieval

NUM_ROWS = 4  # matches in the predicted text
WEIGHT_FACTOR = 32  # weight of such a match, relative to one in the text itself
KIND = "a looped draft"  # what the drafter `looped` needs, in messages


class LoopedDraft(NamedTuple):
    """The predicted text of each prompt, prompt included: the index of `looped`.

    The longest text has g tokens.
    """

    tokens: Int[AnyArray, "b g"]
    length: Int[AnyArray, " b"]

    kind = KIND

    @property
    def token_dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    def signature(self) -> dict[str, Any]:
        """What the time of a search depends on."""
        size = self.tokens.shape[1]
        return {"kind": "LoopedDraft", "tokens": 1 << (size - 1).bit_length()}


def propose(
    index: LoopedDraft, state: Any, text: DecodedText, config: DraftConfig
) -> DraftSequences:
    """Continuations of the predicted text where it matches the end of the actual text.

    The longest match comes first, then the position nearest to the text's own length: so
    after a wrong token, drafting resumes where the prediction agrees again.
    """
    query = retrieval.last_tokens(text.tokens, text.length)
    tokens, length = jnp.asarray(index.tokens), jnp.asarray(index.length)
    found = prompt_lookup.match_text(
        tokens, length, query, NUM_ROWS, config.depth, near=text.length
    )
    weights = (0, *(WEIGHT_FACTOR * w for w in config.text_weights))
    predicted = retrieval.weigh(found, weights, "looped")
    # Among equal matches the nearest counts most: the weight halves from row to row.
    weight = predicted.weight >> jnp.arange(NUM_ROWS)[None]
    past = prompt_lookup.propose(index, state, text, config)
    return concatenate_sequences((predicted._replace(weight=weight), past))

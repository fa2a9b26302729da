"""What matches are worth, counted place by place in plain Python."""

import collections

import numpy as np
import pytest

from relay_jax.config import DraftConfig
from relay_jax.rest import calibrate, drafters
from relay_jax.rest.build import build_datastore
from relay_jax.rest.index import load_index
from relay_jax.rest.replay import Target

DRAFT = DraftConfig(num_store_rows=6, num_text_rows=5, depth=4)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    phrases = rng.integers(2, 9, (5, 7))
    return [phrases[rng.integers(0, 5, 9)].ravel().astype(np.int32) for _ in range(8)]


@pytest.fixture(scope="module")
def store(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "store"
    words = {"tokenizer": "test", "vocab_size": 9, "eos_id": 1}
    return build_datastore(texts[4:], path, **words)


def ends_alike(corpus, place, text):
    """How many tokens before a place are those before the text's end; 16 at most."""
    length = 0
    while length < min(16, place, len(text)):
        if corpus[place - 1 - length] != text[len(text) - 1 - length]:
            break
        length += 1
    return length


def test_rows_are_counted_by_their_matches(texts, store):
    targets = [Target(texts[0], 50), Target(texts[1], 58)]
    counts = calibrate.count(targets, load_index(store), DRAFT)
    rows, right = np.zeros((2, 17), int), np.zeros((2, 17), int)
    places = 0
    for text, first in targets:
        for place in range(first, len(text)):
            places += 1
            so_far, truth = text[:place].tolist(), int(text[place])
            # Of the text itself: the longest matches, then the latest.
            found = [(ends_alike(so_far, p, so_far), p) for p in range(place)]
            for length, p in sorted(found, reverse=True)[: DRAFT.num_text_rows]:
                rows[1, length] += 1
                right[1, length] += so_far[p] == truth
    np.testing.assert_array_equal(counts.rows[1], rows[1])
    np.testing.assert_array_equal(counts.right[1], right[1])
    assert counts.places == places == 18
    # Of the datastore: rows around the query's place, of which one matches longest.
    assert counts.rows[0].sum() <= 6 * places
    longest = collections.Counter()
    corpus = store.shards[0].tokens.tolist()
    for text, first in targets:
        for place in range(first, len(text)):
            so_far = text[:place].tolist()
            every = range(1, len(corpus) + 1)
            longest[max(ends_alike(corpus, p, so_far) for p in every)] += 1
    top = max(longest)
    assert counts.rows[0, top] >= 1 and not np.any(counts.rows[0, top + 1 :])
    assert np.all(counts.right <= counts.rows)
    assert np.all(np.diff(counts.held) <= 0)
    assert counts.held[0] == counts.right.sum()


def test_weights_are_shares_by_the_number_of_rows():
    rows, right = np.zeros((2, 17), int), np.zeros((2, 17), int)
    rows[0, 1], right[0, 1] = 9996, 999  # a tenth; ten at a place
    rows[1, 2], right[1, 2] = 996, 899  # nine of ten; one at a place
    held = np.array([1000, 500, 250])
    made = calibrate.weigh(calibrate.Counts(rows, right, held, np.array(1000)))
    assert made["text_weights"][1] == calibrate.HEAVIEST
    assert made["store_weights"][0] == round(calibrate.HEAVIEST * 0.1 / 9.996 / 0.9)
    assert made["depth_decay"] == 0.5
    nothing = calibrate.Counts(rows * 0, rows * 0, held * 0, np.array(0))
    drafters.check(DraftConfig("prompt_lookup", 8, **calibrate.weigh(nothing)), None)
    drafters.check(DraftConfig("prompt_lookup", 8, **made), None)

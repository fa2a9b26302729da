"""The closed vocabulary: round trips, the prefix property, messages."""

import numpy as np
import pytest

from relay_jax import vocabulary
from relay_jax.tokenizers import Tokenizer
from relay_jax.vocabulary import TaskTokenizer


def test_ids_are_as_drawn_in_the_docstring():
    text = "<pad> <eos> [ARI] [ED] [LIS] <sep> | , = ( ) + - * / a b z 0 1 255"
    ids = TaskTokenizer().encode(text)
    assert ids == [*range(15), 15, 16, 40, 41, 42, 296]
    assert vocabulary.FIRST_LETTER == 15 and vocabulary.FIRST_NUMBER == 41
    assert TaskTokenizer().vocab_size == 297


def test_every_pair_of_tokens_survives_a_round_trip():
    tokenizer = TaskTokenizer(13)
    for left in range(tokenizer.vocab_size):
        for right in range(tokenizer.vocab_size):
            text = tokenizer.decode([left, right])
            assert tokenizer.encode(text) == [left, right], text


def test_random_texts_survive_a_round_trip():
    tokenizer = TaskTokenizer(300)
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(tokenizer.vocab_size, size=20)
        assert tokenizer.encode(tokenizer.decode(ids)) == ids.tolist()


@pytest.mark.parametrize(
    "text",
    ["[ARI]3*(2+61)/3=", "[ED]ab|acb<sep>0 2 4,2 3 2,2<eos>", "[LIS]3 9 14<sep>1 2 3"],
)
def test_decoded_text_has_no_unnecessary_spaces(text):
    tokenizer = TaskTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_smaller_vocabulary_is_a_prefix_of_a_larger_one():
    small, large = TaskTokenizer(5), TaskTokenizer(50)
    for index in range(small.vocab_size):
        assert small.decode([index]) == large.decode([index])
    assert small.identity != large.identity


def test_it_implements_the_protocol():
    tokenizer = TaskTokenizer()
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.decode([tokenizer.eos_id]) == "<eos>"


def test_messages():
    tokenizer = TaskTokenizer(5)
    with pytest.raises(ValueError) as error:
        tokenizer.encode("[ARI]3+5=")
    assert str(error.value) == (
        "the number 5 is not in the vocabulary, which ends at 4; "
        "raise `num_numbers` in the model's config"
    )
    with pytest.raises(ValueError) as error:
        tokenizer.encode("3^2")
    assert str(error.value) == (
        "'^' is not in the task vocabulary, which consists of numbers and <pad> <eos> "
        "[ARI] [ED] [LIS] <sep> | , = ( ) + - * / "
        "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    )
    for index in (-1, 46):
        with pytest.raises(ValueError) as error:
            tokenizer.decode([index])
        assert str(error.value) == (
            f"token id {index} is outside this vocabulary of 46 tokens"
        )

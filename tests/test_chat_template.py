"""Chat templates, written out."""

import pytest

from relay_jax.chat_template import TEMPLATES

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions."
)
EXPECTED = {
    "plain": ("q1", "q1a1q2"),
    "vicuna": (
        f"{SYSTEM} USER: q1 ASSISTANT:",
        f"{SYSTEM} USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT:",
    ),
    "llama2": ("[INST] q1 [/INST]", "[INST] q1 [/INST] a1 </s><s>[INST] q2 [/INST]"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_one_and_two_turns(name):
    template, (one, two) = TEMPLATES[name], EXPECTED[name]
    assert template(["q1"], []) == one
    assert template(["q1", "q2"], ["a1"]) == two
    if name != "plain":
        assert template(["q1", "q2"], [" a1\n"]) == two
    with pytest.raises(ValueError, match="2 questions need 1 answers, .* got 2"):
        template(["q1", "q2"], ["a1", "a2"])

"""Chat templates: ours written out, a folder's own as transformers renders them."""

import json
import pathlib

import pytest
import sentencepiece
import tokenizers as hf
from tokenizers import models, pre_tokenizers, processors, trainers

from relay_jax import chat_template
from relay_jax.chat_template import TEMPLATES, ChatTemplate, conversation, select
from relay_jax.tokenizers import load_tokenizer
from tests.chat_templates import FAMILIES, QWEN2

SOURCES = sorted((pathlib.Path(__file__).parents[1] / "relay_jax").glob("*.py"))
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions."
)
EXPECTED = {
    "plain": ("q1", "q1a1q2", "sq1a1q2"),
    "vicuna": (
        f"{SYSTEM} USER: q1 ASSISTANT:",
        f"{SYSTEM} USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT:",
        "s USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT:",
    ),
    "llama2": (
        "[INST] q1 [/INST]",
        "[INST] q1 [/INST] a1 </s><s>[INST] q2 [/INST]",
        "[INST] <<SYS>>\ns\n<</SYS>>\n\nq1 [/INST] a1 </s><s>[INST] q2 [/INST]",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_one_and_two_turns(name):
    template, (one, two, system) = TEMPLATES[name], EXPECTED[name]
    assert template.render(conversation(["q1"])) == one
    assert template.render(conversation(["q1", "q2"], ["a1"])) == two
    assert template.render(conversation(["q1", "q2"], ["a1"], "s")) == system
    if name != "plain":
        assert template.render(conversation(["q1", "q2"], [" a1\n"])) == two
    with pytest.raises(ValueError, match="2 questions need 1 answers, .* got 2"):
        conversation(["q1", "q2"], ["a1", "a2"])


# Against transformers.

MARKS = [
    "<s>",
    "</s>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
]
CHATS = [
    [("user", "What is 2 + 2?")],
    [("system", "Be brief. "), ("user", " Hello,\nworld ")],
    [("user", "Hé 😀"), ("assistant", "  <think>1</think>\n\nok "), ("user", "a</s>b")],
    [("system", "<s>"), ("user", "x"), ("assistant", "y"), ("user", "z&'\"")],
    [("user", "x"), ("assistant", "y")],
    [("assistant", "y"), ("user", "x")],
]


def messages(chat):
    return [{"role": role, "content": content} for role, content in chat]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer of each form, which begins a text with <s> if it is told to."""
    lines = [line for file in SOURCES for line in file.read_text().splitlines()]
    llama, bpe = (tmp_path_factory.mktemp(name) for name in ("llama", "bpe"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(llama / "tokenizer"),
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        num_threads=1,
    )
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=MARKS,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    begin = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.post_processor = begin
    tokenizer.save(str(bpe / "tokenizer.json"))
    end = {"__type": "AddedToken", "content": "</s>", "special": True}
    write(bpe, {"bos_token": "<s>", "eos_token": end})
    write(llama, {"legacy": False, "add_bos_token": True})
    return {"bpe": bpe, "llama": llama}


def write(folder, settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def theirs(folders):
    transformers = pytest.importorskip("transformers", reason="the oracle")
    return {
        "bpe": transformers.PreTrainedTokenizerFast.from_pretrained(folders["bpe"]),
        "llama": transformers.LlamaTokenizer.from_pretrained(folders["llama"]),
    }


def outcome(function, *arguments, **options):
    """What it returns, or the last part of its error."""
    try:
        return function(*arguments, **options)
    except Exception as error:  # noqa: BLE001 (jinja2's, or ours)
        return f"refused: {str(error).rpartition('refuses the conversation: ')[2]}"


@pytest.mark.parametrize("name", FAMILIES)
def test_published_templates_render_as_in_transformers(name, folders, theirs):
    template = ChatTemplate(FAMILIES[name], name)
    for form, folder in folders.items():
        ours, other = load_tokenizer(folder), theirs[form]
        assert ours.special_tokens == other.special_tokens_map
        other.chat_template = FAMILIES[name]
        for chat in map(messages, CHATS):
            for prompted in (False, True):
                how = {"add_generation_prompt": prompted}
                expected = outcome(
                    other.apply_chat_template, chat, tokenize=False, **how
                )
                found = outcome(template.render, chat, **ours.special_tokens, **how)
                assert found == expected
                if not found.startswith("refused: "):
                    ids = template.encode(chat, ours, **how)
                    assert ids == other(found, add_special_tokens=False).input_ids
                    assert ids == other.apply_chat_template(
                        chat, return_dict=False, **how
                    )
    assert isinstance(found, str) and found


def test_a_rendered_text_begins_once(folders):
    """A template spells its <s> out; FastChat's leave it to the tokenizer."""
    for folder in folders.values():
        tokenizer = load_tokenizer(folder)
        begin = tokenizer.encode("")
        assert len(begin) == 1
        for template in (*TEMPLATES.values(), ChatTemplate(FAMILIES["llama3"], "")):
            ids = template.encode(conversation(["q"]), tokenizer)
            assert ids[:1] == begin and begin[0] not in ids[1:]


def test_parts_and_variables_render_as_in_transformers(folders, theirs):
    """Contents in parts, fields without a value, tools, and a template's own switch."""
    other, special = theirs["bpe"], load_tokenizer(folders["bpe"]).special_tokens
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image"},
        {"type": "text", "text": "b"},
    ]
    tool = {"type": "function", "function": {"name": "é<f>", "parameters": {"x": [1]}}}
    cases = [
        ("parts", [{"role": "user", "content": parts, "name": None}], {}),
        ("qwen2", messages(CHATS[1]), {"tools": [tool]}),
        ("qwen2", messages(CHATS[2]), {"enable_thinking": False, "tools": []}),
        ("zephyr", messages(CHATS[0]), {"eos_token": "<end>"}),
    ]
    for name, chat, variables in cases:
        other.chat_template = FAMILIES[name]
        how = {"add_generation_prompt": True} | variables
        expected = other.apply_chat_template(chat, tokenize=False, **how)
        found = ChatTemplate(FAMILIES[name], name).render(chat, **special | variables)
        assert found == expected


# Where templates are found.


def test_a_folder_has_its_template_in_one_of_three_forms(folders, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the oracle")
    (tmp_path / "tokenizer.json").write_bytes(
        (folders["bpe"] / "tokenizer.json").read_bytes()
    )
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    one, two, three = "one {{ bos_token }}", "two", "three\r\n{{ eos_token }}"
    named = [
        {"name": "default", "template": two},
        {"name": "tool_use", "template": one},
    ]
    chat = conversation(["?"])

    def check(**variables):
        other = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
        expected = other.apply_chat_template(chat, tokenize=False, **variables)
        template = chat_template.find(tmp_path)
        assert template and template.render(chat, **special | variables) == expected
        return template.where, expected

    assert chat_template.find(tmp_path) is None
    write(tmp_path, special)
    assert chat_template.find(tmp_path) is None
    write(tmp_path, special | {"chat_template": one})
    assert check() == (f"{tmp_path}/tokenizer_config.json", "one <s>")
    write(tmp_path, special | {"chat_template": named})
    assert check()[1] == check(tools=None)[1] == "two"
    assert check(tools=[{"type": "function"}])[1] == "one <s>"
    (tmp_path / "chat_template.jinja").write_text(three, newline="")
    file = f"{tmp_path}/chat_template.jinja"
    assert check() == check(tools=[]) == (file, "three\n</s>")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert check()[1] == "three\n</s>" and check(tools=[])[1] == "tools"
    for wrong in ([{"name": "default"}], 3, [1], [{"name": "x", "template": None}]):
        write(tmp_path, special | {"chat_template": wrong})
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").unlink(
            missing_ok=True
        )
        with pytest.raises(
            ValueError, match="chat_template must be a template, or a li"
        ):
            chat_template.find(tmp_path)


def test_a_template_is_chosen_by_name_file_or_text(tmp_path):
    default = ChatTemplate("own", "folder")
    assert select(None, default, "m") is select("model", default, "m") is default
    assert select("vicuna", default, "m") is TEMPLATES["vicuna"]
    assert select("{{ messages[0].content }}!", None, "m").render(
        conversation(["q"])
    ) == ("q!")
    (tmp_path / "a.jinja").write_text("from a file")
    file = str(tmp_path / "a.jinja")
    assert select(file, default, "m") == ChatTemplate("from a file", file)
    with pytest.raises(
        ValueError, match="m has no chat template .*plain, vicuna, llama2"
    ):
        select(None, None, "m")
    for wrong in ("vicunia", "", str(tmp_path)):
        with pytest.raises(
            ValueError, match=f"unknown chat template '{wrong}'; give mo"
        ):
            select(wrong, default, "m")


# Errors.

BAD_TEMPLATES = {
    "{{ raise_exception('no  such\nrole') }}": "T, line 1: the chat template refuses the "
    "conversation: no such role",
    "a\n{% if %}": "T, line 2: the chat template has a syntax error: Expected an expr",
    "a\nb\n{{ 1 | nope }}": "T, line 3: the chat template has a syntax error: No filter",
    "a\n{% for d in documents %}{% endfor %}": "T, line 2: the chat template fails with "
    "TypeError: 'NoneType' object is not iterable; it needs documents, which this",
    "\n\n{{ tools[0].name }}": "T, line 3: the chat template fails with UndefinedError: "
    "None has no element 0; it needs tools, which this",
    "{{ user_name.first }}": "fails with UndefinedError: 'user_name' is undefined; it "
    "needs user_name, which",
    "{{ messages[7].content }}": "UndefinedError: list object has no element 7",
    "{{ ''.__class__.__mro__ }}": "T, line 1: the sandbox of chat templates forbids this: "
    "access to attribute '__class__' of 'str' object is unsafe",
    "{{ messages.append(1) }}": "the sandbox of chat templates forbids this: ",
    "{% set n = namespace(__html__=1) %}": "a namespace cannot have the name '__html__'",
    "{% set n = namespace() %}{% set n._x = 1 %}": "cannot have the name '_x'",
    "{{ range(10 ** 9) }}": "fails with OverflowError: Range too big",
    "{% include 'a' %}": "T, line 1: the chat template fails with TypeError: no loader",
}


@pytest.mark.parametrize("source", BAD_TEMPLATES)
def test_a_bad_template_is_one_line_that_names_its_place(source):
    with pytest.raises(ValueError) as error:
        ChatTemplate(source, "T").render(conversation(["q"]))
    message = str(error.value)
    assert BAD_TEMPLATES[source] in message and "\n" not in message
    assert ("it needs" in message) == ("it needs" in BAD_TEMPLATES[source])


def test_a_variable_that_is_given_is_not_missing():
    template = ChatTemplate("{{ tools[0].first.letter }}", "T")
    with pytest.raises(ValueError, match="has no attribute 'first'$"):
        template.render(conversation(["q"]), tools=[{"name": {}}])


def test_messages_are_checked():
    template = TEMPLATES["plain"]
    for wrong in ("text", [], {"role": "user"}, None, 3):
        with pytest.raises(
            ValueError, match="a conversation must be a list of messages"
        ):
            template.render(wrong)
    for wrong in ("text", {}, {"content": "x"}, {"role": 1}, 3):
        with pytest.raises(
            ValueError, match='a message must be {"role": "user", "conte'
        ):
            template.render([{"role": "user", "content": "x"}, wrong])
    with pytest.raises(ValueError, match="must be JSON values: .* bytes is not"):
        template.render([{"role": "user", "content": b"x"}])


def test_a_template_sees_copies_of_plain_values():
    class Text(str):
        def upper(self):
            raise AssertionError("a method of ours")

    chat = [{"role": "user", "content": Text("x")}]
    template = ChatTemplate(
        QWEN2.replace("message.content", "message.content.upper()"), ""
    )
    assert "user\nX<|im_end|>" in template.render(chat)


@pytest.mark.parametrize("other", ["{{ 2 }}", "{{ 1 }}", None, 7])
def test_two_templates_that_differ_are_named(tmp_path, other, caplog):
    (tmp_path / "chat_template.jinja").write_text("{{ 1 }}")
    settings = {"chat_template": other} if other else {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with caplog.at_level("WARNING", "absl"):
        found = chat_template.find(tmp_path)
    assert found.render([{"role": "user", "content": "x"}]) == "1"
    assert ("tokenizer_config.json differ" in caplog.text) == (other == "{{ 2 }}")

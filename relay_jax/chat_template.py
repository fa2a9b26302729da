"""Chat templates: a conversation as the prompt of a chat model.

    template = chat_template.find("FOLDER") or chat_template.TEMPLATES["vicuna"]
    ids = template.encode([{"role": "user", "content": "Hello"}], tokenizer)

A model's folder has its template in Jinja; it is rendered as transformers'
`apply_chat_template` renders it. `TEMPLATES` has FastChat's, for models whose folder has
none. The text spells out special tokens (`</s>`), which the tokenizer recognizes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from relay_jax import gguf_tokenizer, template_sandbox
from relay_jax.files import read_json
from relay_jax.gguf_file import is_gguf, read_gguf
from relay_jax.text_files import read_text
from relay_jax.tokenizer_files import SETTINGS
from relay_jax.tokenizers import Tokenizer

Message = Mapping[str, Any]  # {"role": "user", "content": "Hello"}
FILE = "chat_template.jinja"
# Templates beside the folder's main one; of these, transformers picks by itself:
TOOL_FILE = "additional_chat_templates/tool_use.jinja"
MODEL_TEMPLATE = "model"  # the name of the template of a model's folder

_VICUNA = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}"
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
    "{% endif %} {% for message in messages %}"
    "{% if message.role == 'user' %}USER: {{ message.content }} ASSISTANT:"
    "{% elif message.role == 'assistant' %} {{ message.content.strip() }}</s>{% endif %}"
    "{% endfor %}"
)
_LLAMA2 = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}[INST] "
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}"
    "<<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n{% endif %}"
    "{{ message.content }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content.strip() }} </s><s>"
    "{% endif %}{% endfor %}"
)


class ChatTemplate(NamedTuple):
    """A template in Jinja, and how its text is tokenized."""

    source: str
    where: str  # it comes from, for error messages
    tool_source: str = ""  # the template of a conversation with tools; "": `source`
    # Whether the tokenizer adds its begin-of-text token, which others spell out.
    adds_special_tokens: bool = False

    def render(self, messages: Any, **variables: Any) -> str:
        """The text of a conversation, up to where the model's answer begins.

        Args:
          messages: each with a role ("system", "user", "assistant") and a content.
          **variables: what else the template reads: `bos_token` and other special
            tokens, `tools`, `documents`, `add_generation_prompt`, or its own.

        Raises:
          ValueError: the messages are no conversation; the template has a syntax error,
            refuses the conversation, fails, or does what the sandbox forbids.
        """
        values = {"tools": None, "documents": None, "add_generation_prompt": True}
        values |= variables | {"messages": _checked(messages)}
        has_tools = self.tool_source and values["tools"] is not None
        source = self.tool_source if has_tools else self.source
        return template_sandbox.render(source, values, self.where)

    def encode(
        self, messages: Any, tokenizer: Tokenizer, **variables: Any
    ) -> list[int]:
        """The token ids of a conversation, special tokens of its text included.

        Args:
          messages: see `render`.
          **variables: see `render`; the tokenizer's special tokens are among them.

        Raises:
          ValueError: see `render`; or there is no tokenizer, or no token.
        """
        text = self.render(messages, **tokenizer.special_tokens | variables)
        ids = tokenizer.encode(text, add_special_tokens=self.adds_special_tokens)
        if not ids:
            raise ValueError(f"{self.where}: the chat template renders an empty prompt")
        return ids


TEMPLATES = {
    name: ChatTemplate(source, f"the template {name!r}", adds_special_tokens=True)
    for name, source in {
        # For base models: everything joined.
        "plain": "{% for message in messages %}{{ message.content }}{% endfor %}",
        # Vicuna v1.1, v1.3, v1.5: SYSTEM USER: question ASSISTANT: answer</s>USER: ...
        "vicuna": _VICUNA,
        # Llama-2-chat, CodeLlama-Instruct:
        # [INST] question [/INST] answer </s><s>[INST] question [/INST]
        "llama2": _LLAMA2,
    }.items()
}


def conversation(
    questions: Sequence[str], answers: Sequence[str] = (), system: str = ""
) -> list[Message]:
    """The messages of a conversation whose last question is still to be answered.

    Args:
      system: the system message; "": none.

    Raises:
      ValueError: the number of answers is not one less than that of questions.
    """
    if len(answers) != len(questions) - 1:
        raise ValueError(
            f"{len(questions)} questions need {len(questions) - 1} answers, as the last "
            f"question is open; got {len(answers)}"
        )
    messages: list[Message] = []
    if system:
        messages.append({"role": "system", "content": system})
    for number, question in enumerate(questions):
        messages.append({"role": "user", "content": question})
        for answer in answers[number : number + 1]:
            messages.append({"role": "assistant", "content": answer})
    return messages


def find(folder: epath.PathLike) -> ChatTemplate | None:
    """The template of a model's folder, or None.

    It is in `chat_template.jinja`, else in `tokenizer_config.json` under
    `chat_template`: a text, or a list of named templates, of which one is the default.
    A GGUF file has it in its metadata.

    Raises:
      ValueError: it is something else.
    """
    folder = epath.Path(folder)
    if is_gguf(folder):
        named = gguf_tokenizer.read_templates(read_gguf(folder))
        return _default(named, str(folder))
    files = {"default": folder / FILE, "tool_use": folder / TOOL_FILE}
    named = {name: read_text(file) for name, file in files.items() if file.exists()}
    where = str(folder / FILE)
    if not named:
        named, where = _read_settings(folder / SETTINGS), str(folder / SETTINGS)
    else:
        other = _read_any_default(folder / SETTINGS)
        if other not in (None, named.get("default")):
            logging.warning(
                "%s: %s and chat_template in %s differ; the former is used, as in "
                "transformers",
                *(folder, FILE, SETTINGS),
            )
    return _default(named, where)


def _default(named: dict[str, str], where: str) -> ChatTemplate | None:
    if "default" not in named:
        return None
    return ChatTemplate(named["default"], where, named.get("tool_use", ""))


def select(
    choice: str | None, model_template: ChatTemplate | None, model: str
) -> ChatTemplate:
    """The template that an argument or a flag stands for.

    Args:
      choice: `MODEL_TEMPLATE` or None for the model's own, a name of `TEMPLATES`, a
        file with a template in Jinja, or such a template itself.
      model_template: that of the model's folder, if it has one.
      model: the model's name, for the error message.

    Raises:
      ValueError: the model has no template, or the choice is none of these.
    """
    if choice in TEMPLATES:
        return TEMPLATES[choice]
    names = f"one of {', '.join(TEMPLATES)}, or a file with a template in Jinja"
    if choice is None or choice == MODEL_TEMPLATE:
        if model_template is None:
            raise ValueError(
                f"{model or 'the model'} has no chat template ({FILE}, or chat_template in "
                f"{SETTINGS}); name one: {names}"
            )
        return model_template
    if "{{" in choice or "{%" in choice:
        return ChatTemplate(choice, "chat_template")
    file = epath.Path(choice)
    if not choice or not file.is_file():
        raise ValueError(
            f"unknown chat template {choice!r}; give {MODEL_TEMPLATE}, {names}"
        )
    return ChatTemplate(read_text(file), choice)


def _checked(messages: Any) -> list[dict[str, Any]]:
    """The messages without fields that are None, as transformers gives them."""
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Iterable):
        messages = ()
    checked = []
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        is_message = isinstance(role, str)
        if not is_message:
            raise ValueError(
                'a message must be {"role": "user", "content": "..."}, with the role '
                f"system, user or assistant; got {message!r}"
            )
        checked.append({k: v for k, v in message.items() if v is not None})
    if not checked:
        raise ValueError(
            'a conversation must be a list of messages, [{"role": "user", "content": '
            '"..."}], that is not empty'
        )
    return checked


def _read_any_default(file: epath.Path) -> str | None:
    """The default template of `tokenizer_config.json`; None if there is none to read."""
    try:
        return _read_settings(file).get("default")
    except ValueError:
        return None


def _read_settings(file: epath.Path) -> dict[str, str]:
    """The named templates of `tokenizer_config.json`."""
    found = read_json(file).get("chat_template") if file.exists() else None
    if found is None:
        return {}
    if isinstance(found, str):
        return {"default": found}
    try:
        named = {entry["name"]: entry["template"] for entry in found}
        if all(isinstance(text, str) for pair in named.items() for text in pair):
            return named
    except (TypeError, KeyError):
        pass
    raise ValueError(
        f"{file}: chat_template must be a template, or a list of "
        f'{{"name", "template"}}, got {str(found)[:80]}'
    )

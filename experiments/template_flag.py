"""The flag --template, of the scripts that hold conversations."""

import sys

from absl import flags

from relay_jax.chat_template import (
    MODEL_TEMPLATE,
    TEMPLATES,
    ChatTemplate,
    conversation,
    select,
)
from relay_jax.pretrained import ModelFolder

_TEMPLATE = flags.DEFINE_string(
    "template",
    "",
    f"The conversation format: {MODEL_TEMPLATE} (that of the model's folder), {', '.join(TEMPLATES)}, "
    "or a file with a template in Jinja. Default: see the description.",
)


def choose_template(
    folder: ModelFolder, default: str, prefers_model_template: bool = True
) -> str:
    """The choice of --template, else `MODEL_TEMPLATE` or the default; says so where it is a guess.

    Args:
      default: for models without a template of their own.
      prefers_model_template: whether the model's own comes before the default.
    """
    if _TEMPLATE.value or not prefers_model_template:
        return _TEMPLATE.value or default
    if folder.chat_template:
        return MODEL_TEMPLATE
    print(f"{folder.path} has no chat template: --template={default}", file=sys.stderr)
    return default


def open_template(folder: ModelFolder, choice: str, system: str = "") -> ChatTemplate:
    """The template of a choice, tried with one question.

    Args:
      system: a system message that the template must be able to render.

    Raises:
      ValueError: there is none, or it fails.
    """
    template = select(choice, folder.chat_template, str(folder.path))
    special = folder.tokenizer.special_tokens
    template.render(conversation(["?"], system=system), **special)
    return template

"""A language model with its tokenizer, and the text that it generates.

    lm = relay_jax.load("FOLDER")
    out = lm.generate(["def fib(n):"], max_new_tokens=128, datastore="STORE")
    print(out.texts[0], out.tokens_per_step)

Drafts never change what is generated: a datastore and a drafter only save time.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from relay_jax import chat_template as chat_templates
from relay_jax.base import PyTree
from relay_jax.chat_template import ChatTemplate
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.datastores import open_index
from relay_jax.decoding import decode
from relay_jax.jax_settings import check_seed
from relay_jax.logits_config import NO_RULES, LogitsRules, override
from relay_jax.prompts import encode_prompts
from relay_jax.rest import drafters
from relay_jax.rest.drafters import AUTOTUNE
from relay_jax.rest.output import GenerationOutput
from relay_jax.rest.request import Request, run
from relay_jax.text_files import clean_text
from relay_jax.tokenizers import IdTokenizer, Tokenizer

STREAM_STEPS = 8  # forward passes between two pieces of a stream


class LanguageModel(NamedTuple):
    """A decoder with its tokenizer, as `relay_jax.load` returns it."""

    config: ModelConfig
    params: PyTree  # unstacked, one subtree for each layer
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]  # each of them ends a text
    name: str = ""
    mesh: Mesh | None = None  # of the parameters, if they are sharded
    chat_template: ChatTemplate | None = None  # of the model's folder
    rules: LogitsRules = NO_RULES  # the folder's, which apply by default

    def generate(self, prompts: Any, **options: Any) -> GenerationOutput:
        """Continues prompts, all of them at once.

        Args:
          prompts: one text or several, or the token ids of one text or several.
          **options: see `make_request`.

        Raises:
          ValueError: see `make_request`.
        """
        *_, output = run(self.make_request(prompts, **options))
        return output

    def chat(
        self,
        messages: Any,
        *,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GenerationOutput:
        """Answers a conversation, or several at once.

        Args:
          messages, chat_template, chat_template_kwargs: see `encode_chat`.
          **options: see `make_request`.

        Raises:
          ValueError: see `encode_chat` and `make_request`.
        """
        ids = self.encode_chat(
            messages,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
        )
        return self.generate(ids, **options)

    def encode_chat(
        self,
        messages: Any,
        *,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[list[int]]:
        """The prompt of each conversation as token ids, for `generate` or `stream`.

        Args:
          messages: a conversation, `[{"role": "user", "content": "Hello"}]`, or
            several; roles are system, user and assistant.
          chat_template: a name of `chat_template.TEMPLATES`, a file with a template in
            Jinja, or the template itself; by default the model's own.
          chat_template_kwargs: further variables of the template, such as `tools`.

        Raises:
          ValueError: the model has no template and none is named; the template has an
            error or refuses the conversation; or there is no tokenizer.
        """
        template = chat_templates.select(chat_template, self.chat_template, self.name)
        first = messages[0] if isinstance(messages, Sequence) and messages else None
        is_one = not isinstance(first, Sequence) or isinstance(first, str)
        return [
            template.encode(each, self.tokenizer, **chat_template_kwargs or {})
            for each in ([messages] if is_one else messages)
        ]

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """Continues one prompt; yields its text piece by piece, as it is generated.

        Args:
          prompt: one text, or its token ids.
          **options: see `make_request`.

        Raises:
          ValueError: see `make_request`; or there are several prompts.
        """
        request = self.make_request(prompt, **options)
        if len(request.prompts) != 1:
            raise ValueError(
                f"stream continues one prompt, got {len(request.prompts)}; call it for "
                "each, or take generate, which continues them all at once"
            )
        return _pieces(run(request, STREAM_STEPS))

    def make_request(
        self,
        prompts: Any,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        min_new_tokens: int | None = None,
        suppress_tokens: Sequence[int] | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        eos_token_id: int | Sequence[int] | None = None,
        ignore_eos: bool = False,
        datastore: Any = None,
        drafter: str | None = None,
        num_draft: int | str = "auto",
        draft_depth: int = 10,
        max_length: int = 0,
        cache_file: Any = None,
    ) -> Request:
        """The checked request that `generate` and `stream` run.

        Args:
          prompts: one text or several, or the token ids of one text or several.
          max_new_tokens: maximum number of new tokens for each prompt.
          temperature: of sampling; 0 is greedy.
          top_p: sample from the most likely tokens with this total probability.
          top_k: sample from this many most likely tokens; 0: from all.
          min_p: sample from tokens with at least this share of the likeliest one's
            probability; 0: from all.
          repetition_penalty: the logits of tokens that the text contains, prompt
            included, are divided by it if positive, else multiplied; 1: unchanged.
          no_repeat_ngram_size: no sequence of this many tokens occurs twice in a text,
            prompt included; 0: any may.
          min_new_tokens: number of new tokens before which no token ends a text.
          suppress_tokens: token ids that are never generated. These four are by default
            those of the model's folder (`rules`), else off.
          seed: of sampling; prompt i uses `fold_in(key(seed), i)`.
          stop: strings before which a text is cut.
          eos_token_id: token ids that end a text; by default the model's.
          ignore_eos: whether to continue after the end of a text.
          datastore: a directory, an opened `Datastore` or its index. The datastore that
            was used last stays on the device.
          drafter: a name of `rest.drafters.DRAFTERS`, "none" for plain decoding; by
            default see `default_drafter`.
          num_draft: nodes of a draft tree; with "auto", every step takes the size that
            is expected to pay, which may be 0.
          draft_depth: maximum depth of a draft tree.
          max_length: number of tokens, prompt included, at which texts end; 0: no limit.
          cache_file: file in which measured step times are cached; by default below
            ~/.cache.

        Raises:
          ValueError: an argument is out of range, a prompt is empty or has ids outside
            the vocabulary, or the datastore is missing or was built with another
            tokenizer.
        """
        drafter = drafter or default_drafter(datastore is not None)
        draft = make_draft(drafter, num_draft, draft_depth)
        check_seed(seed)
        ids = encode_prompts(prompts, self.tokenizer)
        rules = override(
            self.rules,
            repetition_penalty=repetition_penalty and float(repetition_penalty),
            no_repeat_ngram_size=no_repeat_ngram_size,
            min_new_tokens=min_new_tokens,
            suppress_tokens=self._token_ids("suppress_tokens", suppress_tokens),
        )
        sampling = SamplingConfig(
            float(temperature), float(top_p), top_k, float(min_p), rules
        )
        given = [stop] if isinstance(stop, str) else stop
        needs_text = [clean_text(string) for string in given]
        if "" in needs_text:
            raise ValueError("a stop string is empty; give at least one character")
        if needs_text and isinstance(self.tokenizer, IdTokenizer):
            raise ValueError(self.tokenizer.refusal())
        is_used = drafters.DRAFTERS[drafter].index == drafters.DATASTORE
        index = open_index(datastore, self.tokenizer, self.mesh) if is_used else None
        return Request(
            params=self.params,
            model=self.config,
            tokenizer=self.tokenizer,
            prompts=ids,
            max_new_tokens=max_new_tokens,
            eos_ids=self._end_ids(eos_token_id, ignore_eos),
            draft=draft,
            index=index,
            sampling=sampling,
            seed=seed,
            stop=tuple(needs_text),
            max_length=max_length,
            cache_file=cache_file,
        )

    def _end_ids(
        self, eos_token_id: int | Sequence[int] | None, ignore_eos: bool
    ) -> decode.EndIds:
        if ignore_eos:
            return decode.NO_EOS
        if eos_token_id is None:
            return self.eos_ids
        ids = self._token_ids("eos_token_id", eos_token_id)
        if not ids:
            raise ValueError(
                "eos_token_id is empty; ignore_eos=True goes on after the end of a text"
            )
        return ids

    def _token_ids(
        self, name: str, value: int | Sequence[int] | None
    ) -> tuple[int, ...] | None:
        """Checked token ids; None stays None."""
        if value is None:
            return None
        ids = tuple(np.atleast_1d(np.asarray(value)).tolist())
        size = self.config.vocab_size
        if any(type(i) is not int or not 0 <= i < size for i in ids):
            raise ValueError(f"{name} must be token ids 0..{size - 1}, got {value!r}")
        return ids


def default_drafter(has_datastore: bool) -> str:
    """The drafter if none is named: "rest", or "prompt_lookup" without a datastore."""
    return "rest" if has_datastore else "prompt_lookup"


def make_draft(
    drafter: str, num_draft: int | str = "auto", depth: int = 10
) -> DraftConfig:
    """The config for a drafter and the size of its draft trees.

    Args:
      drafter: a name of `rest.drafters.DRAFTERS`.
      num_draft: nodes of the draft tree; "auto" or `AUTOTUNE` leaves it open.
      depth: maximum depth of the draft tree.

    Raises:
      ValueError: an unknown drafter, or another size.
    """
    names = [name for name in drafters.DRAFTERS if name != "looped"]
    if drafter not in names:
        raise ValueError(
            f"unknown drafter {drafter!r}; valid drafters: {', '.join(names)}"
        )
    size = AUTOTUNE if num_draft == "auto" else num_draft
    if not isinstance(size, int) or (size < 0 and size != AUTOTUNE):
        raise ValueError(
            f"num_draft must be 'auto' or a number of nodes, 0 or more, got {num_draft!r}"
        )
    if not isinstance(depth, int) or depth < 1:
        raise ValueError(f"draft_depth must be 1 or more, got {depth!r}")
    if drafter == "none":
        return drafters.PLAIN
    return DraftConfig(drafter=drafter, num_draft=size, depth=depth)


def _pieces(outputs: Iterator[GenerationOutput]) -> Iterator[str]:
    """Yields what each output adds to the text."""
    shown = ""
    for output in outputs:
        (text,) = output.texts
        if text != shown:
            yield text[len(shown) :]
            shown = text

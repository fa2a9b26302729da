"""The baseline of `benchmarks/transformers_baseline.py`: a model in transformers."""

import importlib.util
import itertools
import time
from collections.abc import Sequence
from typing import Any

from etils import epath

from experiments.comparison import Decoder, Generated

WARM_UP = [1, 2, 3]  # a prompt


def check_installed() -> None:
    """Raises ValueError if torch or transformers is missing."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"{name} is not installed: pip install -r launch/locks/oracle.txt"
            )


class TransformersModel:
    """The model in transformers, on the CPU, in float32."""

    def __init__(self, path: epath.Path, eos_ids: Sequence[int], max_new_tokens: int):
        import torch
        import transformers

        self.version = f"{torch.__version__}, transformers {transformers.__version__}"
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            str(path), dtype=torch.float32, local_files_only=True
        ).eval()
        self._num_steps = 0
        self._model.register_forward_hook(self._count)
        self._options: dict[str, Any] = {
            "do_sample": False,
            "eos_token_id": list(eos_ids),
            "pad_token_id": eos_ids[0],
        }
        self._max_new_tokens = max_new_tokens

    def _count(self, *_: Any) -> None:
        self._num_steps += 1

    def decoder(self, **options: Any) -> Decoder:
        """Greedy `generate` with further options, after a short call to warm up."""

        def decode(prompt: list[int], size: int = self._max_new_tokens) -> Generated:
            ids = self._torch.tensor([prompt])
            watch, self._num_steps = _Watch(), 0
            with self._torch.no_grad():
                out = self._model.generate(
                    ids,
                    attention_mask=self._torch.ones_like(ids),
                    max_new_tokens=size,
                    streamer=watch,
                    **self._options | options,
                )
            new = out[0, len(prompt) :].tolist()
            return Generated(new, self._num_steps, watch.seconds(len(new)))

        decode(WARM_UP, size=2)
        return decode

    def gap(self, tokens: list[int], ours: int, theirs: int) -> float:
        """How far transformers' logit of its own token is above that of ours.

        Args:
          tokens: the text before both.
        """
        with self._torch.no_grad():
            logits = self._model(self._torch.tensor([tokens])).logits[0, -1]
        return float(logits[theirs] - logits[ours])


class _Watch:
    """A streamer of `generate` that measures the time after the first new tokens, which
    come with the prompt."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._sizes: list[int] = []

    def put(self, tokens: Any) -> None:
        self._times.append(time.perf_counter())
        self._sizes.append(tokens.numel())

    def end(self) -> None:
        self._times.append(time.perf_counter())

    def seconds(self, num_tokens: int) -> float:
        """Seconds of decoding, for all tokens at the rate of those after the first."""
        first = self._sizes[1]  # before it, the prompt itself is put
        spent = self._times[-1] - self._times[1]
        return spent * num_tokens / max(num_tokens - first, 1)


def first_difference(
    ours: Sequence[int], theirs: Sequence[int]
) -> tuple[int, int | None, int | None]:
    """The first position with different tokens, and both; None where a text has ended."""
    pairs = itertools.zip_longest(ours, theirs)
    return next((i, a, b) for i, (a, b) in enumerate(pairs) if a != b)

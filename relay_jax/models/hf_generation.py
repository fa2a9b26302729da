"""The generation settings of a model's folder: what of them decoding applies.

RULES      applied by default, as transformers' `generate` applies them
SAMPLING   named in a warning where the folder asks for sampling: decoding is greedy
           unless a temperature is given
HARMLESS   without an effect on the text here
others     named in a warning if they would change transformers' text
"""

from typing import Any, NamedTuple

from etils import epath

from relay_jax.files import read_json
from relay_jax.logits_config import NO_RULES, LogitsRules

FILE = "generation_config.json"  # has priority over config.json
RULES = (
    *("repetition_penalty", "no_repeat_ngram_size"),
    *("min_new_tokens", "suppress_tokens"),
)
# Read only where `do_sample` is true.
SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p"),
    *("top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
)
HARMLESS = (
    # Read by `hf_config.read_special`, or of other models.
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    # The caller names these.
    *("max_length", "max_new_tokens"),
    # Of beams, of which there is one.
    *("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"),
    "low_memory",
    # How transformers computes and returns the same text.
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len"),
    *("compile_config", "disable_compile", "prefill_chunk_size", "use_mtp"),
    *("continuous_batching_config", "output_attentions", "output_hidden_states"),
    *("output_scores", "output_logits", "return_dict_in_generate"),
    *("renormalize_logits", "remove_invalid_values", "return_legacy_cache"),
    # Its drafts.
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("assistant_confidence_threshold", "prompt_lookup_num_tokens"),
    *("max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind"),
    *("target_lookbehind", "assistant_ensemble_weight", "speculation_type"),
    *("transformers_version", "_from_model_config", "_commit_hash"),
)
# Not supported: key -> the value without an effect, besides None.
UNSUPPORTED = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "guidance_scale": 1.0,
    "encoder_repetition_penalty": 1.0,  # of a decoder's prompt
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "penalty_alpha": 0.0,
    "token_healing": False,
    **dict.fromkeys(
        [
            *("bad_words_ids", "sequence_bias", "constraints", "force_words_ids"),
            *("forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens"),
            *("exponential_decay_length_penalty", "watermarking_config"),
            *("dola_layers", "max_time", "stop_strings"),
        ]
    ),
}


class GenerationSettings(NamedTuple):
    """What a folder says of generation."""

    file: epath.Path
    rules: LogitsRules  # applied by default
    applied: dict[str, Any]  # the settings that `rules` are from
    sampling: dict[str, Any]  # applied only if they are given as arguments
    ignored: dict[str, Any]

    def describe(self) -> str:
        """One line about what is applied and what is not; "" if there is nothing."""
        kinds = {
            "applied unless an argument says otherwise": self.applied,
            "applied only if given as arguments": self.sampling,
            "not supported, ignored": self.ignored,
        }
        parts = [
            f"{what}: {', '.join(f'{k}={v!r:.60}' for k, v in values.items())}"
            for what, values in kinds.items()
            if values
        ]
        return f"{self.file}: {'; '.join(parts)}" if parts else ""


def read_settings(folder: epath.PathLike, vocab_size: int) -> GenerationSettings:
    """The generation settings of a folder; a folder without any has the defaults.

    They are in generation_config.json. Without this file, config.json may have them.

    Raises:
      ValueError: a setting that would be applied is ill-typed or out of range.
    """
    file = epath.Path(folder) / FILE
    has_file = file.exists()
    if not has_file:
        file = epath.Path(folder) / "config.json"
    values = read_json(file) if file.exists() else {}
    known = {*RULES, *SAMPLING, *UNSUPPORTED, "do_sample"}
    others = set(values) - known - set(HARMLESS) if has_file else set()
    samples = bool(values.get("do_sample"))
    ignored = {key: UNSUPPORTED.get(key) for key in [*UNSUPPORTED, *sorted(others)]}
    rules = _read_rules(values, file, vocab_size)
    return GenerationSettings(
        file=file,
        rules=rules,
        applied={
            key: values[key]
            for key in RULES
            if getattr(rules, key) != getattr(NO_RULES, key)
        },
        sampling={
            key: values[key]
            for key in ("do_sample", *SAMPLING)
            if samples and values.get(key) is not None
        },
        ignored={
            key: values[key]
            for key, neutral in ignored.items()
            if values.get(key) not in (None, neutral, [])
        },
    )


def _read_rules(
    values: dict[str, Any], file: epath.Path, vocab_size: int
) -> LogitsRules:
    """The rules; what has no effect in transformers has none here."""
    penalty = _typed(values, "repetition_penalty", (int, float), 1.0, file)
    suppressed = _typed(values, "suppress_tokens", (list,), [], file)
    if not all(type(index) is int for index in suppressed):
        raise ValueError(
            f"{file}: suppress_tokens must be token ids, got {suppressed!r:.60}"
        )
    sizes = {
        key: max(_typed(values, key, (int,), 0, file), 0)
        for key in ("no_repeat_ngram_size", "min_new_tokens")
    }
    try:
        return LogitsRules(
            repetition_penalty=float(penalty),
            suppress_tokens=tuple(i for i in suppressed if 0 <= i < vocab_size),
            **sizes,
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _typed(
    values: dict[str, Any], key: str, types: tuple[type, ...], default: Any, file: Any
) -> Any:
    found = values.get(key)
    found = default if found is None else found
    if type(found) not in types:
        names = " or ".join(each.__name__ for each in types)
        raise ValueError(f"{file}: {key} must be of type {names}, got {found!r:.60}")
    return found

"""Times decode steps beside the limit that the device's memory bandwidth sets.

    python -m experiments.benchmarks.decode --shape=llama2_7b --records=FILE.jsonl

The parameters are random, of a known shape: the time does not depend on their values.
Measured are plain steps, and steps that verify a draft tree of each drafter, from a
datastore of random tokens where it needs one, in one run; with --baseline, transformers'
own greedy `generate` of the same shape after them.
"""

import dataclasses
import gc
import sys
import tempfile
import time

import jax
import numpy as np
from absl import flags

from experiments import command
from relay_jax import files
from relay_jax.config import DraftConfig, ModelConfig, PositionConfig
from relay_jax.models.decoder import unstack_layers
from relay_jax.models.hf_config import write_model
from relay_jax.rest import roofline
from relay_jax.rest.build import build_datastore
from relay_jax.rest.datastore import open_datastore
from relay_jax.rest.drafters import PLAIN
from relay_jax.rest.index import load_index

_RMS = {"kind": "decoder", "norm": "rms", "norm_epsilon": 1e-5, "activation": "swiglu"}
SHAPES = {
    "tiny": ModelConfig(
        num_layers=2, dim=64, num_heads=4, mlp_dim=128, text_vocab_size=512, **_RMS
    ),
    "cpu_100m": ModelConfig(
        num_layers=8, dim=1024, num_heads=16, mlp_dim=2816, text_vocab_size=8192, **_RMS
    ),
    "llama2_7b": ModelConfig(
        num_layers=32,
        dim=4096,
        num_heads=32,
        mlp_dim=11008,
        text_vocab_size=32_000,
        **_RMS,
    ),
    "llama3_8b": ModelConfig(
        num_layers=32,
        dim=4096,
        num_heads=32,
        num_kv_heads=8,
        mlp_dim=14336,
        text_vocab_size=128_256,
        position=PositionConfig(rope_base=500_000.0),
        **_RMS,
    ),
}
_SHAPE = flags.DEFINE_enum("shape", "llama2_7b", list(SHAPES), "The model's shape.")
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "bfloat16",
    ["bfloat16", "float32", "float16"],
    "Type of parameters and computation.",
)
_TEXT_LENGTH = flags.DEFINE_integer(
    "text_length", 512, "Number of tokens of the text so far.", 1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Texts at once.", 1)
_UNSTACK = flags.DEFINE_bool(
    "unstack", True, "Keep the layers' parameters apart, as decoding does."
)
_STEPS = flags.DEFINE_integer("steps", 32, "Steps of one measurement.", 1)
_NUM_DRAFT = flags.DEFINE_integer("num_draft", 64, "Nodes of the draft tree.", 1)
_STORE_TOKENS = flags.DEFINE_integer(
    "store_tokens", 10_000_000, "Random tokens of the datastore; 0: none.", 0
)
_BASELINE = flags.DEFINE_bool("baseline", False, "Time transformers too (needs torch).")
_TRACE = flags.DEFINE_string("trace", "", "A directory for profiles of some steps.")
_RECORDS = flags.DEFINE_string("records", "", "A file that lines are appended to.")


def main() -> None:
    model = dataclasses.replace(
        SHAPES[_SHAPE.value], dropout=0.0, dtype=_DTYPE.value, param_dtype=_DTYPE.value
    )
    bandwidth = roofline.bandwidth(2**32 if "llama" in _SHAPE.value else 2**28)
    params = roofline.random_params(model)
    params = jax.block_until_ready(unstack_layers(params) if _UNSTACK.value else params)
    text_length, batch_size = _TEXT_LENGTH.value, _BATCH_SIZE.value
    size = roofline.read_bytes(params, model, text_length, batch_size)
    limit = size / bandwidth
    setting = command.describe() | {
        "device": jax.devices()[0].device_kind,
        "shape": _SHAPE.value,
        "dtype": _DTYPE.value,
        "unstacked": _UNSTACK.value,
        "cached_tokens": text_length,
        "batch_size": batch_size,
        "read_gigabytes": round(size / 1e9, 3),
        "bandwidth_gigabytes_per_second": round(bandwidth / 1e9, 1),
        "limit_ms": round(limit * 1e3, 4),
    }
    print(
        f"{setting['device']}: reads {setting['bandwidth_gigabytes_per_second']} GB/s; a plain "
        f"step must read {setting['read_gigabytes']} GB: {setting['limit_ms']} ms"
    )
    kinds = {"plain": (PLAIN, None)}
    small = {"num_draft": _NUM_DRAFT.value}
    for name in ("prompt_lookup", "token_recycling"):
        kinds[name] = DraftConfig(name, **small), None
    if _STORE_TOKENS.value:
        index = random_index(model.vocab_size, _STORE_TOKENS.value)
        for name in ("rest", "mixed"):
            kinds[name] = DraftConfig(name, **small), index
    plain = None
    for name, (draft, index) in kinds.items():
        work = {
            "text_length": text_length,
            "batch_size": batch_size,
            "num_steps": _STEPS.value,
        }
        trace = _TRACE.value and f"{_TRACE.value}/{name}"
        found = roofline.time_steps(params, model, draft, index, trace=trace, **work)
        plain = plain or found.seconds
        line = setting | {
            "step": name,
            "num_draft": draft.num_draft,
            "store_tokens": _STORE_TOKENS.value if index is not None else 0,
            "ms_per_step": round(found.seconds * 1e3, 4),
            "ms_min": round(found.min * 1e3, 4),
            "ms_max": round(found.max * 1e3, 4),
            "share_of_limit": round(limit / found.seconds, 4),
            "times_plain_step": round(found.seconds / plain, 4),
        }
        _report(line)
    if _BASELINE.value:
        del params, kinds
        gc.collect()
        seconds = time_transformers(model, text_length, batch_size, 2 * _STEPS.value)
        line = setting | {"step": "transformers", "num_draft": 0, "store_tokens": 0}
        _report(
            line
            | {
                "ms_per_step": round(seconds * 1e3, 4),
                "share_of_limit": round(limit / seconds, 4),
                "times_plain_step": round(seconds / plain, 4),
            }
        )


def _report(line: dict) -> None:
    print(
        f"{line['step']:>12} {line['num_draft']:>3} nodes: {line['ms_per_step']:.3f} ms, "
        f"{line['share_of_limit']:.0%} of the limit, {line['times_plain_step']:.2f} plain "
        "steps",
        flush=True,
    )
    if _RECORDS.value:
        files.append_lines(_RECORDS.value, [line])


def random_index(vocab_size: int, num_tokens: int):
    """A datastore of random tokens on the device."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, vocab_size, num_tokens)
    print(f"building a datastore of {num_tokens:,} random tokens", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/store"
        build_datastore([tokens], path, tokenizer="", vocab_size=vocab_size, eos_id=0)
        return load_index(open_datastore(path))


def time_transformers(
    model: ModelConfig, text_length: int, batch_size: int, num_tokens: int
) -> float:
    """Seconds a token of transformers' greedy `generate`, after the prompt is read."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = write_model(model)
    config = transformers.AutoConfig.for_model(**values)
    config.eos_token_id = config.pad_token_id = None
    torch.set_default_dtype(getattr(torch, model.dtype))
    with torch.device(device), torch.no_grad():
        baseline = transformers.AutoModelForCausalLM.from_config(config).eval()
        prompt = torch.randint(1, model.vocab_size, (batch_size, text_length))

        def generate(count: int) -> float:
            before = time.perf_counter()
            baseline.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
            )
            if device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - before

        generate(2)
        few, many = num_tokens // 4, num_tokens
        return (generate(many) - generate(few)) / (many - few)


if __name__ == "__main__":
    command.run(main)

"""A language model of Python code, trained on the standard library.

    --config=experiments/configs/code_lm.py        3.3 M parameters: minutes on a CPU
    --config=experiments/configs/code_lm.py:gpu    12 layers x 768, context 1,024: one GPU
    --config=experiments/configs/code_lm.py:demo   the first, hardly trained: a minute or two

The standard library is little text for the larger one; `--config.corpus.folder=DIR`
takes another folder.
"""

from ml_collections import ConfigDict

from relay_jax import config as configs
from relay_jax import config_io

CPU = {
    "num_layers": 4,
    "dim": 192,
    "num_heads": 6,
    "mlp_dim": 512,
    "text_vocab_size": 4096,
}
GPU = {
    "num_layers": 12,
    "dim": 768,
    "num_heads": 12,
    "mlp_dim": 2048,
    "text_vocab_size": 32_000,
    "dtype": "bfloat16",
    "remat": True,
}
SIZES = ("cpu", "gpu", "demo")


def get_config(size: str = "cpu") -> ConfigDict:
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; choose one of {', '.join(SIZES)}")
    if size == "cpu":
        return ConfigDict(language_model("code_lm", CPU, context=256, batch_size=4))
    if size == "demo":
        values = language_model("code_lm_demo", CPU, 256, batch_size=4, num_steps=120)
        values["train"]["evaluation"]["final"] = 64
        return ConfigDict(values)
    values = language_model(
        "code_lm_gpu", GPU, context=1024, batch_size=32, num_steps=10_000
    )
    values["train"]["optimizer"]["learning_rate"] = 6e-4
    values["corpus"]["exclude"] = "site-packages encodings pydoc_data"
    return ConfigDict(values)


def language_model(
    name: str, model: dict, context: int, batch_size: int, num_steps: int = 800
) -> dict:
    """A decoder in the style of Llama: RMS norm, SwiGLU, RoPE, no dropout."""
    architecture = {"kind": "decoder", "norm": "rms", "activation": "swiglu"}
    bucket = {
        "task": "text",
        "kind": "text",
        "path": "train.npy",
        "lengths": (context, context),
    }
    train = {
        "name": name,
        "model": architecture | {"dropout": 0.0} | model,
        "optimizer": {
            "kind": "muon",
            "learning_rate": 3e-3,
            "warmup_share": 0.03,
            "weight_decay": 0.1,
            "b2": 0.98,
        },
        "data": {"batch_size": batch_size, "buckets": {"code": bucket}},
        "evaluation": {
            "text": "held_out.npy",
            "context": context,
            "every_steps": num_steps // 4,
            "during": 32,
            "final": 256,
            "batch_size": batch_size,
        },
        "num_steps": num_steps,
        "log_every_steps": 25,
        "checkpoint_every_seconds": 30.0,
    }
    return config_io.complete(configs.LanguageConfig, {"train": train})

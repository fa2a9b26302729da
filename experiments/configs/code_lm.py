"""A code language model for a CPU: 3.3 M parameters, the standard library, minutes.

4 layers x 192; experiments/configs/code_lm_gpu.py is larger.
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


def get_config() -> ConfigDict:
    return ConfigDict(language_model("code_lm", CPU, context=256, batch_size=4))


def language_model(
    name: str, model: dict, context: int, batch_size: int, num_steps: int = 800
) -> dict:
    """A decoder as today's: RMS norm, SwiGLU, RoPE, no dropout."""
    kinds = {"kind": "decoder", "norm": "rms", "activation": "swiglu", "dropout": 0.0}
    bucket = {
        "task": "text",
        "kind": "text",
        "path": "train.npy",
        "lengths": (context, context),
    }
    train = {
        "name": name,
        "model": kinds | model,
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

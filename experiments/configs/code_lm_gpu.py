"""A code language model for one GPU: 12 layers x 768, 32,000 words, context 1,024.

The standard library is little text for it; `--config.corpus.folder=DIR` names more.
"""

from ml_collections import ConfigDict

from experiments.configs.code_lm import language_model

GPU = {
    "num_layers": 12,
    "dim": 768,
    "num_heads": 12,
    "mlp_dim": 2048,
    "text_vocab_size": 32_000,
    "dtype": "bfloat16",
    "remat": True,
}


def get_config() -> ConfigDict:
    values = language_model(
        "code_lm_gpu", GPU, context=1024, batch_size=32, num_steps=10_000
    )
    values["train"]["optimizer"]["learning_rate"] = 6e-4
    values["corpus"]["exclude"] = "site-packages encodings pydoc_data"
    return ConfigDict(values)

"""A random Hugging Face folder with a tokenizer, HumanEval-like problems, and a corpus."""

import json
import pathlib
from collections.abc import Sequence

from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.data.language_corpus import train_tokenizer
from relay_jax.models import hf_weights
from relay_jax.training.step import init_params

MODEL = ModelConfig(
    kind="decoder",
    num_layers=1,
    dim=16,
    num_heads=2,
    mlp_dim=16,
    norm="rms",
    activation="swiglu",
    dropout=0.0,
    text_vocab_size=300,
)
PROMPTS = {"HumanEval/0": "def add(a, b):\n", "HumanEval/1": "import os\n\nclass A:\n"}
SOURCE = 'def add(a, b):\n    """Adds."""\n    return a + b\n\n\nimport os\nclass A:\n'


def write_model(
    folder: pathlib.Path, texts: Sequence[str] = (SOURCE,), model: ModelConfig = MODEL
) -> pathlib.Path:
    hf_weights.save_params(init_params(TrainConfig(model=model)), model, folder)
    tokenizer = train_tokenizer(texts, model.vocab_size)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    return folder


def make_theirs(config, spread: float):
    """A random model of transformers whose weights are large enough to vary its texts.

    Args:
      config: of transformers.
      spread: standard deviation of what is added to each weight.
    """
    import torch
    import transformers

    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for leaf in model.parameters():
            leaf += spread * torch.randn_like(leaf)
    return model


def write_problems(file: pathlib.Path) -> pathlib.Path:
    lines = ({"task_id": key, "prompt": text} for key, text in PROMPTS.items())
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def write_corpus(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.py").write_text(SOURCE * (number + 1))
    return folder

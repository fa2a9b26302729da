"""Training in PyTorch with the project's parameters and batches: the baseline of
`benchmarks/train.py`.

AdamW is fused. What a task's scratchpad contains is computed before the timed steps.
"""

import time

import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from experiments.benchmarks.torch_model import TorchModel
from relay_jax.base import Array
from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.data import loader
from relay_jax.models.sharding import named_leaves
from relay_jax.rest import roofline


def check(config: TrainConfig) -> None:
    """Raises ValueError at settings that the baseline does not implement."""
    model, default = config.model, ModelConfig()
    unsupported = [
        f"model.{name}={getattr(model, name)!r}"
        for name in ("number_code", "differences", "feedback", "tie_embeddings")
        if getattr(model, name) != getattr(default, name)
    ]
    unsupported += [
        f"model.position.{name}={getattr(model.position, name)!r}"
        for name in ("rope_scaling", "window")
        if getattr(model.position, name) != getattr(default.position, name)
    ]
    if model.resolved_num_kv_heads != model.num_heads:
        unsupported.append(f"model.num_kv_heads={model.num_kv_heads}")
    if config.loss.max_value_offset:
        unsupported.append("loss.max_value_offset")
    if unsupported:
        raise ValueError(
            f"the PyTorch baseline does not implement {', '.join(unsupported)}; use a "
            "config without, or leave out --baseline"
        )


class Trainer:
    """Training steps of the baseline: loss, gradients, clipping, AdamW, and the average
    of the parameters if the config asks for it."""

    def __init__(self, config: TrainConfig, params, compiled: bool = False):
        check(config)
        self.config, self.count = config, 0
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_params(TorchModel(config.model, config.loss), params)
        self.model = self.model.to(self.device)
        self.loss = torch.compile(self.model) if compiled else self.model
        self.params = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.params,
            lr=config.optimizer.learning_rate,
            betas=(0.9, config.optimizer.b2),
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self.average = [param.detach().clone() for param in self.params]

    def prepare(self, step: loader.Step):
        """The arguments of `self.step`: batch, scratchpad, weight of the task's loss."""
        config, scratchpad = self.config, None
        if config.model.kind == "looped" and config.model.input_injection == "feedback":
            problem = jnp.asarray(step.batch.problem)
            scratchpad = self._to_tensors(step.task.scratchpad(problem, step.num_loops))
        weight = config.loss.task_weights.get(step.task.name, 1.0)
        return self._to_tensors(step.batch), scratchpad, weight

    def _to_tensors(self, values):
        """A batch or a scratchpad with tensors in place of arrays."""

        def convert(value):
            if isinstance(value, bool):
                return value
            tensor = torch.from_numpy(np.array(value))
            is_mask = tensor.dtype == torch.bool
            return (tensor if is_mask else tensor.long()).to(self.device)

        return type(values)(*map(convert, values))

    def step(self, batch, scratchpad, weight: float) -> Tensor:
        """One training step; returns the loss."""
        config, loss = self.config.optimizer, self.config.loss
        progress = self.count / self.config.num_steps
        forcing = loss.forcing_start + progress * (
            loss.forcing_end - loss.forcing_start
        )
        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        dtype = getattr(torch, self.config.model.dtype)
        with torch.autocast(self.device, dtype, enabled=dtype != torch.float32):
            value = self.loss(batch, scratchpad, forcing, weight)
        value.backward()
        nn.utils.clip_grad_norm_(self.params, config.clip_norm, foreach=True)
        self.optimizer.step()
        self.count += 1
        if config.average_share:
            rate = min(1.0, 1 / (config.average_share * self.count))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.params, rate)
        return value.detach()

    def learning_rate(self) -> float:
        """The schedule of `relay_jax.training.optimizer` at this step."""
        config, num_steps = self.config.optimizer, self.config.num_steps
        warmup = max(round(config.warmup_share * num_steps), 1)
        constant = round(config.constant_share * num_steps)
        decay = max(num_steps - warmup - constant, 1)
        remaining = (warmup + constant + decay - self.count) / decay
        return config.learning_rate * max(min(self.count / warmup, remaining, 1.0), 0.0)

    def wait(self) -> None:
        """Blocks until the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def load_params(model: TorchModel, params) -> TorchModel:
    """The PyTorch model with the parameters of the linen model."""
    leaves = named_leaves(params)
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(torch.from_numpy(translate(name, leaves)))
    return model


def translate(name: str, leaves: dict[str, Array]) -> np.ndarray:
    """The linen parameters, or gradients, that correspond to a PyTorch parameter.

    Args:
      name: of the PyTorch parameter.
      leaves: of the linen model by their paths (`named_leaves`).
    """
    if name.startswith("layers."):
        _, index, name = name.split(".", 2)
        is_stacked = "layers/attention/out/kernel" in leaves  # in a decoder
        start = "layers/" if is_stacked else f"layer_{index}/"
        leaves = {
            path.removeprefix(start): leaf[int(index)] if is_stacked else leaf
            for path, leaf in leaves.items()
            if path.startswith(start)
        }
    parts = []
    for path in PATHS.get(name, [f"{name}/words"]):
        part = np.array(leaves[path])
        if path.endswith("kernel"):  # linen: inputs first, heads separate
            part = part.reshape(len(part), -1).T
        parts.append(part.reshape(-1) if path.endswith("bias") else part)
    return np.concatenate(parts)


# Linen paths by PyTorch name; other embedding tables have the same name in both.
PATHS = {"marks": ["marks"], "embedding": ["words/words"]}
for _name in ("attention_norm", "feed_forward_norm", "norm"):
    PATHS |= {f"{_name}.weight": [f"{_name}/scale"], f"{_name}.bias": [f"{_name}/bias"]}
for _name, _leaf in (("weight", "kernel"), ("bias", "bias")):
    PATHS[f"qkv.{_name}"] = [
        f"attention/{part}/{_leaf}" for part in ("query", "key", "value")
    ]
for _name in ("up", "gate", "down"):
    PATHS[f"{_name}.weight"] = [f"feed_forward/{_name}/kernel"]
PATHS["out.weight"] = ["attention/out/kernel"]
for _name in ("table", "slopes"):
    PATHS[_name] = [f"attention/relative_bias/{_name}"]


def matrix_rate(dtype: str = "float32") -> float:
    """`relay_jax.rest.roofline.matrix_rate` (FLOP/s) by PyTorch."""
    device, rates = "cuda" if torch.cuda.is_available() else "cpu", []
    for size in roofline.matrix_sizes():
        matrix = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
        for _ in range(8 * roofline.ROUNDS):
            before = time.perf_counter()
            torch.matmul(matrix, matrix)
            if device == "cuda":
                torch.cuda.synchronize()
            rates.append(2 * size**3 / (time.perf_counter() - before))
    return max(rates)

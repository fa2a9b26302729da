"""The same models in PyTorch, for `benchmarks/train.py`: what our step is timed beside.

Written as one writes PyTorch that has to be fast. One product makes queries, keys and
values; attention is `scaled_dot_product_attention`; AdamW is fused; position biases and
rotations are made once a step and not in every loop; rounds are said after the last loop,
all in one product, and only where the model hears itself within a loop. What a task's
scratchpad holds is made before the time is taken.
"""

import math
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relay_jax.base import Array, DecoderBatch, LoopedBatch, Scratchpad
from relay_jax.config import LossConfig, ModelConfig, TrainConfig
from relay_jax.data import loader
from relay_jax.models.feedback import NUM_POINTERS
from relay_jax.models.sharding import named_leaves
from relay_jax.rest import roofline
from relay_jax.vocabulary import PAD

MASK_VALUE = -1e9  # finite: a head that looks away from all there is stays finite


class Places(NamedTuple):
    """What attention adds to scores and does to queries and keys."""

    bias: Tensor | None  # [b or 1, h or 1, n or 1, n]: to the scores, or who sees whom
    factor: Tensor | float  # [b or 1, 1, n, 1]: of the queries
    turn: tuple[Tensor, Tensor] | None  # [n, e] each: RoPE's cosines and sines
    is_causal: bool = False


def check(config: TrainConfig) -> None:
    """Raises ValueError at what the peer does not have."""
    model, plain = config.model, ModelConfig()
    place, usual = model.position, plain.position
    wrong = [
        f"model.{name}={getattr(model, name)!r}"
        for name in ("number_code", "differences", "feedback", "tie_embeddings")
        if getattr(model, name) != getattr(plain, name)
    ]
    wrong += [
        f"model.position.{name}={getattr(place, name)!r}"
        for name in ("rope_scaling", "window")
        if getattr(place, name) != getattr(usual, name)
    ]
    if model.resolved_num_kv_heads != model.num_heads:
        wrong.append(f"model.num_kv_heads={model.num_kv_heads}")
    if config.loss.max_value_offset:
        wrong.append("loss.max_value_offset")
    if wrong:
        raise ValueError(
            f"the PyTorch peer has no {', '.join(wrong)}; take a config without, or "
            "leave --peer out"
        )


class Layer(nn.Module):
    """Pre-norm Transformer layer."""

    def __init__(self, model: ModelConfig):
        super().__init__()
        self.model, place = model, model.position
        inner = model.num_heads * model.resolved_head_dim
        self.attention_norm = make_norm(model)
        self.qkv = nn.Linear(model.dim, 3 * inner, bias=model.qkv_bias)
        self.out = nn.Linear(inner, model.dim, bias=False)
        self.feed_forward_norm = make_norm(model)
        self.up = nn.Linear(model.dim, model.mlp_dim, bias=False)
        if model.activation == "swiglu":
            self.gate = nn.Linear(model.dim, model.mlp_dim, bias=False)
        self.down = nn.Linear(model.mlp_dim, model.dim, bias=False)
        self.dropout = nn.Dropout(model.dropout)
        if place.scheme == "relative_bias":
            size = 2 * place.max_distance + 1
            self.table = nn.Parameter(torch.zeros(size, model.num_heads))
            if place.distance_slopes:
                self.slopes = nn.Parameter(torch.zeros(2, model.num_heads))

    def bias(self, distance: Tensor) -> Tensor | None:
        """What each head adds for places: [h, n, n]."""
        place, parts = self.model.position, []
        if place.scheme == "relative_bias":
            clip = place.max_distance
            index = distance.clamp(-clip, clip) + clip
            parts.append(F.embedding(index, self.table * place.bias_scale))
            if place.distance_slopes:
                if place.slope_reach:
                    distance = distance.clamp(-place.slope_reach, place.slope_reach)
                sides = torch.stack([-distance, distance], -1).clamp_min(0)
                parts.append(-sides.to(self.slopes) @ (self.slopes * place.bias_scale))
        if place.directional_heads:
            heads = torch.arange(self.model.num_heads, device=distance.device)
            looks_left = heads < self.model.num_heads // 2
            hidden = torch.where(looks_left, distance[..., None], -distance[..., None])
            parts.append(torch.zeros_like(hidden, dtype=torch.float32))
            parts[-1].masked_fill_(hidden > 0, MASK_VALUE)
        return sum(parts).permute(2, 0, 1) if parts else None

    def forward(self, x: Tensor, places: Places) -> Tensor:
        x = x + self.dropout(self.attend(self.attention_norm(x), places))
        normed = self.feed_forward_norm(x)
        hidden = self.up(normed)
        if self.model.activation == "swiglu":
            hidden = F.silu(self.gate(normed)) * hidden
        elif self.model.activation == "relu":
            hidden = F.relu(hidden)
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        return x + self.dropout(self.down(hidden))

    def attend(self, x: Tensor, places: Places) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.model.num_heads, -1))
        query, key, value = split.transpose(1, 3).unbind(2)
        if places.turn is not None:
            query, key = rotate(query, places.turn), rotate(key, places.turn)
        if isinstance(places.factor, Tensor):
            query = query * places.factor.to(query.dtype)
        bias = places.bias
        if bias is not None and bias.is_floating_point():
            bias = bias.to(query.dtype)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=places.is_causal
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class Peer(nn.Module):
    """Looped model or decoder, with its loss."""

    def __init__(self, model: ModelConfig, loss: LossConfig):
        super().__init__()
        self.model, self.loss = model, loss
        self.layers = nn.ModuleList(Layer(model) for _ in range(model.num_layers))
        self.norm = make_norm(model)
        tables = ["words", "head"]
        if model.kind == "looped":
            tables = ["problem_words", "round_head", "answer_head"]
            if model.input_injection == "feedback":
                tables.append("memory_words")
                self.marks = nn.Parameter(torch.zeros(2, NUM_POINTERS, model.dim))
        for name in tables:
            table = nn.Parameter(torch.zeros(model.vocab_size, model.dim))
            self.register_parameter(name, table)

    def forward(
        self, batch, scratchpad=None, forcing: float = 1.0, weight: float = 1.0
    ):
        """The loss of a batch of the project's own, as tensors."""
        if self.model.kind == "decoder":
            return weight * self.decoder_loss(batch)
        return weight * self.looped_loss(batch, scratchpad, forcing)

    def decoder_loss(self, batch: DecoderBatch) -> Tensor:
        tokens, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]
        trained = batch.trained[:, 1:].float()
        x = F.embedding(tokens, self.words)
        for layer, places in zip(self.layers, self.places(tokens.shape[1], tokens)):
            x = layer(x, places)
        logits = F.linear(self.norm(x), self.head).float()
        entropy = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
        return (entropy * trained.flatten()).sum() / trained.sum().clamp_min(1)

    def looped_loss(
        self, batch: LoopedBatch, scratchpad: Scratchpad | None, forcing: float
    ) -> Tensor:
        problem, num_loops = batch.problem, len(batch.rounds)
        feedback = self.model.input_injection == "feedback"
        memory = scratchpad.initial if feedback else None
        hidden = None if feedback else F.embedding(problem, self.problem_words)
        spoken = []
        usual = None if feedback else self.places(problem.shape[1], seen=problem != PAD)
        per_layer = self.biases(problem.shape[1]) if feedback else None
        for t in range(num_loops):
            if feedback:
                x, seen = self.read(memory, problem, scratchpad, t)
                places = self.places(problem.shape[1], seen=seen, biases=per_layer)
            else:
                x, places = hidden, usual
            for layer, place in zip(self.layers, places):
                x = layer(x, place)
            hidden = self.norm(x)
            spoken.append(hidden)
            if feedback:
                memory = self.write(
                    memory, hidden, batch.rounds[t], scratchpad, t, forcing
                )
        said = torch.stack(spoken)
        own = (batch.num_rounds - 1).clamp_min(0).long()
        last = said[own, torch.arange(len(own), device=own.device), -1]
        entropy = F.cross_entropy(
            F.linear(last, self.answer_head).float(),
            batch.answer,
            ignore_index=PAD,
            reduction="sum",
        )
        total = self.loss.answer_weight * entropy / len(own)
        if self.loss.round_weight:
            total = total + self.loss.round_weight * self.round_loss(said, batch)
        return total

    def round_loss(self, said: Tensor, batch: LoopedBatch) -> Tensor:
        columns = batch.rounds.shape[-1]
        logits = F.linear(said[..., -columns:, :], self.round_head).float()
        entropy = F.cross_entropy(
            logits.flatten(0, 2), batch.rounds.flatten(), reduction="none"
        )
        mask = batch.mask.float()
        share = mask / mask.sum(-1, keepdim=True).clamp_min(1)
        share = share / batch.num_rounds[:, None] / mask.shape[1]
        return entropy @ share.flatten()

    def read(self, memory: Tensor, problem: Tensor, scratchpad: Scratchpad, t: int):
        """A loop's input from the memory, and which of its places can be seen."""
        held = memory != PAD
        seen = held | F.pad(held[:, 1:], (0, 1))
        x = F.embedding(memory, self.memory_words) * seen[..., None]
        if scratchpad.shows_problem:
            x = x + F.embedding(problem, self.problem_words)
            seen = seen | (problem != PAD)
            # Tasks that have marks show the problem too.
            for table, marks in zip(self.marks, scratchpad.pointers[t].unbind(-1)):
                x = x + F.embedding(marks, table) * (marks > 0)[..., None]
        return x, seen

    def write(self, memory, hidden, told, scratchpad, t, forcing):
        """What was said, or the teacher's round instead, goes into the memory."""
        told = F.pad(told, (hidden.shape[1] - told.shape[1], 0))
        if forcing < 1:
            with torch.no_grad():
                said = F.linear(hidden, self.round_head).argmax(-1)
                is_open = (said.flip(1) != PAD).cumprod(1).flip(1)
                said = torch.where(is_open > 0, said, PAD)
                forced = torch.rand(len(told), 1, device=told.device) < forcing
                told = torch.where(forced, told, said)
        source, given = scratchpad.copy_from[t], scratchpad.constants[t]
        moved = told.gather(1, source.clamp_min(0))
        return torch.where(given >= 0, given, torch.where(source >= 0, moved, memory))

    def biases(self, width: int) -> list[Tensor | None]:
        place = torch.arange(width, device=self.norm.weight.device)
        return [layer.bias(place - place[:, None]) for layer in self.layers]

    def places(self, width, tokens=None, seen=None, biases=None) -> list[Places]:
        """For each layer. `seen` are the keys that all queries see; else it is causal."""
        model, place = self.model, self.model.position
        device = self.norm.weight.device
        biases = biases or self.biases(width)
        if seen is None:
            visible = torch.ones(width, width, dtype=torch.bool, device=device).tril()
            visible = visible[None, None]
        else:
            visible = seen[:, None, None]
        factor, turn = 1.0, None
        if place.log_length_scaling:
            count = visible.sum(-1, keepdim=True).clamp_min(2)
            factor = count.log() / math.log(place.reference_length)
        if place.scheme == "rope":
            half = model.resolved_head_dim // 2
            power = -torch.arange(half, device=device) / half
            angle = torch.arange(width, device=device)[:, None] * place.rope_base**power
            turn = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        if biases[0] is None:
            mask = None if seen is None else visible
            return [Places(mask, factor, turn, seen is None)] * len(biases)
        hidden = torch.zeros_like(visible, dtype=torch.float32)
        hidden.masked_fill_(~visible, MASK_VALUE)
        return [Places(bias + hidden, factor, turn) for bias in biases]


class Trainer:
    """Steps of the peer: loss, gradients, clipping, AdamW, and the average if any."""

    def __init__(self, config: TrainConfig, params, compiled: bool = False):
        check(config)
        self.config, self.count = config, 0
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.peer = load(Peer(config.model, config.loss), params).to(self.device)
        self.loss = torch.compile(self.peer) if compiled else self.peer
        chosen = config.optimizer
        self.params = list(self.peer.parameters())
        self.optimizer = torch.optim.AdamW(
            self.params,
            lr=chosen.learning_rate,
            betas=(0.9, chosen.b2),
            weight_decay=chosen.weight_decay,
            fused=True,
        )
        self.average = [param.detach().clone() for param in self.params]

    def prepare(self, step: loader.Step):
        """The arguments of `self.step`: batch, scratchpad, weight of the task's loss."""
        config, scratchpad = self.config, None
        if config.model.kind == "looped" and config.model.input_injection == "feedback":
            made = step.task.scratchpad(jnp.asarray(step.batch.problem), step.num_loops)
            scratchpad = self._to_tensors(made)
        weight = config.loss.task_weights.get(step.task.name, 1.0)
        return self._to_tensors(step.batch), scratchpad, weight

    def _to_tensors(self, values):
        """A batch or a scratchpad of ours, as tensors."""

        def convert(value):
            if isinstance(value, bool):
                return value
            tensor = torch.from_numpy(np.array(value))
            is_mask = tensor.dtype == torch.bool
            return (tensor if is_mask else tensor.long()).to(self.device)

        return type(values)(*map(convert, values))

    def step(self, batch, scratchpad, weight: float) -> Tensor:
        config, loss = self.config.optimizer, self.config.loss
        progress = self.count / self.config.num_steps
        forcing = loss.forcing_start + progress * (
            loss.forcing_end - loss.forcing_start
        )
        self.optimizer.param_groups[0]["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        bits = getattr(torch, self.config.model.dtype)
        with torch.autocast(self.device, bits, enabled=bits != torch.float32):
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

    def rate(self) -> float:
        """The schedule of `relay_jax.training.optimizer`."""
        config, num_steps = self.config.optimizer, self.config.num_steps
        warmup = max(round(config.warmup_share * num_steps), 1)
        constant = round(config.constant_share * num_steps)
        decay = max(num_steps - warmup - constant, 1)
        left = (warmup + constant + decay - self.count) / decay
        return config.learning_rate * max(min(self.count / warmup, left, 1.0), 0.0)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def make_norm(model: ModelConfig) -> nn.Module:
    kind = nn.RMSNorm if model.norm == "rms" else nn.LayerNorm
    return kind(model.dim, eps=model.norm_epsilon)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs (i, i + e/2) turn together; x: [b, h, n, e]."""
    cosine, sine = turn
    left, right = x.chunk(2, -1)
    return x * cosine + torch.cat([-right, left], -1) * sine


def load(peer: Peer, params) -> Peer:
    """Our parameters into the peer."""
    leaves = named_leaves(params)
    with torch.no_grad():
        for name, param in peer.named_parameters():
            param.copy_(torch.from_numpy(translate(name, leaves)))
    return peer


def translate(name: str, leaves: dict[str, Array]) -> np.ndarray:
    """What stands for one of the peer's parameters among ours, or their gradients.

    Args:
      leaves: by their paths, see `named_leaves`.
    """
    if name.startswith("layers."):
        _, index, name = name.split(".", 2)
        is_stacked = "layers/attention/out/kernel" in leaves  # a decoder's are
        start = "layers/" if is_stacked else f"layer_{index}/"
        leaves = {
            path.removeprefix(start): leaf[int(index)] if is_stacked else leaf
            for path, leaf in leaves.items()
            if path.startswith(start)
        }
    parts = []
    for path in PATHS.get(name, [f"{name}/words"]):
        part = np.array(leaves[path])
        if path.endswith("kernel"):  # input first, and heads apart
            part = part.reshape(len(part), -1).T
        parts.append(part.reshape(-1) if path.endswith("bias") else part)
    return np.concatenate(parts)


PATHS = {"marks": ["marks"]}  # by the peer's names; tables are not here
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
    """As `relay_jax.rest.roofline.matrix_rate`, by PyTorch."""
    device, found = "cuda" if torch.cuda.is_available() else "cpu", []
    for size in roofline.matrix_sizes():
        matrix = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
        for _ in range(8 * roofline.ROUNDS):
            before = time.perf_counter()
            torch.matmul(matrix, matrix)
            if device == "cuda":
                torch.cuda.synchronize()
            found.append(2 * size**3 / (time.perf_counter() - before))
    return max(found)

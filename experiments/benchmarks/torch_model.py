"""The project's models in PyTorch, with their losses: what our training step is compared
with (`torch_baseline.py`).

Written as fast PyTorch is written. One product computes queries, keys and values;
attention is `scaled_dot_product_attention`; position biases and rotations are computed
once per step instead of once per loop; the logits of all rounds are one product after the
last loop, and within a loop only where the model is fed its own rounds.

Parameters are named after the linen modules that they correspond to; the exceptions are
in `torch_baseline.PATHS`.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relay_jax.base import DecoderBatch, LoopedBatch, Scratchpad
from relay_jax.config import LossConfig, ModelConfig
from relay_jax.models.feedback import NUM_POINTERS
from relay_jax.vocabulary import PAD

MASK_VALUE = -1e9  # finite, so that a head that masks every key has finite scores


class AttentionPositions(NamedTuple):
    """How positions enter the attention of a layer."""

    bias: (
        Tensor | None
    )  # [b or 1, h or 1, n or 1, n], added to scores; or a boolean mask
    scale: Tensor | float  # [b or 1, 1, n, 1], of the queries
    rotation: tuple[Tensor, Tensor] | None  # [n, e] each: RoPE's cosines and sines
    is_causal: bool = False


class Layer(nn.Module):
    """A pre-norm Transformer layer."""

    def __init__(self, model: ModelConfig):
        super().__init__()
        self.model, position = model, model.position
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
        if position.scheme == "relative_bias":
            size = 2 * position.max_distance + 1
            self.table = nn.Parameter(torch.zeros(size, model.num_heads))
            if position.distance_slopes:
                self.slopes = nn.Parameter(torch.zeros(2, model.num_heads))

    def bias(self, distance: Tensor) -> Tensor | None:
        """The position bias of each head, [h, n, n], for distances [n, n]."""
        position, parts = self.model.position, []
        if position.scheme == "relative_bias":
            clip = position.max_distance
            index = distance.clamp(-clip, clip) + clip
            parts.append(F.embedding(index, self.table * position.bias_scale))
            if position.distance_slopes:
                if reach := position.slope_reach:
                    distance = distance.clamp(-reach, reach)
                sides = torch.stack([-distance, distance], -1).clamp_min(0)
                parts.append(
                    -sides.to(self.slopes) @ (self.slopes * position.bias_scale)
                )
        if position.directional_heads:
            heads = torch.arange(self.model.num_heads, device=distance.device)
            looks_left = heads < self.model.num_heads // 2
            ahead = torch.where(looks_left, distance[..., None], -distance[..., None])
            parts.append(torch.zeros_like(ahead, dtype=torch.float32))
            parts[-1].masked_fill_(ahead > 0, MASK_VALUE)
        return sum(parts).permute(2, 0, 1) if parts else None

    def forward(self, x: Tensor, positions: AttentionPositions) -> Tensor:
        x = x + self.dropout(self.attend(self.attention_norm(x), positions))
        normed = self.feed_forward_norm(x)
        hidden = self.up(normed)
        if self.model.activation == "swiglu":
            hidden = F.silu(self.gate(normed)) * hidden
        elif self.model.activation == "relu":
            hidden = F.relu(hidden)
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        return x + self.dropout(self.down(hidden))

    def attend(self, x: Tensor, positions: AttentionPositions) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.model.num_heads, -1))
        query, key, value = split.transpose(1, 3).unbind(2)
        if positions.rotation is not None:
            query = rotate(query, positions.rotation)
            key = rotate(key, positions.rotation)
        if isinstance(positions.scale, Tensor):
            query = query * positions.scale.to(query.dtype)
        bias = positions.bias
        if bias is not None and bias.is_floating_point():
            bias = bias.to(query.dtype)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=positions.is_causal
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class TorchModel(nn.Module):
    """The looped model or the decoder, with its loss."""

    def __init__(self, model: ModelConfig, loss: LossConfig):
        super().__init__()
        self.model, self.loss = model, loss
        self.layers = nn.ModuleList(Layer(model) for _ in range(model.num_layers))
        self.norm = make_norm(model)
        tables = ["embedding", "head"]
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
    ) -> Tensor:
        """The loss of one of the project's batches, as tensors.

        Args:
          scratchpad: with feedback, the task's `Scratchpad` as tensors.
          forcing: the probability of teacher forcing.
          weight: of the task's loss.
        """
        if self.model.kind == "decoder":
            return weight * self.decoder_loss(batch)
        return weight * self.looped_loss(batch, scratchpad, forcing)

    def decoder_loss(self, batch: DecoderBatch) -> Tensor:
        tokens, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]
        trained = batch.trained[:, 1:].float()
        x = F.embedding(tokens, self.embedding)
        for layer, positions in zip(self.layers, self.positions(tokens.shape[1])):
            x = layer(x, positions)
        logits = F.linear(self.norm(x), self.head).float()
        entropy = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
        return (entropy * trained.flatten()).sum() / trained.sum().clamp_min(1)

    def looped_loss(
        self, batch: LoopedBatch, scratchpad: Scratchpad | None, forcing: float
    ) -> Tensor:
        hidden = self.run_loops(batch, scratchpad, forcing)
        last_loop = (batch.num_rounds - 1).clamp_min(0).long()
        rows = torch.arange(len(last_loop), device=last_loop.device)
        entropy = F.cross_entropy(
            F.linear(hidden[last_loop, rows, -1], self.answer_head).float(),
            batch.answer,
            ignore_index=PAD,
            reduction="sum",
        )
        total = self.loss.answer_weight * entropy / len(last_loop)
        if self.loss.round_weight:
            total = total + self.loss.round_weight * self.round_loss(hidden, batch)
        return total

    def run_loops(
        self, batch: LoopedBatch, scratchpad: Scratchpad | None, forcing: float
    ) -> Tensor:
        """The hidden states after every loop, [t, b, n, d]."""
        problem = batch.problem
        if scratchpad is None:
            x = F.embedding(problem, self.problem_words)
            positions = self.positions(problem.shape[1], visible_keys=problem != PAD)
        else:
            tokens, biases = scratchpad.initial, self.biases(problem.shape[1])
        states = []
        for t in range(len(batch.rounds)):
            if scratchpad is not None:
                x, visible = self.read(tokens, problem, scratchpad, t)
                positions = self.positions(problem.shape[1], visible, biases)
            for layer, layer_positions in zip(self.layers, positions):
                x = layer(x, layer_positions)
            x = self.norm(x)
            states.append(x)
            if scratchpad is not None:
                rounds = self.fed_back(x, batch.rounds[t], forcing)
                tokens = write(tokens, rounds, scratchpad, t)
        return torch.stack(states)

    def round_loss(self, hidden: Tensor, batch: LoopedBatch) -> Tensor:
        width = batch.rounds.shape[-1]
        logits = F.linear(hidden[..., -width:, :], self.round_head).float()
        entropy = F.cross_entropy(
            logits.flatten(0, 2), batch.rounds.flatten(), reduction="none"
        )
        mask = batch.mask.float()
        weights = mask / mask.sum(-1, keepdim=True).clamp_min(1)
        weights = weights / batch.num_rounds[:, None] / mask.shape[1]
        return entropy @ weights.flatten()

    def read(
        self, tokens: Tensor, problem: Tensor, scratchpad: Scratchpad, t: int
    ) -> tuple[Tensor, Tensor]:
        """The input of loop t from the scratchpad's tokens, and its visible positions."""
        is_token = tokens != PAD
        visible = is_token | F.pad(is_token[:, 1:], (0, 1))
        x = F.embedding(tokens, self.memory_words) * visible[..., None]
        if scratchpad.shows_problem:
            x = x + F.embedding(problem, self.problem_words)
            visible = visible | (problem != PAD)
            # Tasks that have pointers show the problem too.
            for table, marks in zip(self.marks, scratchpad.pointers[t].unbind(-1)):
                x = x + F.embedding(marks, table) * (marks > 0)[..., None]
        return x, visible

    def fed_back(self, hidden: Tensor, target: Tensor, forcing: float) -> Tensor:
        """The true round, right-aligned, or with probability 1 - `forcing` the predicted
        one."""
        target = F.pad(target, (hidden.shape[1] - target.shape[1], 0))
        if forcing >= 1:
            return target
        with torch.no_grad():
            predicted = F.linear(hidden, self.round_head).argmax(-1)
            # A round ends, from the right, before its first padding.
            is_round = (predicted.flip(1) != PAD).cumprod(1).flip(1)
            predicted = torch.where(is_round > 0, predicted, PAD)
            forced = torch.rand(len(target), 1, device=target.device) < forcing
            return torch.where(forced, target, predicted)

    def biases(self, width: int) -> list[Tensor | None]:
        """The position bias of each layer."""
        index = torch.arange(width, device=self.norm.weight.device)
        return [layer.bias(index - index[:, None]) for layer in self.layers]

    def positions(
        self,
        width: int,
        visible_keys: Tensor | None = None,
        biases: list[Tensor | None] | None = None,
    ) -> list[AttentionPositions]:
        """The positions of each layer.

        Args:
          visible_keys: [b, n], visible to all queries; None: causal attention.
        """
        position, device = self.model.position, self.norm.weight.device
        biases = biases or self.biases(width)
        if visible_keys is None:
            visible = torch.ones(width, width, dtype=torch.bool, device=device).tril()
            visible = visible[None, None]
        else:
            visible = visible_keys[:, None, None]
        scale, rotation = 1.0, None
        if position.log_length_scaling:
            count = visible.sum(-1, keepdim=True).clamp_min(2)
            scale = count.log() / math.log(position.reference_length)
        if position.scheme == "rope":
            half = self.model.resolved_head_dim // 2
            power = -torch.arange(half, device=device) / half
            index = torch.arange(width, device=device)[:, None]
            angle = index * position.rope_base**power
            rotation = (
                torch.cat([angle.cos()] * 2, -1),
                torch.cat([angle.sin()] * 2, -1),
            )
        if biases[0] is None:
            is_causal = visible_keys is None
            mask = None if is_causal else visible
            return [AttentionPositions(mask, scale, rotation, is_causal)] * len(biases)
        masked = torch.zeros_like(visible, dtype=torch.float32)
        masked.masked_fill_(~visible, MASK_VALUE)
        return [AttentionPositions(bias + masked, scale, rotation) for bias in biases]


def write(tokens: Tensor, rounds: Tensor, scratchpad: Scratchpad, t: int) -> Tensor:
    """The scratchpad's tokens after loop t: constants, copies of the round's tokens, or
    the tokens before."""
    copy_from, constants = scratchpad.copy_from[t], scratchpad.constants[t]
    copied = rounds.gather(1, copy_from.clamp_min(0))
    copied = torch.where(copy_from >= 0, copied, tokens)
    return torch.where(constants >= 0, constants, copied)


def make_norm(model: ModelConfig) -> nn.Module:
    kind = nn.RMSNorm if model.norm == "rms" else nn.LayerNorm
    return kind(model.dim, eps=model.norm_epsilon)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE: rotates the pairs (i, i + e/2) of x [b, h, n, e]."""
    cosine, sine = rotation
    left, right = x.chunk(2, -1)
    return x * cosine + torch.cat([-right, left], -1) * sine

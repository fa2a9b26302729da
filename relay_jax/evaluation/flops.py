"""The number of floating-point operations that a training step requires.

A product with a parameter matrix costs two operations per entry and position in the
forward pass, and four in the backward pass; so do the two products of attention, with n
keys per query:

    6 x entries x positions + 12 x n h e x layers x positions

The looped model repeats this in each loop. Only operations that the model requires are
counted (Chowdhery et al. 2022, appendix B): not those that `remat` repeats, elementwise
operations or the lookup of embeddings, but all of causal attention, as is usual.
"""

from relay_jax.config import BucketConfig, ModelConfig, TrainConfig
from relay_jax.data.alignment import max_looped_width, max_new_tokens
from relay_jax.data.buckets import bucket_rounds, bucket_task

FORWARD_AND_BACKWARD = 6  # operations per entry and position


def layer_entries(model: ModelConfig) -> int:
    """Entries of the matrices of one layer."""
    heads = (
        2 * model.num_heads + 2 * model.resolved_num_kv_heads
    )  # query, out; key, value
    feed_forward = 3 if model.activation == "swiglu" else 2
    return model.dim * (heads * model.resolved_head_dim + feed_forward * model.mlp_dim)


def head_entries(model: ModelConfig) -> int:
    """Entries of the matrices that turn a hidden state into logits."""
    steps = 2 * model.max_difference + 1 if model.differences else 0
    return model.dim * (model.vocab_size + steps)


def step_flops(
    config: TrainConfig,
    batch_size: int,
    width: int,
    num_loops: int = 1,
    columns: int = 0,
) -> int:
    """Operations of one training step.

    Args:
      width: positions of a row that the model computes.
      num_loops: T; 1 for a decoder.
      columns: positions of a row with logits; by default all.
    """
    model, positions = config.model, batch_size * width * num_loops
    in_layers = model.num_layers * positions * layer_entries(model)
    # Per query: scores with all keys, and the weighted sum of their values.
    keys = 2 * width * model.num_heads * model.resolved_head_dim
    attention = model.num_layers * positions * keys
    num_logits = 0  # positions with logits
    if config.supervises_rounds:  # a vanilla looped model needs none for its rounds
        num_logits = batch_size * num_loops * (columns or width)
    if model.kind == "looped":
        num_logits += batch_size  # the answers
    in_heads = num_logits * head_entries(model)
    return FORWARD_AND_BACKWARD * (in_layers + attention + in_heads)


def run_flops(config: TrainConfig) -> float:
    """Operations of a whole training run, for batches of their buckets' maximal width."""
    buckets = config.data.buckets.values()
    shares = [
        bucket.weight / sum(each.weight for each in buckets) for bucket in buckets
    ]
    steps = [_bucket_flops(bucket, config) for bucket in buckets]
    return config.num_steps * sum(s * f for s, f in zip(shares, steps))


def _bucket_flops(bucket: BucketConfig, config: TrainConfig) -> int:
    """Operations of one step, without opening data, which may not exist yet."""
    size, longest = config.data.batch_size, bucket.lengths[1]
    if bucket.kind == "text":
        return step_flops(config, size, longest)
    task = bucket_task(bucket)
    if config.model.kind == "decoder":
        width = task.problem_size(longest) + max_new_tokens(task, longest) - 1
        return step_flops(config, size, width)
    _, loops = bucket_rounds(bucket, task)
    width, columns = max_looped_width(task, longest), task.round_size(longest) + 1
    return step_flops(config, size, width, loops, columns)

"""Configs: frozen dataclasses, built from an experiment file's `get_config()`.

Defaults are the settings of the two papers: RELAY (Yu et al., EACL 2026) for models and
training, REST (He et al., NAACL 2024) for drafting. An unknown or ill-typed key is an
error that lists the valid ones (`config_io`), so that a misspelled override never trains
the wrong model. Ranges of values are checked by `training.validate`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath

from relay_jax.logits_config import NO_RULES, LogitsRules, check_range
from relay_jax.vocabulary import FIRST_NUMBER

MAX_SEED = 2**32 - 1
LENGTHS_HELP = "pairs (shortest, longest), both included"


@dataclasses.dataclass(frozen=True)
class PositionConfig:
    """How attention encodes positions. The paper: RoPE (RELAY, section 4.1)."""

    scheme: Literal["rope", "relative_bias"] = "rope"
    rope_base: float = 10_000.0
    # How RoPE's frequencies are scaled for contexts longer than in pretraining:
    #   linear   all by `rope_factor` (Chen et al. 2023, position interpolation)
    #   llama3   those with fewer than `rope_slow` turns over `rope_length` tokens by
    #            `rope_factor`, those with more than `rope_fast` turns not at all, those
    #            in between partially
    rope_scaling: Literal["none", "linear", "llama3"] = "none"
    rope_factor: float = 1.0
    rope_slow: float = 1.0  # llama3: low_freq_factor in Hugging Face's config.json
    rope_fast: float = 4.0  # llama3: high_freq_factor
    rope_length: int = 8192  # llama3: original_max_position_embeddings
    window: int = 0  # sliding window in tokens, the query's own included; 0: unlimited
    # Extensions of ours for length extrapolation; all are off by default.
    max_distance: int = 4  # relative_bias: larger distances share one bias
    bias_scale: float = 8.0  # relative_bias: multiplies the bias and so its updates
    distance_slopes: bool = False  # relative_bias: a learned slope per head and side
    slope_reach: int = 0  # distance_slopes: constant beyond this distance; 0: unlimited
    directional_heads: bool = False  # half of the heads see only left, half only right
    log_length_scaling: bool = False  # attention logits times log(number of keys)
    reference_length: int = 16  # log_length_scaling: the number of keys with factor 1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Transformer: an encoder block that is looped, or a causal decoder.

    Sizes are those of RELAY, section 4.1.
    """

    kind: Literal["looped", "decoder"] = "looped"
    num_layers: int = 3
    dim: int = 256
    num_heads: int = 4
    num_kv_heads: int = 0  # 0: num_heads
    head_dim: int = 0  # 0: dim / num_heads
    qkv_bias: bool = False  # whether queries, keys and values have a bias
    mlp_dim: int = 1024
    norm: Literal["layer", "rms"] = "layer"
    norm_epsilon: float = 1e-6
    activation: Literal["gelu", "relu", "swiglu"] = "gelu"
    dropout: float = 0.1
    num_numbers: int = 256  # numbers of the task vocabulary, which ends with them
    text_vocab_size: int = 0  # vocabulary of a text model; 0: the task vocabulary
    # How numbers are read and written (`models.embeddings`).
    number_code: Literal["token", "digits", "waves", "ordinal"] = "token"
    tie_embeddings: bool = False  # decoder: one table for input and output embeddings
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of activations
    param_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    context_length: int = 0  # maximum that the model was trained for; 0: unknown
    remat: bool = False  # rematerialize activations (`layers.REMAT_POLICY`)
    position: PositionConfig = PositionConfig()
    # What an iteration of the looped model receives besides its parameters:
    #   hidden    the hidden state of the previous iteration (the paper)
    #   feedback  the round just predicted, through a scratchpad; no hidden state (ours)
    input_injection: Literal["hidden", "feedback"] = "hidden"
    feedback: Literal["discrete", "soft"] = "discrete"  # arg-max or mean embedding
    differences: bool = False  # feedback: numbers are read and predicted as differences
    max_difference: int = 4  # differences: larger ones are clipped

    @property
    def vocab_size(self) -> int:
        """The number of tokens of the vocabulary."""
        return self.text_vocab_size or FIRST_NUMBER + self.num_numbers

    @property
    def uses_feedback(self) -> bool:
        """Whether an iteration of a looped model sees the rounds before it."""
        return self.kind == "looped" and self.input_injection == "feedback"

    @property
    def resolved_num_kv_heads(self) -> int:
        """The number of key and value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def resolved_head_dim(self) -> int:
        """The width of one head."""
        return self.head_dim or self.dim // self.num_heads


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and decay (RELAY, Tables 1 and 2)."""

    kind: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of the layers
    learning_rate: float = 5e-4  # the peak
    warmup_share: float = 0.01  # of all steps
    constant_share: float = 0.0  # of all steps, between warm-up and decay
    weight_decay: float = 0.01
    b2: float = 0.999
    clip_norm: float = 1.0
    average_share: float = 0.0  # final share of all steps whose parameters are averaged


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """L = L_ans + lambda L_iter, times the task's weight (RELAY, Eqs. 6-10)."""

    answer_weight: float = 1.0  # of L_ans
    round_weight: float = 1.0  # lambda; 0 is the vanilla looped model
    # By task; 1 for tasks that are not listed (RELAY, Table 1).
    task_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Extensions for round feedback (`training.augment`). By task: the maximum of the
    # random offset that is added to all numbers of a chain.
    max_value_offset: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # LIS: the probability that the offset is added only from a random value upwards.
    value_gap_prob: float = 0.0
    # Teacher forcing: the probability of feeding back the true round, which changes
    # linearly over the run.
    forcing_start: float = 1.0
    forcing_end: float = 1.0


@dataclasses.dataclass(frozen=True)
class BucketConfig:
    """A source of training batches: each batch comes from one bucket."""

    task: str
    lengths: tuple[int, int]  # LENGTHS_HELP; text: the second is the window in tokens
    weight: float = 1.0  # relative frequency of the bucket's batches
    start_share: float = 0.0  # of all steps, before its first batch: a curriculum
    kind: Literal["synthetic", "tfds", "chains", "problems", "text"] = "synthetic"
    # tfds: the TFDS data directory; chains: a chains directory; problems: a text file of
    # problems (see `resolve` for all three); text: a .npy file of token ids, relative to
    # the run directory.
    path: str = ""
    max_rounds: int = 0  # only this many first rounds of a chain are trained; 0: all
    # Feedback: the number of rounds sampled per chain and step, trained independently
    # of each other; 0: all rounds, in sequence.
    sampled_rounds: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the task


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Training batches (RELAY, Table 1: 512 examples)."""

    batch_size: int = 512  # examples
    buckets: Mapping[str, BucketConfig] = dataclasses.field(default_factory=dict)
    num_workers: int = 0  # processes that generate batches; 0: one thread does
    accumulate: int = 1  # microbatches per step, to save memory


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis (`models.sharding`); 0: all remaining devices."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on problems of given lengths, during training and at its end."""

    lengths: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    every_steps: int = 1000
    during: int = 128  # problems per length while training
    final: int = 1024  # problems per length at the end
    step: Mapping[str, int] = dataclasses.field(default_factory=dict)  # `steps_to`
    batch_size: int = 256
    text: str = ""  # held-out token ids, a file like `path` of a text bucket
    context: int = 256  # text: tokens per window; `during` and `final` count windows

    def steps_to(self, task: str, lengths: tuple[int, int]) -> list[int]:
        """The evaluated lengths: every `step[task]`-th one, counted from the longest.

        Without a `step` of the task these are all lengths.

        Args:
          lengths: the shortest and the longest.
        """
        shortest, longest = lengths
        return list(range(longest, shortest - 1, -self.step.get(task, 1)))[::-1]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a training run."""

    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    name: str = "run"  # the model's name in records and figures
    seed: int = 0
    num_steps: int = 1000
    init_from: str = ""  # a run whose parameters are the initial ones (`resolve`)
    log_every_steps: int = 50
    checkpoint_every_seconds: float = 60.0
    keep_checkpoints: int = 2

    @property
    def supervises_rounds(self) -> bool:
        """Whether the rounds of chains are trained: not in a vanilla looped model."""
        return self.model.kind == "decoder" or self.loss.round_weight > 0


@dataclasses.dataclass(frozen=True)
class ChainsConfig:
    """Stage II: a trained model generates chains (RELAY, section 3.3 and Table 3)."""

    task: str
    model: str  # the run of the generating model (`resolve`)
    counts: Mapping[str, int]  # the number of chains for each length, as {"16": 6477}
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the task
    # Which of the generated chains are kept (`relay.chain_generator`).
    filter: Literal["none", "answer_agrees", "oracle"] = "none"
    judge: str = ""  # answer_agrees: the run whose answer must agree (`resolve`)
    allow_fewer: bool = False  # continue with fewer chains than `counts`, even none
    name: str = "chains"
    seed: int = 0
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """The files that a language model is trained on."""

    folder: str = ""  # default: the standard library of the running Python
    suffix: str = ".py"
    # Names of folders and files to leave out, separated by spaces: third-party packages,
    # tests, and tables without text.
    exclude: str = "site-packages test tests idle_test encodings pydoc_data"
    held_out_one_in: int = 20  # one file in this many is held out


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """A language model and its corpus.

    The tokenizer is trained with `train.model.text_vocab_size` tokens.
    """

    train: TrainConfig
    corpus: CorpusConfig = CorpusConfig()


@dataclasses.dataclass(frozen=True)
class DraftConfig:
    """How draft trees are built (REST, section 3).

    A draft sequence is the continuation of a match: a position, in the datastore or in
    the text itself, whose left context ends like the text. `rest_paper` is the paper's
    method; `rest` searches the datastore and the text itself.
    """

    drafter: str = "rest"  # a key of `rest.drafters.DRAFTERS`
    num_draft: int = 64  # nodes of the draft tree without its root (the paper: 64)
    depth: int = 10  # tokens taken from each match (the paper: 10)
    num_store_rows: int = 256  # rest: draft sequences from the datastore
    num_text_rows: int = 32  # rest, prompt_lookup: draft sequences from the text itself
    num_paper_rows: int = 128  # rest_paper: draft sequences from the datastore
    # Weights of draft sequences whose matches are 1, 2, ... tokens long; the last
    # weight is that of all longer matches.
    store_weights: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    text_weights: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    recent_weight: int = 2  # weight of recent tokens, which are drafted without a match
    depth_decay: float = 0.9  # a node's weight is multiplied by this once per level
    # token_recycling and mixed: draft sequences are paths through the adjacency table.
    num_candidates: int = 8  # successors stored for each token
    num_paths: int = 16  # paths that are extended at each level
    path_depth: int = 6  # tokens of a path
    path_weight: int = 2048  # weight of a path with probability 1
    # Exponent of a successor's probability: below 1, a probability that the model
    # predicted in another context counts as less certain.
    path_power: float = 0.6


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen; temperature 0 is greedy decoding."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # the least probability, as a share of the likeliest token's
    rules: LogitsRules = NO_RULES

    def __post_init__(self):
        is_valid = 0 <= self.temperature < math.inf and 0 < self.top_p <= 1
        if not is_valid or not 0 <= self.top_k < 2**31:
            raise ValueError(
                "temperature must be 0 or more and finite, top_p above 0 and at most 1, "
                f"top_k 0 to 2147483647; got {self.temperature}, {self.top_p}, "
                f"{self.top_k}"
            )
        check_range("min_p", self.min_p, 0, 1)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken: the limit of low temperatures.

        Logits divided by a temperature below 1e-30 would overflow float32.
        """
        return self.temperature < 1e-30


@dataclasses.dataclass(frozen=True)
class RelayConfig:
    """The whole RELAY method: training runs and generated chains by directory name.

    They refer to each other in `init_from`, `model`, `judge` and `path`; these
    references determine the order of the stages.
    """

    runs: Mapping[str, TrainConfig]
    chains: Mapping[str, ChainsConfig]

    @property
    def trained_lengths(self) -> dict[str, tuple[int, int]]:
        """The range of lengths of each task on which the runs are trained.

        Generated chains do not count.
        """
        found: dict[str, tuple[int, int]] = {}
        for run in self.runs.values():
            for bucket in run.data.buckets.values():
                if bucket.kind != "chains":
                    ends = (*found.get(bucket.task, bucket.lengths), *bucket.lengths)
                    found[bucket.task] = min(ends), max(ends)
        return found


def resolve(name: str, workdir: epath.PathLike) -> epath.Path:
    """A directory that a config refers to: absolute, or relative to `workdir`'s parent."""
    return epath.Path(workdir).parent / name  # an absolute name replaces the parent

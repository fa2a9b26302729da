"""Configs: frozen dataclasses, built from an experiment file's `get_config()`.

Every field's default is the paper's setting. An unknown or ill-typed key is an error
that lists the valid ones, so a misspelt override never trains the wrong model.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath

from relay_jax.vocabulary import FIRST_NUMBER

MAX_SEED = 2**32 - 1
LENGTHS_HELP = "pairs (shortest, longest), both included"


@dataclasses.dataclass(frozen=True)
class PositionConfig:
    """How attention knows places. The paper: RoPE."""

    scheme: Literal["rope", "relative_bias"] = "rope"
    rope_base: float = 10_000.0
    # How RoPE's frequencies are stretched for texts longer than a model first knew:
    #   linear   all of them by `rope_factor` (Chen et al. 2023)
    #   llama3   the slow ones, which turn fewer than `rope_slow` times over
    #            `rope_length` tokens; those from `rope_fast` turns on stay
    rope_scaling: Literal["none", "linear", "llama3"] = "none"
    rope_factor: float = 1.0
    rope_slow: float = 1.0
    rope_fast: float = 4.0
    rope_length: int = 8192
    window: int = 0  # a token sees so many tokens, itself among them; 0: all
    max_distance: int = 4  # relative_bias: distances beyond this share one bias
    bias_scale: float = 8.0  # relative_bias: its factor, i.e. a larger step for it
    distance_slopes: bool = False  # relative_bias: and a slope a head and side
    slope_reach: int = 0  # distance_slopes: flat beyond this distance; 0: they go on
    directional_heads: bool = False  # half the heads see only left, half only right
    log_length_scaling: bool = False  # attention logits times log(keys seen)
    reference_length: int = 16  # log_length_scaling: the number of keys with factor 1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One Transformer; `kind` says how it is used."""

    kind: Literal["looped", "decoder"] = "looped"
    num_layers: int = 3
    dim: int = 256
    num_heads: int = 4
    num_kv_heads: int = 0  # 0: as many as num_heads
    head_dim: int = 0  # 0: dim / num_heads
    qkv_bias: bool = False  # queries, keys and values have a bias
    mlp_dim: int = 1024
    norm: Literal["layer", "rms"] = "layer"
    norm_epsilon: float = 1e-6
    activation: Literal["gelu", "relu", "swiglu"] = "gelu"
    dropout: float = 0.1
    num_numbers: int = 256  # the task vocabulary ends with this many numbers
    text_vocab_size: int = 0  # of a text model; 0: the task vocabulary
    number_code: Literal["token", "digits", "ordinal"] = "token"
    tie_embeddings: bool = False  # decoder: one table reads words and says them
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of compute
    param_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    context_length: int = 0  # tokens of the longest text it was made for; 0: not told
    remat: bool = (
        False  # recompute in the backward pass what `layers.REMAT_POLICY` leaves out
    )
    position: PositionConfig = PositionConfig()
    # What a loop of the looped model sees besides its parameters:
    #   hidden    the hidden state of the loop before (the paper)
    #   problem   the same, and the problem's embedding again
    #   feedback  the round just said, through the task's scratchpad; no hidden state
    input_injection: Literal["hidden", "problem", "feedback"] = "hidden"
    feedback: Literal["discrete", "soft"] = "discrete"
    differences: bool = False  # feedback: read and say memory numbers as differences
    max_difference: int = 4

    @property
    def vocab_size(self) -> int:
        """Words of the vocabulary."""
        return self.text_vocab_size or FIRST_NUMBER + self.num_numbers

    @property
    def resolved_num_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def resolved_head_dim(self) -> int:
        """Width of one head."""
        return self.head_dim or self.dim // self.num_heads


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear schedule (Tables 1 and 2)."""

    kind: Literal["adamw", "muon"] = "adamw"  # muon: for the layers' matrices
    learning_rate: float = 5e-4
    warmup_share: float = 0.01  # of all steps
    constant_share: float = 0.0  # of all steps, between warm-up and decay
    weight_decay: float = 0.01
    b2: float = 0.999
    clip_norm: float = 1.0
    average_share: float = 0.0  # parameters are averaged over this share of steps


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """L = L_ans + lambda L_iter, times the task's weight (Eqs. 6-10)."""

    answer_weight: float = 1.0
    round_weight: float = 1.0  # lambda; 0 is the vanilla looped model
    task_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Feedback: a task's chains are trained with all numbers raised by up to this much.
    max_value_offset: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # LIS: of these chains, those in which only the values from a random one on are raised.
    value_gap_prob: float = 0.0
    # Feedback: the share of rounds that the teacher feeds back, linear over the run.
    forcing_start: float = 1.0
    forcing_end: float = 1.0


@dataclasses.dataclass(frozen=True)
class BucketConfig:
    """One source of batches: all examples of a batch come from one bucket."""

    task: str
    lengths: tuple[int, int]  # LENGTHS_HELP; text: the second is the window's tokens
    weight: float = 1.0  # how often this bucket is drawn
    start_share: float = 0.0  # of all steps, before it is first drawn: a curriculum
    kind: Literal["synthetic", "tfds", "chains", "text"] = "synthetic"
    # tfds: its data directory; chains: a chains directory (both by `resolve`); text: a
    # .npy file of token ids, in the run directory unless it is absolute.
    path: str = ""
    num_examples: int = 0  # synthetic: how many distinct ones; 0: never the same again
    max_rounds: int = 0  # of each chain are trained, the first ones; 0: all
    # Feedback: of these, so many are trained, each by itself, drawn anew in each step;
    # 0: all of them, one after the other.
    sampled_rounds: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the task


@dataclasses.dataclass(frozen=True)
class DataConfig:
    batch_size: int = 512
    buckets: Mapping[str, BucketConfig] = dataclasses.field(default_factory=dict)
    num_workers: int = 0  # processes that make batches; 0: a thread of the run's own
    accumulate: int = 1  # parts of a batch, one after the other, to need less memory


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis (`models.mesh`); 0: all that the others leave."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """`final` problems a length at the end, `during` a length while training."""

    lengths: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    every_steps: int = 1000
    during: int = 128
    final: int = 1024
    step: Mapping[str, int] = dataclasses.field(default_factory=dict)  # see `steps_to`
    batch_size: int = 256
    text: str = ""  # held-out token ids, a file as `path` of a text bucket
    context: int = 256  # text: tokens of a window; `during` and `final` count windows

    def steps_to(self, task: str, lengths: tuple[int, int]) -> list[int]:
        """Every `step[task]`-th length (by default every one), the longest included."""
        shortest, longest = lengths
        return list(range(longest, shortest - 1, -self.step.get(task, 1)))[::-1]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All that one run directory is made from."""

    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    name: str = "run"  # the model's name in records and figures
    seed: int = 0
    num_steps: int = 1000
    init_from: str = ""  # a run whose parameters are the start (`resolve`)
    log_every_steps: int = 50
    checkpoint_every_seconds: float = 60.0
    keep_checkpoints: int = 2

    @property
    def supervises_rounds(self) -> bool:
        """Whether its chains mean anything: a vanilla looped model's do not."""
        return self.model.kind == "decoder" or self.loss.round_weight > 0


@dataclasses.dataclass(frozen=True)
class ChainsConfig:
    """Who writes how many chains of which lengths, and which of them are kept."""

    task: str
    model: str  # the run that writes (`resolve`)
    counts: Mapping[str, int]  # kept chains for each length
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the task
    filter: Literal["none", "answer_agrees", "confidence", "oracle"] = "none"
    judge: str = ""  # answer_agrees: a run whose answer must agree (`resolve`)
    confidence: float = 0.9
    allow_fewer: bool = (
        False  # where the filter keeps too few: go on with these, even none
    )
    name: str = "chains"
    seed: int = 0
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Which files a language model learns from."""

    folder: str = ""  # default: the standard library of the Python that runs
    suffix: str = ".py"
    # Names of folders and files that are left out, with blanks between: other people's
    # packages, tests, and tables that are no text.
    exclude: str = "site-packages test tests idle_test encodings pydoc_data"
    held_out_one_in: int = 20  # files


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """A language model and its corpus; `train.model.text_vocab_size` words are learnt."""

    train: TrainConfig
    corpus: CorpusConfig = CorpusConfig()


@dataclasses.dataclass(frozen=True)
class DraftConfig:
    """How drafts are made (REST, sections 3.1 and 3.2)."""

    drafter: str = "rest"
    num_draft: int = 64  # C: nodes of the draft tree below its root
    depth: int = 10  # tokens taken from each match
    num_store_rows: int = 256  # rest: matches from the datastore
    num_text_rows: int = 32  # rest, context: matches from the text itself
    num_paper_rows: int = 128  # rest_paper: matches from the datastore
    # The weight of a row by the length of its match: 1, 2, ...; the last for all longer.
    store_weights: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    text_weights: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    recent_weight: int = 2  # of a row at one of the text's latest places, without match
    depth_decay: float = 0.9  # of a node's weight, to the power of its depth
    num_candidates: int = 8  # recycle, mixed: words kept as likely after each word
    num_paths: int = 16  # recycle, mixed: of them, at each depth
    path_depth: int = 6  # recycle, mixed: words along such a path
    path_weight: int = 2048  # recycle, mixed: of a path that is certain
    path_power: float = 0.6  # recycle, mixed: of chances, told in another place


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all

    def __post_init__(self):
        fits = 0 <= self.temperature < math.inf and 0 < self.top_p <= 1
        if not fits or not 0 <= self.top_k < 2**31:
            raise ValueError(
                "temperature must be 0 or more and finite, top_p above 0 and at most 1, "
                f"top_k 0 to 2147483647; got {self.temperature}, {self.top_p}, "
                f"{self.top_k}"
            )


@dataclasses.dataclass(frozen=True)
class RelayConfig:
    """The whole method: runs and chains by their directories' names.

    They name each other in `init_from`, `model`, `judge` and `path`; that gives the
    order in which they are made.
    """

    runs: Mapping[str, TrainConfig]
    chains: Mapping[str, ChainsConfig]

    @property
    def trained_lengths(self) -> dict[str, tuple[int, int]]:
        """Of each task, the shortest and the longest problems that any run trains on,
        written chains apart."""
        found: dict[str, tuple[int, int]] = {}
        for run in self.runs.values():
            for bucket in run.data.buckets.values():
                if bucket.kind != "chains":
                    ends = (*found.get(bucket.task, bucket.lengths), *bucket.lengths)
                    found[bucket.task] = min(ends), max(ends)
        return found


def resolve(name: str, workdir: epath.PathLike) -> epath.Path:
    """A directory that a config names: as it is if absolute, else beside `workdir`."""
    return epath.Path(workdir).parent / name  # an absolute name replaces the parent

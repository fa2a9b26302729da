"""The flags that several scripts share, in groups, and functions that read them.

A script calls the `define_*` functions of the groups that it has, at its top; the other
functions read them. Everything else is a call of `relay_jax`, as a notebook makes it.
"""

import functools
import itertools
import sys
from collections.abc import Mapping, Sequence

import jax
from absl import flags
from etils import epath
from jax.sharding import Mesh

from experiments import command
from relay_jax import generation, pretrained
from relay_jax.config import MAX_SEED, DraftConfig, MeshConfig, SamplingConfig
from relay_jax.generation import LanguageModel
from relay_jax.logits_config import NO_RULES, LogitsRules, override
from relay_jax.models.sharding import make_mesh
from relay_jax.pretrained import ModelFolder
from relay_jax.rest import drafters, step_times
from relay_jax.rest import index as indexes
from relay_jax.rest.datastore import Datastore, open_datastore
from relay_jax.rest.index import AnyIndex, HostIndex, MeshIndex
from relay_jax.tokenizers import Tokenizer

FLAGS = flags.FLAGS
# The looped drafter needs a looped model: experiments/benchmarks/looped_drafter.py.
DRAFTERS = [name for name in drafters.DRAFTERS if name != "looped"]
INDEXES = {
    "device": indexes.load_index,
    "mesh": lambda store: indexes.load_index(store, mesh(everywhere=True)),
    "host": HostIndex,
}


@functools.cache
def define_mesh() -> None:
    flags.DEFINE_string(
        "mesh", "1,1", "Devices that the model is spread over: fsdp,tensor."
    )


@functools.cache
def define_model() -> None:
    """The flags that select the model."""
    define_mesh()
    flags.DEFINE_string(
        "run",
        None,
        "The decoder: a run directory, Hugging Face folder or GGUF file.",
        required=True,
    )
    flags.DEFINE_enum(
        "dtype",
        "",
        ["", "float32", "bfloat16", "float16"],
        "Type of a published model; default: its own.",
    )
    flags.DEFINE_string(
        "tokenizer", "", "A tokenizer's file or folder; default: that of the run."
    )


def define_max_new_tokens(default: int) -> None:
    flags.DEFINE_integer(
        "max_new_tokens", default, "Maximum number of new tokens.", 1, 2**30
    )


@functools.cache
def define_sampling() -> None:
    """The flags of sampling."""
    flags.DEFINE_float("temperature", 0.0, "Sampling temperature; 0 is greedy.")
    flags.DEFINE_float(
        "top_p", 1.0, "Sample from the likeliest tokens of this total probability."
    )
    flags.DEFINE_integer("top_k", 0, "Sample from the k likeliest tokens; 0: all.")
    flags.DEFINE_float(
        "min_p", 0.0, "Sample from tokens with this share of the highest probability."
    )
    default = "default: as the model's folder says, else"
    flags.DEFINE_float(
        "repetition_penalty",
        None,
        f"Makes tokens that the text contains less likely; {default} 1, none.",
    )
    flags.DEFINE_integer(
        "no_repeat_ngram_size",
        None,
        f"No sequence of this many tokens occurs twice; {default} 0, any may.",
    )
    flags.DEFINE_integer(
        "min_new_tokens", None, f"New tokens before a text may end; {default} 0."
    )
    flags.DEFINE_string(
        "suppress_tokens",
        None,
        f"Ids of tokens that are never generated: 1,2,3; {default} none.",
    )
    define_seed()


@functools.cache
def define_seed(of: str = "of sampling") -> None:
    flags.DEFINE_integer("seed", 0, f"Seed {of}.", 0, MAX_SEED)


@functools.cache
def define_drafting(num_draft: str = "auto", drafter: bool = True) -> None:
    """The flags of the drafter, its datastore, and the size of its trees.

    Args:
      drafter: whether to define --drafter.
    """
    flags.DEFINE_string("datastore", "", "A datastore's directory.")
    if drafter:
        flags.DEFINE_enum(
            "drafter",
            None,
            DRAFTERS,
            "The drafter; default: rest with a datastore, prompt_lookup without one.",
        )
    flags.DEFINE_string(
        "num_draft",
        num_draft,
        "Nodes of the draft tree; auto: every step takes the size that is expected to pay.",
    )
    flags.DEFINE_integer("draft_depth", 10, "Depth of the draft tree.", 1)
    flags.DEFINE_enum(
        "index",
        "device",
        list(INDEXES),
        "Where the datastore is searched: on the first device, spread over all devices "
        "(shard by shard: build it with at least as many), or on the host, in its "
        "files (a few blocks of which are checked, unless --verify_datastore).",
    )
    flags.DEFINE_bool("verify_datastore", False, "Check every byte of the datastore.")
    flags.DEFINE_string(
        "tree_size_cache",
        "",
        "File of measured step times; default: in ~/.cache/relay_jax.",
    )


def mesh(everywhere: bool = False) -> Mesh:
    """The mesh of --mesh.

    Args:
      everywhere: whether all devices take part, the rest of them along `data`; always
        so where there are several processes.

    Raises:
      ValueError: it does not fit the devices.
    """
    everywhere |= jax.process_count() > 1
    fsdp, tensor = command.whole_numbers("mesh", FLAGS.mesh, 2)
    if min(fsdp, tensor) < 1:
        raise ValueError(f"--mesh must be 1 or more along each axis, got {FLAGS.mesh}")
    return make_mesh(MeshConfig(0 if everywhere else 1, fsdp, tensor))


def open_model(needs_text: bool = True) -> ModelFolder:
    """The folder of --run, checked; its parameters are not read yet.

    Args:
      needs_text: whether text is read or shown, for which token ids do not suffice.

    Raises:
      ValueError: it contains no decoder, or lacks weights; there is no tokenizer, or
        it is another model's; --mesh does not fit the devices.
    """
    mesh()
    folder = pretrained.open_folder(
        FLAGS.run, dtype=FLAGS.dtype, tokenizer=FLAGS.tokenizer
    )
    pretrained.check_decoder(folder, needs_text)
    return folder


def load_model(folder: ModelFolder, index: AnyIndex | None) -> LanguageModel:
    """The model, spread over --mesh, on the devices of the index.

    Raises:
      ValueError: parameters are missing, damaged, or of another shape.
    """
    return folder.load_decoder(index.mesh if isinstance(index, MeshIndex) else mesh())


def open_drafts(
    tokenizer: Tokenizer | None = None, names: Sequence[str] = ()
) -> tuple[list[DraftConfig], Datastore | None]:
    """Draft configs and the opened datastore, None if none is needed.

    One config for each drafter and each size of --num_draft; `drafters.AUTOTUNE` stands for
    auto.

    Args:
      tokenizer: the model's, which must be the datastore's.
      names: the drafters; by default the one of --drafter.

    Raises:
      ValueError: a drafter is unknown; the datastore is missing, damaged, or another
        tokenizer's.
    """
    names = names or [drafter_name()]
    drafts = [
        generation.make_draft(name, size, FLAGS.draft_depth)
        for name, size in itertools.product(names, read_sizes())
    ]
    needy = [name for name in names if name in drafters.NEEDS_DATASTORE]
    if needy and not FLAGS.datastore:
        raise ValueError(
            f"--datastore is missing: {' and '.join(drafters.NEEDS_DATASTORE)} need one; "
            "--drafter=mixed and --drafter=prompt_lookup work without"
        )
    searched = {drafters.DRAFTERS[draft.drafter].index for draft in drafts}
    is_open = FLAGS.datastore and drafters.DATASTORE in searched
    store = _open_datastore(tokenizer) if is_open else None
    for draft in drafts:
        drafters.check(draft, store)
    return drafts, store


def drafter_name() -> str:
    """The drafter of --drafter, or the default one with or without a datastore."""
    return FLAGS.drafter or generation.default_drafter(bool(FLAGS.datastore))


def _open_datastore(tokenizer: Tokenizer | None) -> Datastore:
    store = open_datastore(
        FLAGS.datastore, tokenizer=tokenizer, verify=FLAGS.verify_datastore
    )
    if tokenizer and not store.tokenizer:
        print(
            f"{store.path} does not name its tokenizer (build_datastore: --tokenizer "
            "or --tokenizer_identity); its tokens are taken to be the model's",
            file=sys.stderr,
        )
    return store


def load_index(store: Datastore | None) -> AnyIndex | None:
    """The index of a datastore, in the form of --index. Large: load it last.

    Raises:
      ValueError: a file is damaged; the index serves one process, and there are several.
    """
    if store and jax.process_count() > 1 and FLAGS.index != "mesh":
        raise ValueError(
            f"--index={FLAGS.index} is searched by one process; several of them search "
            "together with --index=mesh"
        )
    return INDEXES[FLAGS.index](store) if store else None


def sampling(rules: LogitsRules = NO_RULES) -> SamplingConfig:
    """The sampling config of the flags.

    Args:
      rules: of the model's folder, for flags that are not given.

    Raises:
      ValueError: a flag is out of range.
    """
    ids = FLAGS.suppress_tokens
    rules = override(
        rules,
        repetition_penalty=FLAGS.repetition_penalty,
        no_repeat_ngram_size=FLAGS.no_repeat_ngram_size,
        min_new_tokens=FLAGS.min_new_tokens,
        suppress_tokens=command.whole_numbers("suppress_tokens", ids) if ids else None,
    )
    return SamplingConfig(
        *(FLAGS.temperature, FLAGS.top_p, FLAGS.top_k, FLAGS.min_p, rules)
    )


def describe_sizes(sizes: Mapping[int, int]) -> str:
    """A line about the sizes of draft trees, of `autotune.draft_sizes`."""
    parts = [f"{count} of {size}" for size, count in sizes.items()]
    return f"steps by the nodes of their draft trees: {', '.join(parts)}"


def read_sizes() -> list[int]:
    """The sizes of --num_draft. Raises ValueError if it has any other value."""
    parts = [part.strip() for part in FLAGS.num_draft.split(",")]
    if not all(part == "auto" or part.isdecimal() for part in parts):
        raise ValueError(
            "--num_draft must be auto or whole numbers with commas, got "
            f"{FLAGS.num_draft!r}"
        )
    return [drafters.AUTOTUNE if part == "auto" else int(part) for part in parts]


def only(drafts: list[DraftConfig]) -> DraftConfig:
    """The only draft config. Raises ValueError if there are several."""
    if len(drafts) > 1:
        raise ValueError(f"--num_draft takes one size here, got {FLAGS.num_draft!r}")
    return drafts[0]


def cache_file() -> epath.Path:
    """The file of measured step times."""
    return epath.Path(FLAGS.tree_size_cache or step_times.default_file())

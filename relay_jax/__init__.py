"""relay_jax: loop-aligned reasoning (RELAY) and retrieval-based decoding (REST) in JAX.

    lm = relay_jax.load("FOLDER")        # a Hugging Face folder or a run directory
    store = relay_jax.build_datastore("store", files=["src/**/*.py"],
                                      tokenizer=lm.tokenizer)
    out = lm.generate(["def fib(n):"], max_new_tokens=128, datastore=store)
    for piece in lm.stream("def fib(n):"):
        print(piece, end="")

    solver = relay_jax.load("experiments/checkpoints/arithmetic")
    solver.solve("(2+3)*4+1=")           # rounds, answer, confidence

A **task** generates a problem and its reasoning rounds. A **looped model** predicts one
round per iteration. A **drafter** proposes a tree of tokens. The **verifier** accepts the
branch that the target model would have generated.
"""

import importlib

__version__ = "0.1.0"

# The public names and their modules, which are imported when they are first used.
_MODULES = {
    "GenerationOutput": "rest.output",
    "LanguageModel": "generation",
    "LoopedSolver": "solver",
    "Solution": "solver",
    "build_datastore": "datastores",
    "load": "pretrained",
    "open_datastore": "rest.datastore",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})

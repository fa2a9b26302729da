from relay_jax.datastores import build_datastore as build_datastore
from relay_jax.generation import LanguageModel as LanguageModel
from relay_jax.pretrained import load as load
from relay_jax.rest.datastore import open_datastore as open_datastore
from relay_jax.rest.output import GenerationOutput as GenerationOutput
from relay_jax.solver import LoopedSolver as LoopedSolver
from relay_jax.solver import Solution as Solution

__version__: str

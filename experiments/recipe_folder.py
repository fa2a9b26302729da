"""The work directory of `experiments.reproduce`: one recipe and one seed each.

recipe.json has both, so that another recipe or seed never continues in it.
"""

from collections.abc import Sequence

from etils import epath

from experiments.paper_figures import RECIPES
from relay_jax import aliases, files


def write(path: epath.Path, recipe: str, seed: int) -> None:
    """Writes recipe.json."""
    files.write_json(path / "recipe.json", {"recipe": recipe, "seed": seed})


def check(path: epath.Path, recipe: str, seed: int) -> None:
    """Raises ValueError at a work directory of another recipe or seed."""
    file = path / "recipe.json"
    if not file.exists():
        return
    stored = files.read_json(file)
    if stored.get("seed", 0) != seed:
        raise ValueError(
            f"{path} has experiments with the seed {stored.get('seed', 0)}, not {seed}; "
            f"give --seed={stored.get('seed', 0)}, or another --workdir"
        )
    present = aliases.upgrade_recipe(stored.get("recipe", recipe))
    if present != recipe:
        other = f"--recipe={present}, or another --workdir"
        raise ValueError(
            f"{path} has experiments of the recipe {present!r}, not {recipe!r}; give "
            f"{other if present in RECIPES else 'another --workdir'}"
        )


def check_others(others: Sequence[str], recipe: str, seed: int) -> None:
    """Checks the work directories whose records are drawn beside those of `seed`.

    Raises:
      ValueError: one has no records, or is of another recipe or a seed that is there.
    """
    seeds = {seed: "--workdir"}
    for other in others:
        path = epath.Path(other)
        if not (path / "records.jsonl").exists():
            raise ValueError(f"--other_seeds: {other} has no records.jsonl")
        theirs = files.read_json(path / "recipe.json").get("seed", 0)
        check(path, recipe, theirs)
        if theirs in seeds:
            raise ValueError(
                f"--other_seeds: {other} has the seed {theirs}, as {seeds[theirs]} has; "
                "give directories of different seeds"
            )
        seeds[theirs] = other

"""Figures and tables of the RELAY paper: what they require, measured in parts, drawn."""

import math
import os
import pathlib
import time
import types

import pytest
from etils import epath
from ml_collections import ConfigDict

from experiments import paper_figures, recipe_folder, tables
from experiments.configs import paper, reduced, relay_recipe
from experiments.paper_figures import FIGURES, RECIPES, TABLES
from relay_jax import config as configs
from relay_jax import files
from relay_jax.evaluation import flops
from relay_jax.relay import measurement, stages
from relay_jax.relay.stage_checks import check_stages
from relay_jax.training import loop
from tests.script_server import run_script

ROOT = pathlib.Path(__file__).parents[2]
MODEL = {"num_layers": 1, "dim": 16, "mlp_dim": 16, "num_heads": 4}
SIZE = {"model": MODEL, "batch_size": 4, "step_fraction": 0.0, "num_test_problems": 8}
FAST = {"log_every_steps": 10}


SELF_MADE = dict.fromkeys(paper.PLANS, (8,) * 5)
SHORT = {  # by task: the last lengths of training and test
    "arithmetic": (3, 5),
    "edit_distance": (4, 6),
    "lis": (5, 10),
}
SHORT_PLANS = {
    task: reduced.PLANS[task]._replace(
        train_lengths=(1, trained),
        test_lengths=(1, last),
        chain_counts={str(n): 8 for n in range(trained + 1, last + 1)},
        num_chain_buckets=1,
        eval_length_step=1,
    )
    for task, (trained, last) in SHORT.items()
}


def tiny(min_steps, tasks=tuple(SHORT)):
    """The experiments of `reduced.py` with the smallest possible sizes."""
    plans = {task: SHORT_PLANS[task] for task in tasks}

    def get_config(which):
        chosen, run = relay_recipe.select_plans(plans, which)
        config = reduced.reduced_experiment(chosen, SELF_MADE)
        config = relay_recipe.scale_down(config, **SIZE, min_steps=min_steps)
        runs = {
            n: relay_recipe.merge_dicts(run, FAST) for n, run in config["runs"].items()
        }
        return ConfigDict(relay_recipe.select_run(config | {"runs": runs}, run))

    return types.SimpleNamespace(get_config=get_config)


def script(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return run_script("experiments.reproduce", arguments, environment)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_what_the_figures_and_tables_need(name):
    everything = FIGURES["2"]._replace(
        experiments=(*paper.PLANS, relay_recipe.MULTITASK)
    )
    every_plan = paper_figures.read_experiments(name, everything)
    wanted = {experiment: {} for experiment in every_plan}
    for needs in (*FIGURES.values(), *TABLES.values()):
        plans = {experiment: every_plan[experiment] for experiment in needs.experiments}
        for experiment, planned in paper_figures.select_stages(plans, needs).items():
            assert set(needs.stages) <= set(planned)
            wanted[experiment] |= planned
        pieces = list(paper_figures.measurements(plans, needs))
        assert bool(pieces) == bool(needs.metric or needs.extra_numbers)
        if needs.metric:  # all lengths that the recipe measures, each once
            result = [(*piece[:3], n) for piece in pieces for n in piece.lengths]
            assert result == [
                (experiment, run, task, length)
                for experiment, config in plans.items()
                for run in needs.stages
                for task, bounds in config.runs[run].evaluation.lengths.items()
                for length in config.runs[run].evaluation.steps_to(task, bounds)
            ]
            assert (
                max(len(piece.lengths) for piece in pieces) <= measurement.MAX_LENGTHS
            )
        assert len({piece.file for piece in pieces}) == len(pieces)
    for planned in wanted.values():
        runs = [s for s in planned.values() if isinstance(s, configs.TrainConfig)]
        assert not any(run.evaluation.lengths for run in runs)
        check_stages(planned)


def test_a_figure_runs_the_stages_it_needs_and_no_others():
    def chosen(figure):
        needs = FIGURES[figure]
        plans = paper_figures.read_experiments("paper", needs)
        return {
            experiment: set(planned)
            for experiment, planned in paper_figures.select_stages(plans, needs).items()
        }

    assert chosen("2") == {task: {"ar", "looped_vanilla"} for task in paper.PLANS}
    assert chosen("6") == {"multitask": {"looped_aligned", "ar"}}
    chains = {f"chains_{task}" for task in paper.PLANS}
    relay = {"looped_aligned", "ar", "ar_relay"} | chains
    assert chosen("7") == {"multitask": relay}
    four = chosen("4")["multitask"]
    assert "ar_control" not in four and relay < four
    assert sum(name.startswith("ar_self_") for name in four) == 10
    assert len(four) == 4 + 10 + 3 + 30


@pytest.mark.parametrize(
    ("figure", "phase", "paper_length"), [("5", 5, 105), ("6", 1, 101)]
)
def test_hit_matrices_are_of_the_model_that_generates_the_chains(
    figure, phase, paper_length
):
    for name in RECIPES:
        needs = FIGURES[figure]
        config = paper_figures.read_experiments(name, needs)["multitask"]
        length = paper_figures.hit_length(config, needs)
        assert length == paper_length or name.startswith("reduced")
        self_chains = config.chains[f"chains_self_oracle_{phase}_lis"]
        assert needs.stages == ("looped_aligned", self_chains.model)
        assert list(self_chains.counts) == [str(length)]


def make(path, needs, deadline=math.inf):
    plans = paper_figures.read_experiments("tiny", needs)
    selected = paper_figures.select_stages(plans, needs)
    parts = list(paper_figures.measurements(plans, needs))
    measurement.run_and_measure(selected, parts, path, 1, deadline)
    return plans


@pytest.mark.slow
def test_a_figure_in_pieces_is_the_figure_in_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "tiny", tiny(800, ("lis",)))
    needs, path, cut = (
        FIGURES["6"],
        epath.Path(tmp_path / "a"),
        epath.Path(tmp_path / "b"),
    )
    path.mkdir(), cut.mkdir()
    plans = make(path, needs)
    assert paper_figures.unfinished(plans, needs, path) == []
    whole = (path / "records.jsonl").read_bytes()
    lines = list(files.read_lines(path / "records.jsonl"))
    assert {(x["model"], x["length"], x["experiment"]) for x in lines} == {
        ("ar", 6, "multitask"),
        ("looped_aligned", 6, "multitask"),
    }
    assert {line["metric"] for line in lines} == {"hit_accuracy", "round_accuracy"}

    with pytest.raises(loop.Stopped, match="out of time; run the same command to res"):
        make(cut, needs, deadline=0.0)
    assert not (cut / "multitask").exists()
    clock = types.SimpleNamespace(
        sleep=time.sleep
    )  # stops after the first recorded steps
    metrics = cut / "multitask" / "ar" / "metrics.jsonl"
    clock.monotonic = lambda: math.inf if metrics.exists() else 0.0
    with monkeypatch.context() as patch, pytest.raises(loop.Stopped):
        patch.setattr(stages, "time", clock)
        make(cut, needs, deadline=1.0)
    planned = paper_figures.select_stages(plans, needs)["multitask"]
    steps, total, _ = stages.progress(planned["ar"], cut / "multitask" / "ar")
    assert 0 < steps < total == 800
    capsys.readouterr()
    # Slow enough for all of it to take a minute.
    left = 1 - steps / total
    rate = left * flops.run_flops(plans["multitask"].runs["ar"]) / 60e12
    capsys.readouterr()
    result = paper_figures.describe_progress(plans, needs, ["multitask/ar"], cut, rate)
    result = result.splitlines()
    assert result[0].split() == (
        ["multitask/ar", f"{steps:,}", *["of", "800", "steps,", "1.0", "minutes"]]
    )
    assert result[-2].split() == ["measured", "0", "of", "2", "parts"]
    assert result[-1] == f"trainings: 1.0 minutes at {rate:g} TFLOP/s"
    assert "multitask/ar" in paper_figures.unfinished(plans, needs, cut)

    cut = cut.rename(tmp_path / "elsewhere")  # as if copied to another machine
    make(cut, needs)
    assert (cut / "records.jsonl").read_bytes() == whole

    result = paper_figures.draw("figure_6", needs, plans, cut)
    image = (cut / "figures" / "figure_6.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert "lis, length 6: round" in result and "records.jsonl" in result
    (cut / "multitask").rename(tmp_path / "away")  # records alone
    paper_figures.draw("figure_6", needs, plans, cut)
    assert (cut / "figures" / "figure_6.png").read_bytes() == image


def test_a_figure_by_length_uses_the_records_of_its_experiment_alone(
    tmp_path, monkeypatch
):
    """The same records contain other experiments and models."""
    calls = []
    monkeypatch.setattr(
        paper_figures.figures, "accuracy_by_length", lambda *a: calls.append(a)
    )
    needs = FIGURES["2"]
    common = {"seed": 0, "metric": "answer_accuracy", "value": 1.0, "count": 8}
    records = [
        files.make_record(
            **common, run=run, model=run, task=task, length=3, experiment=experiment
        )
        for experiment, task in (
            ("multitask", "lis"),
            ("lis", "lis"),
            ("arithmetic",) * 2,
        )
        for run in ("looped_vanilla", "ar_relay", "ar")
    ]
    files.write_lines(tmp_path / "records.jsonl", records)
    plans = paper_figures.read_experiments("reduced", needs)
    paper_figures.draw("figure_2", needs, plans, epath.Path(tmp_path))
    ((lines, metric, file, trained),) = calls
    assert metric == "answer_accuracy" and file.name == "figure_2.png"
    assert trained == {"arithmetic": (1, 6), "edit_distance": (1, 9), "lis": (1, 25)}
    assert [(line["experiment"], line["model"]) for line in lines] == [
        *(("lis", "ar"), ("arithmetic", "ar")),
        *(("lis", "looped_vanilla"), ("arithmetic", "looped_vanilla")),
    ]


def test_hyper_parameters_are_shown_next_to_the_papers():
    plans = paper_figures.read_experiments("reduced", TABLES["1"])
    result = tables.settings("table_1", plans["multitask"], "reduced").splitlines()
    rows = {line[:16].strip(): line[16:].split() for line in result}
    assert rows["width"] == ["256", "64"] * 3
    assert rows["learning rate"][::2] == ["0.0005", "0.0005", "0.001"]
    result = tables.settings("table_2", plans["multitask"], "reduced")
    assert "0.0001" in result and "5e-05" in result


def test_too_few_chains_after_a_filter_are_reported(tmp_path):
    needs = FIGURES["5"]
    plans = paper_figures.read_experiments("reduced", needs)
    chains = plans["multitask"].chains
    planned = paper_figures.select_stages(plans, needs)["multitask"]
    lines = []
    for name in planned.keys() & chains.keys():
        (count,) = chains[name].counts.values()
        self_chains = 1 if name == "chains_self_oracle_2_edit_distance" else count
        shared = {"experiment": "multitask", "run": name, "metric": "samples"}
        lines.append(shared | {"count": self_chains})
    assert len(lines) == 4 * 3
    files.write_lines(tmp_path / "records.jsonl", lines)
    assert list(paper_figures.missing_chains(plans, needs, epath.Path(tmp_path))) == [
        "multitask/chains_self_oracle_2_edit_distance: 1 of 1000 planned chains"
    ]


def test_samples_are_shown_next_to_the_papers():
    plans = paper_figures.read_experiments("reduced", TABLES["3"])
    config = plans["multitask"]

    def lines(names):
        for name in names:
            for length, count in config.chains[name].counts.items():
                yield {
                    "run": name,
                    "metric": "samples",
                    "length": int(length),
                    "value": count + 1,
                }

    self_chains = list(lines(TABLES["3"].stages))
    result = tables.sample_counts("table_3", config, self_chains).splitlines()
    assert result[1].split() == ["arithmetic", "<=", "6", "42515", "4400", "drawn"]
    assert result[2].split() == ["arithmetic", "7", "-", "1500", "1501"]
    assert "arithmetic 16 6477 - -" in [" ".join(line.split()) for line in result]
    self_chains = list(lines(TABLES["4"].stages))
    result = tables.sample_counts("table_4", config, self_chains).splitlines()
    assert result[1].split() == [
        "1",
        "arithmetic",
        "7",
        "15000",
        "1500",
        "1501",
        "1501",
    ]
    assert len(result) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figure=3"], "--figure=3 is unknown; give one of 2, 4, 5, 6, 7"),
        (["--table=5"], "--table=5 is unknown; give one of 1, 2, 3, 4"),
        ([], "give one of --figure=2|4|5|6|7 and --table=1|2|3|4"),
        (["--figure=2", "--table=1"], "give one of --figure=2|4|5|6|7 and --table=1"),
    ],
)
def test_only_figures_and_tables_of_the_paper_are_accepted(arguments, message):
    options = dict(argument.removeprefix("--").split("=") for argument in arguments)
    with pytest.raises(ValueError) as error:
        paper_figures.find_result(options.get("figure", ""), options.get("table", ""))
    assert str(error.value).startswith(message)


def test_a_figure_is_drawn_once_every_task_has_a_curve(tmp_path):
    needs = FIGURES["4"]
    plans = paper_figures.read_experiments("paper_size", needs)
    parts = list(paper_figures.measurements(plans, needs))
    path = epath.Path(tmp_path)
    (path / "measured").mkdir()
    assert not paper_figures.has_measurements(parts, path)
    for part in parts:
        if part.run == "looped_aligned" and part.task != "lis":
            (path / part.file).touch()
    assert not paper_figures.has_measurements(parts, path)
    for part in parts:
        if part.run == "looped_aligned":
            (path / part.file).touch()
    assert paper_figures.has_measurements(parts, path)
    assert not paper_figures.has_measurements([], path)  # a table


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("small", "reduced"),
        ("paper_small", "reduced"),
        ("far", "length_extrapolation"),
    ],
)
def test_a_recipe_of_an_earlier_version_has_a_new_name(old, new, tmp_path):
    with pytest.raises(ValueError) as error:
        paper_figures.read_experiments(old, FIGURES["2"])
    assert str(error.value) == f"--recipe={old} is now --recipe={new}"
    files.write_json(tmp_path / "recipe.json", {"recipe": "small"})
    with pytest.raises(ValueError, match="not 'reduced'; give another --workdir$"):
        recipe_folder.check(epath.Path(tmp_path), "reduced", 0)


def test_every_seed_has_its_own_directory_and_one_figure_shows_them_all(tmp_path):
    needs = FIGURES["2"]._replace(experiments=("lis",))
    plans = paper_figures.read_experiments("reduced", needs, seed=1)
    stages_of_all = (*plans["lis"].runs.values(), *plans["lis"].chains.values())
    assert {stage.seed for stage in stages_of_all} == {1}
    record = {"run": "ar", "experiment": "lis", "task": "lis", "model": "ar"}
    record |= {"metric": "answer_accuracy", "length": 4, "count": 8}
    folders = [epath.Path(tmp_path) / name for name in "ab"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        recipe_folder.write(folder, "reduced", seed)
        lines = [record | {"seed": seed, "value": 0.5 + 0.25 * seed}]
        files.write_lines(folder / "records.jsonl", lines)
    shown = paper_figures.draw("figure_2", needs, plans, folders[1], [folders[0]])
    assert "0.625" in shown  # the mean
    recipe_folder.check_others([folders[0]], "reduced", 1)
    for others, error in [
        (["a", "a"], "a has the seed 0, as "),
        (["b"], "b has the seed 1, as --workdir has; give directories of"),
        (["none"], "none has no records.jsonl"),
    ]:
        with pytest.raises(ValueError, match=error):
            recipe_folder.check_others(
                [f"{tmp_path}/{x}" for x in others], "reduced", 1
            )
    with pytest.raises(
        ValueError, match="with the seed 0, not 2; give --seed=0, or an"
    ):
        recipe_folder.check(folders[0], "reduced", 2)


@pytest.mark.parametrize("recipe", ["reduced", "reduced_rope", "paper_size"])
def test_recipes_at_other_sizes_have_the_papers_loop_and_ratios(recipe):
    needs = FIGURES["2"]._replace(experiments=("multitask",))
    config = paper_figures.read_experiments(recipe, needs)["multitask"]
    for task, plan in paper.PLANS.items():
        lengths = config.runs["ar"].evaluation.lengths[task]
        ratio = lengths[1] / config.trained_lengths[task][1]
        exact = plan.test_lengths[1] / plan.train_lengths[1]
        assert ratio == pytest.approx(exact, abs=0.005)
    for name in ("looped_aligned", "looped_vanilla"):
        run = config.runs[name]
        assert run.model.input_injection == "hidden"
        assert run.optimizer.kind == "muon"
        buckets = run.data.buckets.values()
        for task in paper.PLANS:  # weigh the same
            weights = [b.weight for b in buckets if b.task == task]
            assert sum(weights) == pytest.approx(1 / 3)
        whole = [b.weight for b in buckets if not b.max_rounds]
        assert sum(whole) > 0.9  # whole chains
    assert config.runs["looped_vanilla"].loss.round_weight == 0
    assert len(config.chains) == 3 + 2 * 5 * 3
    schemes = {run.model.position.scheme for run in config.runs.values()}
    assert schemes == {"rope" if recipe == "reduced_rope" else "relative_bias"}


def test_wrong_inputs_end_in_a_clear_line(tmp_path):
    with pytest.raises(
        ValueError, match="--recipe=big is unknown; give one of paper, "
    ):
        paper_figures.read_experiments("big", FIGURES["2"])
    plans = paper_figures.read_experiments("reduced", FIGURES["2"])
    result = "--stages: 'lis/ar_relay' is not needed here; choose from arithmetic/ar, "
    with pytest.raises(ValueError, match=result):
        paper_figures.select_stages(plans, FIGURES["2"], ["lis/ar_relay"])
    some = paper_figures.select_stages(plans, FIGURES["2"], ["lis/ar"])
    assert {name: list(planned) for name, planned in some.items()} == {
        "arithmetic": [],
        "edit_distance": [],
        "lis": ["ar"],
    }
    files.write_json(tmp_path / "recipe.json", {"recipe": "paper"})
    done = script("--figure=2", "--recipe=reduced", f"--workdir={tmp_path}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        f"error: {tmp_path} has experiments of the recipe 'paper', not 'reduced'; give "
        "--recipe=paper, or another --workdir\n"
    )


def test_a_dry_run_trains_nothing_and_a_run_stops_in_time(tmp_path):
    figure_two = "--figure=2", "--recipe=reduced", f"--workdir={tmp_path}/work"
    done = script(*figure_two, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "work").exists()
    assert done.stdout.splitlines()[0].split() == [
        *("arithmetic/ar", "0", "of", "4,000", "steps,", "7.1", "minutes"),
    ]
    assert done.stdout.splitlines()[-1].endswith(" minutes at 0.03 TFLOP/s")
    done = script(*figure_two, "--minutes=0")
    assert done.returncode == 143, done.stderr
    assert done.stderr.splitlines()[-1] == "out of time; run the same command to resume"
    assert {file.name for file in (tmp_path / "work").iterdir()} == {
        *("recipe.json", "records.jsonl", "run.jsonl"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["7", "4"])
def test_a_tiny_figure_from_end_to_end(figure, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", tiny(4))
    needs, path = FIGURES[figure], epath.Path(tmp_path)
    plans = make(path, needs)
    assert paper_figures.unfinished(plans, needs, path) == []
    shown = paper_figures.draw(f"figure_{figure}", needs, plans, path)
    image = path / "figures" / f"figure_{figure}.png"
    assert f"figure: {image}" in shown
    assert image.read_bytes().startswith(b"\x89PNG")
    before = (path / "records.jsonl").read_bytes()
    make(path, needs)
    assert (path / "records.jsonl").read_bytes() == before

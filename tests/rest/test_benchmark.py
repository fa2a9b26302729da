"""Plain decoding against drafters: what is compared and reported."""

import jax
import numpy as np
import pytest

from relay_jax.config import DraftConfig, MeshConfig, ModelConfig, TrainConfig
from relay_jax.evaluation import figures
from relay_jax.evaluation.report import make_speed_table
from relay_jax.models.sharding import make_mesh
from relay_jax.rest import benchmark
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import AUTOTUNE, resize
from relay_jax.rest.index import add_recent, load_index
from relay_jax.training.step import init_params

MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=12
)
CONTEXT = DraftConfig("prompt_lookup", num_draft=4)
TUNED = DraftConfig("prompt_lookup", num_draft=AUTOTUNE)


def make_work(batch_size=2):
    prompts = [np.array([2, 3, 4]), np.array([5]), np.array([2, 5]), np.array([7])]
    params = init_params(TrainConfig(model=MODEL))
    return benchmark.Workload(params, MODEL, prompts, 24, batch_size=batch_size)


def test_every_drafter_is_compared_with_plain_decoding(expensive_steps, tmp_path):
    lines = benchmark.compare(make_work(), [CONTEXT, TUNED], 2, tmp_path / "times.json")
    assert [line["drafter"] for line in lines] == [
        "none",
        "prompt_lookup",
        "prompt_lookup",
    ]
    assert [line["num_draft"] for line in lines] == [0, 4, 0]
    assert [line["autotuned"] for line in lines] == [False, False, True]
    assert lines[0]["M"] == lines[2]["M"] == 1.0 < lines[1]["M"]
    assert lines[0]["speed_up"] == 1.0 and lines[2]["num_draft"] == 0.0
    assert [set(line["draft_sizes"]) for line in lines] == [{"0"}, {"4"}, {"0"}]
    for line in lines:  # two batches of 2 texts
        passes = np.reshape(line["steps_of_texts"], (2, 2)).max(axis=1).sum()
        assert sum(line["draft_sizes"].values()) == passes
    assert lines[0]["drafting_share"] == 0.0
    for line in lines:
        assert line["texts"] == 4 and line["new_tokens"] == 96 and line["same_texts"]
        assert line["speed_up_min"] <= line["speed_up"] <= line["speed_up_max"]
    metadata = {"model": "lm", "prompts": "some/file.npy", "length": 3, "batch_size": 2}
    figures.speed_by_drafter(
        [line | metadata for line in lines], tmp_path / "speed.png"
    )
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    rows = make_speed_table(lines).splitlines()
    assert len(rows) == 4 and "plain (chosen)" in rows[3]
    with pytest.raises(ValueError, match="no record of speed"):
        figures.speed_by_drafter([], tmp_path / "speed.png")


def test_token_recycling_is_timed_with_its_table(monkeypatch):
    """Also the drafter alone, with a table that a decode has filled."""
    drafts = [CONTEXT, DraftConfig("token_recycling", num_draft=4)]
    tables, real = [], benchmark.time_drafter

    def look(texts, index, draft, drafter_state):
        tables.append(drafter_state)
        return real(texts, index, draft, drafter_state)

    monkeypatch.setattr(benchmark, "time_drafter", look)
    lines = benchmark.compare(make_work(), drafts, 1)
    assert [line["drafter"] for line in lines] == [
        "none",
        "prompt_lookup",
        "token_recycling",
    ]
    assert tables[0] == () and np.any(np.asarray(tables[1].tokens) >= 0)
    for line in lines:
        assert sum(line["tokens_of_texts"]) == line["new_tokens"] == 96
        rate = 96 / sum(line["steps_of_texts"])
        assert line["M"] == pytest.approx(rate, abs=1e-3)


def test_another_text_is_an_error(monkeypatch):
    real = benchmark._run

    def wrong(work, draft, times):
        texts, seconds = real(work, draft, times)
        if draft.num_draft:
            texts[0].tokens[0, -1] += 1
        return texts, seconds

    monkeypatch.setattr(
        benchmark.jax, "device_get", lambda x: jax.tree.map(np.array, x)
    )
    monkeypatch.setattr(benchmark, "_run", wrong)
    with pytest.raises(
        ValueError, match="prompt_lookup generated another text than plain"
    ):
        benchmark.compare(make_work(), [CONTEXT], 1)


def test_the_drafter_is_timed_on_the_batches_that_were_decoded(monkeypatch):
    """A step and its drafter: the same rows, the same room."""
    shapes, real = [], benchmark.time_drafter

    def look(texts, index, draft, drafter_state):
        shapes.extend((*text.tokens.shape, *text.length.shape) for text in texts)
        on_host = jax.device_get(texts)
        for text in on_host:
            is_text = np.arange(27)[None] < text.length[:, None]
            assert not np.any(text.tokens[~is_text])
        assert {int(n) for text in on_host for n in text.length} > set(range(3, 20))
        return real(texts, index, draft, drafter_state) * 0 + 0.5

    monkeypatch.setattr(benchmark, "time_drafter", look)
    lines = benchmark.compare(make_work(batch_size=4), [CONTEXT], 1)
    assert set(shapes) == {(4, 27, 4)}
    step = lines[1]["ms_per_step"] / 1e3
    assert lines[1]["drafting_share"] == pytest.approx(0.5 / step, rel=0.02)


def test_a_store_over_a_mesh_is_compared_in_the_same_way(expensive_steps, tmp_path):
    """Also with parameters that a checkpoint has put on one device."""
    vocab = {"tokenizer": "test", "vocab_size": 12, "eos_id": 1}
    texts = list(np.random.default_rng(0).integers(2, 12, (20, 20)))
    store = build_datastore(texts, tmp_path / "store", shard_tokens=200, **vocab)
    work = make_work()._replace(index=load_index(store, make_mesh(MeshConfig(data=0))))
    work = work._replace(params=jax.device_put(work.params, jax.devices()[0]))
    drafts = [DraftConfig("rest", num_draft=4, depth=4, num_store_rows=8)]
    drafts += [resize(drafts[0], AUTOTUNE)]
    lines = benchmark.compare(work, drafts, 1, tmp_path / "times.json")
    assert [line["num_draft"] for line in lines] == [0, 4, 0]
    assert all(line["same_texts"] == 1 for line in lines)


def test_an_index_with_recent_texts_adds_finished_ones(tmp_path):
    """The second prompt is the first one again: its text has been added."""
    vocab = {"tokenizer": "test", "vocab_size": 12, "eos_id": 1}
    store = build_datastore([np.array([2, 3])], tmp_path / "store", **vocab)
    loaded = load_index(store)
    draft = DraftConfig("rest", num_draft=8, depth=6, num_text_rows=2)
    steps = {}
    for index in (loaded, add_recent(loaded, 1, 200)):
        work = make_work(batch_size=1)._replace(prompts=[np.array([2, 3, 4])] * 2)
        lines = benchmark.compare(work._replace(index=index), [draft], 1)
        assert lines[1]["same_texts"] == 1
        steps[type(index).__name__] = lines[1]["steps_of_texts"]
    assert steps["Index"][0] == steps["Index"][1] == steps["IndexWithRecent"][0]
    assert steps["IndexWithRecent"][1] < steps["IndexWithRecent"][0]


def test_too_few_prompts_are_refused():
    with pytest.raises(ValueError, match="4 prompts do not fill one batch of 5"):
        benchmark.compare(make_work(batch_size=5), [CONTEXT])

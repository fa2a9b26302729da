"""The Python API: load, generate, stream, solve, build_datastore."""

import json
import logging
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import relay_jax
from relay_jax.chat_template import ChatTemplate
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig, TrainConfig
from relay_jax.data import corpora
from relay_jax.data.sources import SyntheticSource
from relay_jax.decoding import decode, result, tree_size
from relay_jax.evaluation import predict
from relay_jax.generation import LanguageModel
from relay_jax.models import hf_weights
from relay_jax.models.decoder import unstack_layers
from relay_jax.rest import build as rest_build
from relay_jax.rest.drafters import make_drafter
from relay_jax.rest.index import load_index
from relay_jax.tasks import make_task
from relay_jax.tokenizers import IdTokenizer
from relay_jax.training import checkpoint
from relay_jax.training.step import init_params
from relay_jax.vocabulary import PAD, TaskTokenizer

ROOT = pathlib.Path(__file__).parents[1]
CHECKPOINTS = ROOT / "experiments" / "checkpoints"
TOKENIZER = TaskTokenizer(12)
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, num_numbers=12, dropout=0.0
)
PROMPTS = ["[ARI] 1+2*3=", "[ARI] 1+2*3+1+2*3+1+2="]
NEW = 24


@pytest.fixture(scope="module")
def lm():
    """An untrained decoder of the task vocabulary."""
    params = unstack_layers(init_params(TrainConfig(model=MODEL)))
    return LanguageModel(MODEL, params, TOKENIZER, (TOKENIZER.eos_id,), "tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    texts = [f"[ARI] 1+{n}*2= 1+{n}= 3" * 20 for n in range(5)]
    return relay_jax.build_datastore(path, texts=texts, tokenizer=TOKENIZER)


def decoded(lm, **settings):
    """The new tokens of `decode` itself."""
    prompts = [TOKENIZER.encode(prompt) for prompt in PROMPTS]
    settings = {"model": MODEL, "max_new_tokens": NEW, "width": 64} | settings
    state = decode.decode(lm.params, prompts, **settings)
    lengths = list(map(len, prompts))
    return [ids.tolist() for ids in result.new_tokens(state, lengths)], state


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 3}]
)
def test_generate_is_decode(lm, store, sampling):
    seed = sampling.get("seed", 0)
    config = SamplingConfig(*(v for k, v in sampling.items() if k != "seed"))
    drafter = make_drafter(DraftConfig("rest", num_draft=8))
    expected, state = decoded(
        lm,
        drafter=drafter,
        index=load_index(store),
        sampling=config,
        seed=seed,
        eos_id=TOKENIZER.eos_id,
    )
    out = lm.generate(
        PROMPTS, max_new_tokens=NEW, datastore=store, num_draft=8, **sampling
    )
    assert out.token_ids == expected
    assert out.num_steps == state.steps.tolist()
    assert out.num_tokens == sum(map(len, expected)) > 0
    assert out.tokens_per_step == result.tokens_per_step(
        state, [len(ids) for ids in out.prompt_token_ids]
    )
    assert out.tokens_per_second > 0 and out.seconds > 0 and out.prompt_seconds > 0
    for row, ids in enumerate(out.token_ids):
        first = len(out.prompt_token_ids[row])
        drafted = state.drafted[row, first : first + len(ids)].tolist()
        assert out.drafted[row] == drafted
        ended = ids[-1] == TOKENIZER.eos_id
        assert out.finish_reasons[row] == ("stop" if ended else "length")
        whole = TOKENIZER.decode([*out.prompt_token_ids[row], *ids])
        assert whole.endswith(out.texts[row])
        assert (
            out.marked_texts()[row].replace("«", "").replace("»", "")
            == (out.texts[row])
        )


def test_accepted_drafts_are_shown_in_quotes(lm):
    out = lm.generate(PROMPTS[:1], max_new_tokens=4, drafter="none")
    drafted = [False, False, True, True, False, False, True]
    out = out._replace(
        token_ids=[[2, 3, 4, 5, 6, 7, 8]], drafted=[drafted], finish_reasons=["length"]
    )
    assert out.marked_texts(as_ids=True) == ["2,3«4,5»6,7«8»"]
    flipped = out._replace(drafted=[[not flag for flag in drafted]])
    assert flipped.marked_texts(as_ids=True) == ["«2,3»4,5«6,7»8"]
    whole = out._replace(drafted=[[False] * 7])
    assert whole.marked_texts() == whole.texts


def test_drafts_change_no_text(lm, store, tmp_path):
    plain = lm.generate(PROMPTS, max_new_tokens=NEW, drafter="none")
    assert plain.draft_sizes == {0: max(plain.num_steps)}
    assert not any(map(any, plain.drafted))
    assert plain.tokens_per_step == 1
    for datastore in (store, str(store.path), load_index(store)):
        out = lm.generate(PROMPTS, max_new_tokens=NEW, datastore=datastore, num_draft=8)
        assert out.token_ids == plain.token_ids
        assert out.draft_sizes == {8: max(out.num_steps)}
    tuned = lm.generate(PROMPTS, max_new_tokens=NEW, cache_file=tmp_path / "times.json")
    assert tuned.token_ids == plain.token_ids
    assert set(tuned.draft_sizes) <= set(tree_size.SIZES)
    assert sum(tuned.draft_sizes.values()) == max(tuned.num_steps)


def test_prompts_are_texts_or_ids(lm):
    how = {"max_new_tokens": NEW, "drafter": "none"}
    expected = lm.generate(PROMPTS, **how).token_ids
    ids = [TOKENIZER.encode(prompt) for prompt in PROMPTS]
    assert lm.generate(ids, **how).token_ids == expected
    assert lm.generate([np.array(ids[0]), PROMPTS[1]], **how).token_ids == expected
    for one in (PROMPTS[0], ids[0], np.array(ids[0]), tuple(ids[0])):
        out = lm.generate(one, **how)
        assert out.token_ids == expected[:1] and len(out.texts) == 1


def test_a_conversation_is_its_rendered_prompt(lm, tmp_path):
    how = {"max_new_tokens": NEW, "drafter": "none"}
    chat_lm = lm._replace(
        chat_template=ChatTemplate("{{ start }}{{ messages[-1].content }}", "")
    )
    chats = [[{"role": "user", "content": text[6:]}] for text in PROMPTS]
    expected = lm.generate(PROMPTS, **how).token_ids
    variables = {"chat_template_kwargs": {"start": "[ARI]"}}
    assert chat_lm.chat(chats, **variables, **how).token_ids == expected
    assert chat_lm.chat(chats[0], **variables, **how).token_ids == expected[:1]
    ids = chat_lm.encode_chat(chats, **variables)
    assert ids == [TOKENIZER.encode(prompt) for prompt in PROMPTS]
    plain = chat_lm.encode_chat(chats[1], chat_template="plain")
    assert plain == [TOKENIZER.encode(PROMPTS[1][6:])]
    (tmp_path / "a.jinja").write_text("1+2=")
    file = str(tmp_path / "a.jinja")
    assert lm.encode_chat(chats[0], chat_template=file) == [TOKENIZER.encode("1+2=")]
    with pytest.raises(ValueError, match="tiny has no chat template .*; name one: one"):
        lm.chat(chats[0])
    with pytest.raises(ValueError, match="chat_template: .* renders an empty prompt"):
        lm.chat(chats[0], chat_template="{{ ''.__class__ }}")
    for wrong in ("hello", [], {}, [[]]):
        with pytest.raises(ValueError, match="a conversation must be a list of messag"):
            chat_lm.chat(wrong)


@pytest.mark.parametrize("num_draft", [0, 8])
def test_the_pieces_of_a_stream_are_the_text(lm, num_draft):
    how = {"max_new_tokens": NEW, "num_draft": num_draft, "ignore_eos": True}
    (text,) = lm.generate(PROMPTS[1], **how).texts
    pieces = list(lm.stream(PROMPTS[1], **how))
    assert "".join(pieces) == text and len(pieces) > 1


def test_a_text_ends_before_a_stop_string(lm):
    how = {"max_new_tokens": NEW, "num_draft": 8, "ignore_eos": True}
    out = lm.generate(PROMPTS, **how)
    stop = out.texts[0][3:5]
    stopped = lm.generate(PROMPTS, stop=stop, **how)
    assert stopped.finish_reasons[0] == "stop"
    for row in range(2):
        expected = out.texts[row].partition(stop)[0]
        assert stopped.texts[row] == expected
        size = len(stopped.token_ids[row])
        assert stopped.token_ids[row] == out.token_ids[row][:size]
    assert "".join(lm.stream(PROMPTS[0], stop=[stop], **how)) == stopped.texts[0]


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({}, ""),
        ({"top_p": 0.9}, "top_p=0.9"),
        ({"top_k": 5, "min_p": 0.1, "temperature": 1e-31}, "top_k=5, min_p=0.1"),
        ({"top_p": 0.9, "temperature": 0.8}, ""),
        ({"top_p": 1.0, "top_k": 0}, ""),
    ],
    ids=str,
)
def test_settings_that_greedy_decoding_does_not_use_are_named(
    lm, options, unused, caplog
):
    with caplog.at_level(logging.WARNING, "absl"):
        lm.generate([[1]], max_new_tokens=1, drafter="none", **options)
    named = [line.getMessage() for line in caplog.records if line.name == "absl"]
    assert len(named) == bool(unused)
    assert not unused or named[0].startswith(f"{unused} has no effect")


def test_a_stop_string_is_read_as_texts_are(lm):
    request = lm.make_request([[1]], max_new_tokens=1, stop=["\ud83d\ude00", "\udc80"])
    assert request.stop == ("\U0001f600", "\ufffd")


def test_a_text_ends_at_other_tokens_and_lengths(lm):
    free = lm.generate(PROMPTS, max_new_tokens=NEW, ignore_eos=True, drafter="none")
    assert free.finish_reasons == ["length"] * 2
    (ids,) = free.token_ids[:1]
    out = lm.generate(
        PROMPTS, max_new_tokens=NEW, eos_token_id=[ids[2]], drafter="none"
    )
    size = ids.index(ids[2]) + 1
    assert out.token_ids[0] == ids[:size] and out.finish_reasons[0] == "stop"
    longest = len(out.prompt_token_ids[1]) + 3
    out = lm.generate(
        PROMPTS,
        max_new_tokens=NEW,
        max_length=longest,
        ignore_eos=True,
        drafter="none",
    )
    sizes = [longest - len(ids) for ids in out.prompt_token_ids]
    assert list(map(len, out.token_ids)) == [min(size, NEW) for size in sizes]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "prompts must be a text, token ids, or a list of them that is not"),
        (5, {}, "prompts must be a text, token ids, or a list .* got 5"),
        ([None], {}, "a prompt must be a text or a list of token ids, got None"),
        ([[1.5]], {}, r"a prompt must be a text or a list of token ids, got \[1.5\]"),
        ("", {}, "a prompt is empty: decoding continues a text, so give at least"),
        ([[2, 999]], {}, "the prompt contains the token id 999, but the model's vocab"),
        ("hello?", {}, r"'\?' is not in the task vocabulary"),
        ("1", {"max_new_tokens": 0}, "max_new_tokens must be 1 or more, got 0"),
        ("1", {"temperature": -1.0}, "temperature must be 0 or more and finite"),
        ("1", {"top_p": 2.0}, "top_p above 0 and at most 1"),
        ("1", {"seed": -1}, r"seed must be 0..\d+, got -1"),
        ("1", {"drafter": "guess"}, "unknown drafter 'guess'; valid drafters: none, "),
        ("1", {"num_draft": "many"}, "num_draft must be 'auto' or a number of nodes"),
        ("1", {"num_draft": 999}, r"num_draft must be 0..320 with these rows, got 999"),
        ("1", {"draft_depth": 0}, "draft_depth must be 1 or more, got 0"),
        ("1", {"drafter": "rest"}, "the drafter 'rest' needs a datastore, and there"),
        ("1", {"datastore": "/nowhere"}, "/nowhere is not a datastore: it has no meta"),
        ("1", {"datastore": 5}, "datastore must be a directory, an opened datastore "),
        ("1", {"eos_token_id": 999}, "eos_token_id must be token ids 0..52, got 999"),
        ("1", {"stop": [""]}, "a stop string is empty; give at least one character"),
        (["1", "2"], {"stream": True}, "stream continues one prompt, got 2; call it"),
    ],
)
def test_wrong_arguments_end_in_a_clear_line(lm, prompts, options, message):
    call = lm.stream if options.pop("stream", False) else lm.generate
    with pytest.raises((ValueError, TypeError), match=message):
        list(call(prompts, **options))


def test_a_datastore_is_built_of_files_and_texts(lm, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.txt").write_text("1+2=3")
    path = tmp_path / "store"
    build = {"tokenizer": TOKENIZER, "files": f"{tmp_path}/src/*.txt"}
    store = relay_jax.build_datastore(
        path, texts=["4*5="], token_ids=[[50, 51]], **build
    )
    assert (store.num_documents, store.num_tokens) == (3, 5 + 4 + 2 + 3)
    assert relay_jax.open_datastore(path).num_tokens == store.num_tokens
    with pytest.raises(ValueError, match="overwrite"):
        relay_jax.build_datastore(path, **build)
    again = relay_jax.build_datastore(path, overwrite=True, **build)
    assert again.num_documents == 1
    for files, message in ((["/no/*.py"], "no file matches '/no/"), ((), "docum")):
        with pytest.raises(ValueError, match=message):
            relay_jax.build_datastore(
                tmp_path / "new", files=files, tokenizer=TOKENIZER
            )
    other = relay_jax.build_datastore(
        tmp_path / "other", texts="1+2=", tokenizer=TaskTokenizer(13)
    )
    with pytest.raises(ValueError, match="was built with the tokenizer 'relay-tasks-"):
        lm.generate("1+", datastore=other)


def test_a_datastore_does_not_depend_on_the_number_of_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "BATCH_CHARACTERS", 40)
    texts = [f"1+{n}*2=" * (n % 7) for n in range(12)]
    rest_build.build_datastore(
        [np.array(TOKENIZER.encode(text), int) for text in texts],
        tmp_path / "one_by_one",
        tokenizer=TOKENIZER.identity,
        vocab_size=TOKENIZER.vocab_size,
        eos_id=TOKENIZER.eos_id,
        shard_tokens=50,
    )
    expected = {file.name: file.read_bytes() for file in tmp_path.glob("*/*")}
    assert len(expected) > 5
    for cores in (1, 3):
        monkeypatch.setattr(corpora, "count_cores", lambda cores=cores: cores)
        path = tmp_path / str(cores)
        relay_jax.build_datastore(
            path, texts=texts, tokenizer=TOKENIZER, shard_tokens=50
        )
        assert {file.name: file.read_bytes() for file in path.iterdir()} == expected


def test_a_run_and_a_hugging_face_folder_are_loaded(tmp_path):
    run = relay_jax.load(CHECKPOINTS / "quickstart" / "ar_relay")
    assert isinstance(run, relay_jax.LanguageModel)
    config, params = checkpoint.load_params(CHECKPOINTS / "quickstart" / "ar_relay")
    assert (run.name, run.config) == (config.name, config.model)
    jax.tree.map(np.testing.assert_array_equal, run.params, unstack_layers(params))

    llama = ModelConfig(
        kind="decoder",
        num_layers=1,
        dim=16,
        mlp_dim=16,
        norm="rms",
        activation="swiglu",
        dropout=0.0,
        text_vocab_size=53,
    )
    folder = tmp_path / "llama"
    hf_weights.save_params(init_params(TrainConfig(model=llama)), llama, folder)
    ids = relay_jax.load(folder)  # it has no tokenizer
    out = ids.generate([[5, 6, 7]], max_new_tokens=4, ignore_eos=True, num_draft=4)
    assert isinstance(ids.tokenizer, IdTokenizer) and len(out.token_ids[0]) == 4
    for text in (lambda: ids.generate("1+"), lambda: out.texts):
        with pytest.raises(ValueError, match="has neither tokenizer.model nor"):
            text()
    with_tokenizer = relay_jax.load(folder, tokenizer="relay:12", dtype="bfloat16")
    assert with_tokenizer.tokenizer == TOKENIZER
    assert with_tokenizer.config.param_dtype == "bfloat16"
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 1]}))
    assert relay_jax.load(folder, tokenizer="relay:12").eos_ids == (5, 1)
    assert ids.chat_template is None
    (folder / "chat_template.jinja").write_text("own")
    found = relay_jax.load(folder, tokenizer="relay:12").chat_template
    assert found == ChatTemplate("own", f"{folder}/chat_template.jinja")


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        (
            "/nowhere",
            {},
            "/nowhere is not a model: it has no config.json; give a Hugging Face",
        ),
        (CHECKPOINTS / "lis", {"dtype": "float16"}, "dtype=float16 is for a published"),
        (
            CHECKPOINTS / "quickstart" / "ar_relay",
            {"tokenizer": "relay:99"},
            "the tokenizer has 140 tokens, the model 49; give the model's own",
        ),
    ],
)
def test_a_wrong_folder_ends_in_a_clear_line(path, options, message):
    with pytest.raises(ValueError, match=message):
        relay_jax.load(path, **options)


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("arithmetic", (2, 5)),
        ("edit_distance", (4, 6)),
        ("lis", (3, 25)),
        ("quickstart/looped_aligned", (1, 4)),
        ("quickstart_lis/looped_aligned", (5, 20)),
    ],
)
def test_a_solver_predicts_what_evaluation_predicts(name, lengths):
    solver = relay_jax.load(CHECKPOINTS / name)
    config, params = checkpoint.load_params(CHECKPOINTS / name)
    ((task_name, options),) = config.evaluation.options.items()
    task = make_task(task_name, options)
    for length in lengths:
        problems = SyntheticSource(task, (length, length), 0, "test").take(np.arange(3))
        expected = predict.predict_looped(params, config.model, task, problems, 3)
        texts = [
            solver.tokenizer.decode(row[row != PAD][1:-1]) for row in problems.problem
        ]
        found = solver.solve(texts)
        read = solver.tokenizer.decode
        for row, solution in enumerate(found):
            assert solution.answer == read([expected.answer[row]])
            rounds = [read(tokens[tokens != PAD]) for tokens in expected.rounds[row]]
            assert solution.rounds == rounds
            assert solution.confidence == pytest.approx(
                expected.confidence[row], abs=1e-5
            )
        assert solver.solve(f"{texts[0]}").answer == found[0].answer


def test_a_solved_problem_reads_as_text():
    solver = relay_jax.load(CHECKPOINTS / "arithmetic")
    solution = solver.solve("(2+3)*4+1=")
    assert solution.rounds == ["5*4+1=", "9+1=", "10"] and solution.answer == "10"
    assert 0.9 < solution.confidence <= 1
    assert solver.solve(["[ARI] (2+3)*4+1", "1+1="])[1].answer == "2"


@pytest.mark.parametrize(
    ("name", "problem", "message"),
    [
        ("arithmetic", "(2+3", "'\\(2\\+3': arithmetic: a problem is numbers with "),
        ("arithmetic", "2 3=", "brackets around operations, as in "),
        ("arithmetic", "((2+3))=", "brackets around operations, as in "),
        ("arithmetic", "2=", "brackets around operations, as in "),
        ("arithmetic", "3/(2-2)=", "the divisor of a quotient is 0"),
        ("arithmetic", "12+1=", "numbers are 0..10, modulo 11; got 12"),
        ("arithmetic", "", "the problem '' does not begin with its task: "),
        ("arithmetic", 5, "problems must be a text or a list of texts, got 5"),
        ("arithmetic", [5], "problems must be a text or a list of texts, got "),
        ("edit_distance", "ab", "two strings of letters a-z with \\| between them, as"),
        ("edit_distance", "abc|ab", "never shorter; got 3 and 2 letters"),
        ("lis", "3 4", "a problem is numbers 401..801 with spaces between them"),
        ("arithmetic", "x", "a problem is numbers"),
        ("arithmetic", "2?", "is not in the task vocabulary"),
    ],
)
def test_a_malformed_problem_ends_in_a_clear_line(name, problem, message):
    solver = relay_jax.load(CHECKPOINTS / name)
    with pytest.raises((ValueError, TypeError), match=message):
        solver.solve(problem)


def test_importing_the_package_is_light():
    code = "import relay_jax, sys; assert 'jax' not in sys.modules; relay_jax.load"
    code += "; assert 'jax' in sys.modules and 'load' in dir(relay_jax)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        relay_jax.lode  # noqa: B018
    stub = (ROOT / "relay_jax" / "__init__.pyi").read_text()
    assert all(f"import {name} as {name}" in stub for name in relay_jax._MODULES)

"""Perplexity is what the definition says, for each family, and lies beside accuracies without touching them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from hub_fusion.errors import RecipeError, WeightsError
from hub_fusion.evaluate.gate import judge
from hub_fusion.evaluate.models import load_language_model, load_tokenizer
from hub_fusion.evaluate.perplexity import cut, run_perplexity
from hub_fusion.evaluate.rank import rank
from hub_fusion.evaluate.scores import compare, compare_likelihoods
from hub_fusion.evaluate.suite import cheapest, measure, suite_id
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.recipe import Gate, Perplexity, Task

from .conftest import WORDS, make_vit, settings
from .families import FAMILIES, make_family

A, B = "a" * 64, "b" * 64


def write_plain(folder: Path, words: int = 200, seed: int = 0) -> Path:
    """A task of plain text: random words, in which a good word follows another one."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for part in ("gate", "report"):
        (folder / f"{part}.txt").write_text(" ".join(random.choice(WORDS[:8], words)))
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A task of plain text."""
    return write_plain(tmp_path / "plain")


def task_of(folder: Path) -> TaskData:
    return load_task(Task(name="t", path=folder), max_test=10)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of each family; its folder has the family's name."""
    return make_family(request.param, tmp_path_factory.mktemp("family") / request.param)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_of_a_decoder_it_is_the_mean_log_probability_of_each_token_after_those_before_it(
    name: str, plain: Path, tmp_path: Path
) -> None:
    """By hand: one forward pass for each prefix of the first window."""
    folder = make_family(name, tmp_path / name)
    model, _ = load_language_model(folder)
    tokens = load_tokenizer(folder, "t")((plain / "gate.txt").read_text(), add_special_tokens=False)["input_ids"]
    sequence, total = [1, *tokens[:8]], 0.0  # 1 is the beginning token
    with torch.inference_mode():
        for place in range(1, 9):
            logits = model(torch.tensor([sequence[:place]])).logits[0, -1].double()
            total += float(logits.log_softmax(0)[sequence[place]])
    found = run_perplexity(folder, task_of(plain), Perplexity(window=8), range(3))["gate"]
    assert found.shape == (1, 25)
    assert found[0, 0] == pytest.approx(total / 8, abs=1e-5)  # float32


def test_of_a_masked_model_it_is_that_of_masked_tokens_which_the_seed_chooses(bert: Path, plain: Path) -> None:
    """With one masked token of each window of 5, by hand for all five places."""
    settings = Perplexity(window=5, mask=0.2)
    found = run_perplexity(bert, task_of(plain), settings, range(4))["gate"]
    assert found.shape == (4, 40)
    assert np.array_equal(run_perplexity(bert, task_of(plain), settings, range(2, 4))["gate"], found[2:])
    model, _ = load_language_model(bert)
    tokenizer = load_tokenizer(bert, "t")
    tokens = tokenizer((plain / "gate.txt").read_text(), add_special_tokens=False)["input_ids"][:5]
    possible = []
    with torch.inference_mode():
        for place in range(5):
            inner = [tokenizer.mask_token_id if n == place else t for n, t in enumerate(tokens)]
            logits = model(torch.tensor([[tokenizer.cls_token_id, *inner, tokenizer.sep_token_id]])).logits
            possible.append(float(logits[0, place + 1].log_softmax(0)[tokens[place]]))
    assert all(min(abs(value - p) for p in possible) < 1e-5 for value in found[:, 0])
    assert len(set(found[:, 0].round(6))) > 1


def test_of_an_encoder_decoder_it_is_the_second_half_of_a_window_after_the_first(plain: Path, tmp_path: Path) -> None:
    folder = make_family("t5", tmp_path / "t5")
    model, _ = load_language_model(folder)
    tokens = load_tokenizer(folder, "t")((plain / "gate.txt").read_text(), add_special_tokens=False)["input_ids"]
    read, wanted = torch.tensor([[*tokens[:4], 2]]), torch.tensor([tokens[4:8]])  # 2 ends what the encoder reads
    with torch.inference_mode():
        expected = -float(model(input_ids=read, labels=wanted).loss)
    found = run_perplexity(folder, task_of(plain), Perplexity(window=8), range(1))["gate"]
    assert found[0, 0] == pytest.approx(expected, abs=1e-5)


def test_a_random_model_is_about_as_surprised_as_by_dice(family: Path, plain: Path) -> None:
    """Weights as small as fresh ones have give nearly equal probabilities to all of about 29 tokens."""
    found = run_perplexity(family, task_of(plain), Perplexity(window=16), range(1))
    assert set(found) == {"gate", "report"}
    assert all(abs(matrix.mean() + math.log(28.5)) < 1.2 for matrix in found.values())


def test_parent_and_candidate_are_compared_window_by_window(plain: Path, tmp_path: Path) -> None:
    """A model trained on such text is better in every window; and the gate, with nothing else measured, sees it."""
    parent = make_family("gpt2", tmp_path / "parent")
    model, _ = load_language_model(parent)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    text = (write_plain(tmp_path / "other", 600, seed=5) / "gate.txt").read_text()
    tokens = torch.tensor(load_tokenizer(parent, "t")(text, add_special_tokens=False)["input_ids"][:600]).view(-1, 20)
    model.train()
    for _ in range(15):
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    candidate = make_family("gpt2", tmp_path / "candidate")
    model.save_pretrained(candidate)
    asked = settings(plain, perplexity={"window": 10})
    before, after = measure(parent, asked, weights_sha256=A), measure(candidate, asked, weights_sha256=B)
    assert before.scores.tasks == before.scores.means == () and not before.correct
    assert {(s.protocol, s.examples) for s in before.scores.likelihoods if s.task} == {("perplexity", 20)}
    changes = {d.role: d for d in compare_likelihoods(after, before)}
    assert changes["gate"].low > 0.3 and changes["report"].low > 0.3 and compare(after, before) == ()
    assert judge(after, before, Gate(), 1).accepted and not judge(before, after, Gate(), 1).accepted


def test_perplexity_beside_accuracies_does_not_decide_unless_named(plain: Path, texts: Path, tmp_path: Path) -> None:
    model = make_family("llama", tmp_path / "llama")
    asked = settings(plain, texts, fewshot=None, perplexity={"window": 10}, seeds=1)
    measured = measure(model, asked, weights_sha256=A)
    scores = measured.scores
    assert scores.mean("gate") == scores.mean("gate", "probe") > 0 > scores.mean("gate", "perplexity")
    assert judge(measured, measured, Gate(protocols=("perplexity",)), 1).candidate < 0


def test_a_search_by_the_cheapest_protocol_still_measures_plain_text(plain: Path, texts: Path) -> None:
    asked = settings(plain, texts)
    for gate, left in ((Gate(), {"probe"}), (Gate(protocols=("fewshot",)), {"fewshot"}),
                       (Gate(protocols=("perplexity",)), set())):  # fmt: skip
        found = cheapest(asked, gate)
        assert found.perplexity and {p for p in ("probe", "fewshot") if getattr(found, p)} == left


def test_a_ranking_by_plain_text_is_refused(plain: Path) -> None:
    with pytest.raises(RecipeError, match="a ranking is by accuracy"):
        rank(["a/b"], settings(plain))


def test_a_measurement_with_likelihoods_is_kept_whole(plain: Path, bert: Path, tmp_path: Path) -> None:
    asked = settings(plain, perplexity={"window": 6})
    first = measure(bert, asked, weights_sha256=A, cache=tmp_path / "cache")
    again = measure(tmp_path / "not read", asked, weights_sha256=A, cache=tmp_path / "cache")
    assert first.scores == again.scores
    assert all(np.array_equal(m, again.likelihoods[k]) for k, m in first.likelihoods.items())


def test_the_suite_knows_the_settings_of_perplexity_only_where_it_is_measured(texts: Path, plain: Path) -> None:
    """Else a default that changes would part generations whose measurements it does not touch."""
    assert suite_id(settings(texts)) == suite_id(settings(texts, perplexity={"window": 99}))
    assert suite_id(settings(plain)) != suite_id(settings(plain, perplexity={"window": 99}))


def test_texts_are_cut_into_equal_windows_and_many_windows_are_a_fixed_choice() -> None:
    tokens = np.arange(23)
    assert cut(tokens, 5, 9).tolist() == [list(range(n, n + 5)) for n in (0, 5, 10, 15)]
    some = cut(tokens, 5, 2)
    assert some.shape == (2, 5) and some.tolist() == cut(tokens, 5, 2).tolist()
    assert cut(tokens[:3], 5, 9).tolist() == [[0, 1, 2]] and len(cut(tokens[:1], 5, 9)) == 0


def test_plain_text_from_parquet_is_the_texts_joined_by_the_end_token(plain: Path, tmp_path: Path) -> None:
    model = make_family("gpt2", tmp_path / "gpt2")
    words = (plain / "gate.txt").read_text().split()
    (tmp_path / "rows").mkdir()
    rows = [" ".join(words[:50]), " ".join(words[50:])]
    parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "rows" / "test.parquet")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "test.txt").write_text(f"{rows[0]} </s> {rows[1]}")
    asked = Perplexity(window=10)
    by_rows, whole = (run_perplexity(model, task_of(tmp_path / n), asked, range(1))["report"] for n in ("rows", "one"))
    np.testing.assert_array_equal(by_rows, whole)


def test_a_damaged_model_is_very_surprised_and_never_infinitely(plain: Path, tmp_path: Path) -> None:
    """Records hold finite numbers only; the gate must still see that it is worse than anything."""
    from safetensors.torch import load_file, save_file

    folder = make_family("gpt2", tmp_path / "gpt2")
    state = load_file(folder / "model.safetensors")
    save_file({n: v * float("nan") for n, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    assert (run_perplexity(folder, task_of(plain), Perplexity(window=8), range(1))["gate"] == -100).all()


def test_impossible_combinations_are_refused_with_a_reason(plain: Path, texts: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, model: Path, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            measure(model, settings(plain, **changes), weights_sha256=A)

    gpt2 = make_family("gpt2", tmp_path / "gpt2")
    refused(RecipeError, "nothing measures it", gpt2, perplexity=None)
    refused(WeightsError, "cannot be opened", make_vit(tmp_path / "vit"))
    (plain / "gate.txt").write_text("good1")
    refused(RecipeError, "fewer than two tokens", gpt2)
    (plain / "gate.txt").write_bytes(b"\xff\xfe")
    refused(RecipeError, r"gate\.txt: cannot be read", gpt2)
    (plain / "gate.txt").unlink()
    (plain / "gate.csv").write_text("text,label\na,0\nb,1\n")
    refused(RecipeError, "needs a train file", gpt2)
    (plain / "train.csv").write_text("text,label\na,0\nb,1\n")
    refused(RecipeError, r"report\.txt: plain text beside examples with labels", gpt2)
    (plain / "train.csv").unlink()
    (plain / "gate.csv").rename(plain / "validation.csv")
    (plain / "report.txt").rename(plain / "gate.txt")
    refused(RecipeError, "each part is one file", gpt2)


def test_memory_that_does_not_suffice_for_a_batch_suffices_for_its_halves() -> None:
    """On a GPU nobody knows beforehand; a batch of one that does not fit is the end, and so is any other error."""
    from hub_fusion.weights.compute import split_on_out_of_memory

    tried: list[int] = []

    def work(rows: np.ndarray) -> np.ndarray:
        tried.append(len(rows))
        if len(rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return rows * 10

    limit = 3
    pieces = list(split_on_out_of_memory(work, np.arange(10)))
    assert np.concatenate([rows for rows, _ in pieces]).tolist() == list(range(10))
    assert all(np.array_equal(values, rows * 10) for rows, values in pieces) and tried == [10, 5, 2, 3, 5, 2, 3]
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        list(split_on_out_of_memory(work, np.arange(4)))
    with pytest.raises(RuntimeError, match="shapes"):
        list(split_on_out_of_memory(lambda rows: (_ for _ in ()).throw(RuntimeError("shapes")), np.arange(4)))

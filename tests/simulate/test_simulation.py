"""A simulated loop: drawn by the seed, resumed where it was killed, compared with the same effort spent otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluate.conftest import make_bert, write_texts

from hub_fusion.errors import RecipeError, RecordError
from hub_fusion.evaluate.features import task_features
from hub_fusion.evaluate.models import load_body
from hub_fusion.evaluate.probe import choose_subset
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import Task
from hub_fusion.simulate.ensemble import ENSEMBLES
from hub_fusion.simulate.ledger import Ledger
from hub_fusion.simulate.loop import contributors_of
from hub_fusion.simulate.paths import correlation, tell_paths
from hub_fusion.simulate.report import best_generation, one_dimension
from hub_fusion.simulate.run import run_simulation
from hub_fusion.simulate.settings import Simulation
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.fuse import folder_sha256

SETTINGS = """
root: root
tasks: tasks
seen: [a, b, c]
gate: [d]
report: [e]
generations: 2
contributors: 2
training: {examples: 8, batch_size: 4, learning_rate: 1.0e-3, max_length: 16}
measure:
  probe: {examples: 10}
  fewshot: {examples: 8, epochs: 1, batch_size: 4, learning_rate: 1.0e-3}
  fewshot_at: [0, 2]
  finetune: {examples: 10, epochs: 1, batch_size: 5, stop: null, seeds: 1}
  finetune_at: [0, 2]
  finetune_also: [multitask]
  seen_at: [2]
  ensemble: true
  path_points: 3
  max_length: 16
controls: [random, one-round, multitask, long-finetune]
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root, five tasks and the file."""
    folder = tmp_path_factory.mktemp("simulation")
    make_bert(folder / "root")
    for name in "abcde":
        write_texts(folder / "tasks" / name)
    (folder / "simulation.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="session")
def compute() -> Compute:
    """This process, alone."""
    return Compute()


@pytest.fixture(scope="session")
def whole(place: Path, compute: Compute) -> tuple[Path, dict]:
    """A simulation that was not interrupted, and its report."""
    out = place / "whole"
    return out, run_simulation(Simulation.load(place / "simulation.yaml"), out, compute)


def lines(out: Path, step: str) -> list[dict]:
    return [line for line in map(json.loads, (out / "scores.jsonl").read_text().splitlines()) if line["step"] == step]


def without_seconds(report: dict) -> dict:
    return report | {"steps": [{k: v for k, v in step.items() if k != "seconds"} for step in report["steps"]]}


def test_every_generation_and_control_loads_and_differs_from_gen_0(whole) -> None:
    out, _ = whole
    models = ["gen-0", "gen-1", "gen-2", "random", "one-round", "multitask", "long-finetune"]
    assert len({folder_sha256(out / name) for name in models}) == len(models)
    assert all(sum(p.numel() for p in load_body(out / name).parameters()) > 0 for name in models)


def test_the_file_says_what_is_measured(whole) -> None:
    """Unseen tasks by all protocols, seen ones where asked; controls like a generation."""
    out, found = whole
    measured = {(line["model"], line["protocol"], line["task"], line["role"]) for line in lines(out, "measure")}
    controls = ("random", "one-round", "multitask", "long-finetune")
    unseen = (("d", "gate"), ("e", "report"))
    expected = {(m, "fewshot", *t) for m in ("gen-0", "gen-2", *controls) for t in unseen}
    expected |= {(m, "finetune", *t) for m in ("gen-0", "gen-2", "multitask") for t in unseen}
    expected |= {(m, "probe", *t) for m in ("gen-0", "gen-1", "gen-2", *controls) for t in unseen}
    expected |= {("gen-2", "probe", t, "seen") for t in "abc"}
    expected |= {(m, "probe", *t) for m in ENSEMBLES for t in (*unseen, *((t, "seen") for t in "abc"))}
    assert measured == expected
    compared = {(c["model"], c["protocol"], c["role"]) for c in found["changes"]
                if c["against"] == "gen-0" != c["model"]}  # fmt: skip
    assert compared == {(m, p, r) for m, p, _, r in expected if m != "gen-0" and r != "seen"}


def test_an_ensemble_asks_the_finetunes_that_one_round_fuses(whole, place: Path) -> None:
    """Each of its three forms, from the finetunes' features and scikit-learn by hand; held against the fuse of them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    out, found = whole
    task = load_task(Task(name="e", path=place / "tasks" / "e", role="report"), max_test=500)
    rows, part = choose_subset(task.train.labels, 10, 0), task.parts["report"]
    inputs = {"train": task.train.inputs[rows], "test": part.inputs}
    vectors = [task_features(out / "finetunes" / "gen-1" / name, task, inputs, "mean", 16) for name in "abc"]

    def fit(train: np.ndarray):
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(train, task.train.labels[rows])

    logits = sum(fit(v["train"]).decision_function(v["test"]) for v in vectors)
    mean, row = ({p: f([v[p] for v in vectors]) for p in inputs} for f in (lambda x: np.mean(x, 0), np.hstack))
    answers = {"logits": (logits > 0).astype(int), "mean": fit(mean["train"]).predict(mean["test"]),
               "stacked": fit(row["train"]).predict(row["test"])}  # fmt: skip
    ledger = Ledger(out)
    for name, answer in answers.items():
        kept = ledger.answers(f"ensemble-{name}", "report", "probe")["e", "report", "probe"]
        assert np.array_equal(kept[0], answer == part.labels), name
    pairs = {(c["model"], c["against"]) for c in found["changes"] if c["role"] == "report"}
    assert pairs >= {(m, a) for m in ENSEMBLES for a in ("gen-0", "one-round")}


def test_a_change_is_the_difference_of_the_accuracies_and_lies_in_its_interval(whole) -> None:
    out, found = whole
    accuracy = {(li["model"], li["protocol"], li["role"]): li["accuracy"] for li in lines(out, "measure")
                if li["role"] != "seen"}  # fmt: skip
    for change in found["changes"]:
        before = accuracy[change["against"], change["protocol"], change["role"]]
        assert change["mean"] == pytest.approx(change["accuracy"] - before, abs=2e-4)  # both are rounded to four places
        assert change["low"] <= change["mean"] <= change["high"]
        assert change["mean"] == pytest.approx(np.mean(list(change["by_task"].values())), abs=2e-4)


def test_the_best_generation_is_chosen_by_the_gate_tasks_alone(whole, place: Path) -> None:
    """A generation that is best on the report tasks by luck must not be the one that is told."""
    simulation, _ = Simulation.load(place / "simulation.yaml"), whole
    gate = {"gen-0": [1, 0], "gen-1": [1, 1], "gen-2": [1, 1]}
    table = {(m, r, p): {} for m in gate for r in ("gate", "report", "seen") for p in ("fewshot", "finetune", "probe")}
    table |= {(m, "gate", "fewshot"): {("d", "gate", "fewshot"): np.array([a])} for m, a in gate.items()}
    table |= {("gen-2", "report", "fewshot"): {("e", "report", "fewshot"): np.array([[1, 1]])}}
    assert best_generation(simulation, table) == "gen-1"  # the earlier of equals
    del table["gen-1", "gate", "fewshot"]["d", "gate", "fewshot"]
    assert best_generation(simulation, table) == "gen-2"


def test_paths_have_the_ends_that_were_measured_and_what_lies_below_the_chord(whole) -> None:
    out, found = whole
    assert {(p["model"], p["generation"]) for p in found["paths"]} == {
        ("parent", 1), ("parent", 2), ("root", 2), ("contributions", 1), ("contributions", 2)}  # fmt: skip
    for path in found["paths"]:
        first, middle, last = path["accuracies"]
        assert path["barrier"] == pytest.approx(max(0, (first + last) / 2 - middle), abs=1e-4)
    gate = {
        li["model"]: li["accuracy"] for li in lines(out, "measure") if (li["protocol"], li["role"]) == ("probe", "gate")
    }
    ends = {(p["model"], p["generation"]): p["accuracies"] for p in found["paths"]}
    assert ends["root", 2][0] == gate["gen-0"] and ends["root", 2][-1] == gate["gen-2"]
    barriers = {(b["path"], b["role"]): b for b in found["barriers"]}
    assert set(barriers) == {(p, r) for p in ("parent", "root", "contributions") for r in ("gate", "report")}
    assert all(b["rho"] is None and b["n"] <= 2 for b in barriers.values()), "two paths have no rank correlation"


def test_barriers_are_held_against_the_accuracy_of_the_generation_that_lies_at_the_end(tmp_path: Path) -> None:
    """Of all generations that have both; rising barriers with falling accuracy on the report tasks are −1, of four."""
    ledger = Ledger(tmp_path)
    for generation, right in ((1, 9), (2, 7), (3, 4), (4, 2), (5, 0)):
        ledger.write(step="path", model="parent", generation=generation, accuracies=[0.5, 0.5], barrier=generation / 10)
        if generation < 5:  # the newest is not measured yet
            about = {"model": f"gen-{generation}", "task": "e", "role": "report", "protocol": "probe", "seed": 0}
            ledger.keep(*about.values(), np.arange(10) < right)
            ledger.write(step="measure", **about)
    found = tell_paths(ledger)
    assert [(b["path"], b["role"], b["n"], b["rho"]) for b in found["barriers"]] == [
        ("parent", "gate", 0, None), ("parent", "report", 4, -1.0)]  # fmt: skip
    assert found["barriers"][1]["low"] == -1 and found["barriers"][1]["high"] > 0, "four say nothing for certain"


def test_a_rank_correlation_is_as_uncertain_as_its_few_pairs() -> None:
    """Spearman's formula and the interval by hand; of two there is none, of three no interval."""
    assert correlation([(1, 1), (2, 2)]) == {"n": 2, "rho": None, "low": None, "high": None}
    assert correlation([(1, 1), (2, 2), (3, 3)]) == {"n": 3, "rho": 1, "low": None, "high": None}
    assert correlation([(1, 1)] * 9)["rho"] is None
    order = np.random.default_rng(0).permutation(10)
    pairs = [(float(i), float(j)) for i, j in enumerate(order)]
    found, squares = correlation(pairs), sum((i - j) ** 2 for i, j in pairs)
    assert found["rho"] == pytest.approx(1 - 6 * squares / 990, abs=1e-4)
    half = 1.959964 * np.sqrt((1 + found["rho"] ** 2 / 2) / 7)
    expected = [np.tanh(np.arctanh(found["rho"]) + side * half) for side in (-1, 1)]
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=1e-3)


def test_one_dimension_explains_scores_that_rise_together_and_half_of_two_that_do_not() -> None:
    def table(rows: list[tuple[float, float]]) -> dict:
        ones = [[(np.arange(100) < round(100 * a)).astype(int)[None] for a in row] for row in rows]
        return {(f"m{n}", role, "probe"): {(role, role, "probe"): row[i]}
                for n, row in enumerate(ones) for i, role in enumerate(("gate", "report"))}  # fmt: skip

    assert one_dimension(table([(0.1, 0.2), (0.2, 0.4), (0.3, 0.6)]), "probe") == 1
    assert one_dimension(table([(0.1, 0.5), (0.9, 0.5), (0.5, 0.1), (0.5, 0.9)]), "probe") == pytest.approx(0.5)
    assert one_dimension(table([(0.1, 0.2), (0.2, 0.4)]), "probe") is None


def test_contributors_are_drawn_by_seed_and_generation_alone(place: Path) -> None:
    simulation = Simulation.load(place / "simulation.yaml")
    drawn = [contributors_of(simulation, generation) for generation in range(1, 30)]
    assert drawn == [contributors_of(simulation, generation) for generation in range(1, 30)]
    assert all(len(set(names)) == 2 for names in drawn) and {n for names in drawn for n in names} == set("abc")


def test_a_killed_simulation_goes_on_to_the_same_weights_and_scores(whole, place: Path, compute: Compute) -> None:
    """Stopped after each of its steps in turn, with a torn line behind the last."""
    out, report = whole
    simulation, again = Simulation.load(place / "simulation.yaml"), place / "again"

    class Stopped(Exception):
        pass

    def stop(_: str) -> None:
        with (again / "scores.jsonl").open("a") as file:
            file.write('{"step": "mea')
        raise Stopped

    steps = len((out / "scores.jsonl").read_text().splitlines())
    for _ in range(3 * steps):
        try:
            found = run_simulation(simulation, again, compute, say=stop)
            break
        except Stopped:
            continue
    assert without_seconds(found) == without_seconds(report)
    for name in ("gen-1", "gen-2", "one-round", "multitask", "long-finetune", "random"):
        assert folder_sha256(again / name) == folder_sha256(out / name), name
    assert len((again / "scores.jsonl").read_text().splitlines()) == steps


def test_measuring_may_run_beside_the_loop(place: Path, compute: Compute) -> None:
    """It takes what is there, says what is missing, and comes back for it."""
    simulation, out, said = Simulation.load(place / "simulation.yaml"), place / "beside", []
    run_simulation(simulation, out, compute, only={"measure"}, say=said.append)
    assert "wait for models" in said[-1] and not lines(out, "measure")
    run_simulation(simulation, out, compute, only={"loop"})
    run_simulation(simulation, out, compute, only={"measure"}, say=said.append)
    assert {line["model"] for line in lines(out, "measure")} == {"gen-0", "gen-1", "gen-2"}
    with pytest.raises(RecipeError, match="not everything"):
        run_simulation(simulation, out, compute, only={"everything"})


def test_other_settings_do_not_go_into_the_same_folder(whole, place: Path, compute: Compute) -> None:
    """Half a loop at one learning rate and half at another would be nobody's result."""
    changed = place / "changed.yaml"
    changed.write_text(SETTINGS.replace("1.0e-3, max_length", "2.0e-3, max_length").replace("seen: [a", "seen: [b, a").
                       replace(", b, c]", ", c]"))  # fmt: skip
    with pytest.raises(RecipeError, match="another seen, training"):
        run_simulation(Simulation.load(changed), whole[0], compute)


def test_a_ledger_from_before_a_setting_existed_goes_on(whole, place: Path, compute: Compute, tmp_path: Path) -> None:
    """A simulation of many hours must not be lost to an upgrade that adds an option."""
    first, *others = (whole[0] / "scores.jsonl").read_text().splitlines(keepends=True)
    said = json.loads(first)
    del said["settings"]["training"]["precision"]
    shutil.copytree(whole[0] / "answers", tmp_path / "answers")
    (tmp_path / "scores.jsonl").write_text(json.dumps(said) + "\n" + "".join(others))
    found = run_simulation(Simulation.load(place / "simulation.yaml"), tmp_path, compute, only={"loop"})
    assert len(found["steps"]) == len(whole[1]["steps"])


@pytest.mark.parametrize(
    ("old", "new", "law"),
    [
        ("generations: 2", "generations: none", "generations: .*given: 'none'"),
        ("contributors: 2", "contributors: 4", "4 contributors need as many seen tasks, there are 3"),
        ("gate: [d]", "gate: [a]", "given twice: a"),
        ("contributors: 2", "contributers: 2", "did you mean 'contributors'"),
        ("controls:", "long_finetune_on: e\ncontrols:", "one of the seen tasks, not 'e'"),
        ("max_length: 16}", "max_lenght: 16}", "did you mean 'max_length'"),
        ("random, one-round", "random", "needs measure.probe, and the control one-round"),
        ("seen: [a", "seen: {a", "not YAML"),
    ],
)
def test_a_malformed_file_is_refused_with_the_law_it_breaks(tmp_path: Path, old: str, new: str, law: str) -> None:
    (tmp_path / "s.yaml").write_text(SETTINGS.replace(old, new, 1))
    with pytest.raises(RecipeError, match=law):
        Simulation.load(tmp_path / "s.yaml")
    with pytest.raises(RecipeError, match="cannot read"):
        Simulation.load(tmp_path / "none.yaml")


def test_a_ledger_that_was_written_by_something_else_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text("{}\nnot json\n")
    with pytest.raises(RecordError, match="not json"):
        Ledger(tmp_path)


def test_answers_come_back_for_the_seeds_that_all_tasks_have(tmp_path: Path) -> None:
    """While second seeds are being measured, a mean over tasks must not mix one seed with two."""
    ledger = Ledger(tmp_path)
    for task, seed in (("x", 0), ("y", 0), ("x", 1)):
        ledger.keep("gen-1", task, "report", "probe", seed, np.array([1, 0, seed]))
        ledger.write(step="measure", model="gen-1", task=task, role="report", protocol="probe", seed=seed)
    answers = Ledger(tmp_path).answers("gen-1", "report", "probe")
    assert {key[0]: matrix.tolist() for key, matrix in answers.items()} == {"x": [[1, 0, 0]], "y": [[1, 0, 0]]}

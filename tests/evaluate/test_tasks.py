"""A task folder is read exactly, or refused with the file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.task_files import read_examples
from hub_fusion.evaluate.task_labels import number_alone
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import Task
from hub_fusion.records import Role

from .conftest import write_images, write_texts


def load(folder: Path, max_test: int = 100):
    return load_task(Task(name="t", path=folder), max_test=max_test)


def test_an_image_task_is_read_as_written(images: Path) -> None:
    task = load(images)
    assert (task.kind, task.num_labels, len(task.train)) == ("image", 3, 40)
    assert {role: len(part) for role, part in task.parts.items()} == {"gate": 30, "report": 20}
    assert task.train.inputs.shape == (40, 1, 8, 8) and task.train.labels.dtype == np.int64


def test_a_text_task_keeps_commas_quotes_and_pairs(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "t", pairs=True)
    (folder / "gate.csv").write_text('text,text_pair,label\n"one, ""two""","line\nbreak",1\n')
    task = load(folder)
    assert task.kind == "text" and task.parts["gate"].inputs.tolist() == [['one, "two"', "line\nbreak"]]


def write_parquet(file: Path, texts: list[str], labels: list[int], names: str | None = None) -> None:
    table = pyarrow.table({"text": texts, "label": labels})
    parquet.write_table(table.replace_schema_metadata({"label_names": names} if names else None), file)


def test_a_parquet_task_is_read_as_written_with_validation_and_test_as_its_parts(tmp_path: Path) -> None:
    """The names that most published datasets have."""
    for name, texts in {"train": ["a", "b"], "validation": ["c, d"], "test": ["e", "f"]}.items():
        write_parquet(tmp_path / f"{name}.parquet", texts, list(range(len(texts))), '["no", "yes"]')
    task = load(tmp_path)
    assert task.train.inputs.tolist() == [["a"], ["b"]] and task.train.names == ("no", "yes")
    assert {role: part.inputs.tolist() for role, part in task.parts.items()} == {
        "gate": [["c, d"]], "report": [["e"], ["f"]],
    }  # fmt: skip


def test_label_names_are_read_as_the_datasets_library_writes_them(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features).to_parquet(tmp_path / "train.parquet")
    assert read_examples(tmp_path / "train.parquet").names == ("no", "yes")


def test_parts_that_number_their_labels_differently_are_refused(tmp_path: Path) -> None:
    """The worst kind of wrong task: every score would be measured, and mean nothing."""
    write_parquet(tmp_path / "train.parquet", ["a", "b"], [0, 1], '["no", "yes"]')
    write_parquet(tmp_path / "test.parquet", ["a", "b"], [0, 1], '["yes", "no"]')
    with pytest.raises(RecipeError, match=r"test\.parquet: the same number means another label"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("columns", "law"),
    [
        ({"text": ["a", None], "label": [0, 1]}, "empty ones in text"),
        ({"text": ["a", "b"], "label": [0.0, 1.0]}, r"whole numbers, not text \(string\), label \(double\)"),
        ({"text": [1, 2], "label": [0, 1]}, "strings"),
        ({"words": ["a"], "label": [0]}, "text is missing, there are words, label"),
    ],
)
def test_malformed_parquet_is_refused_by_name(tmp_path: Path, columns: dict, law: str) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    with pytest.raises(RecipeError, match=rf"train\.parquet.*{law}"):
        read_examples(tmp_path / "train.parquet")
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(RecipeError, match=r"test\.parquet: cannot be read"):
        read_examples(tmp_path / "test.parquet")


def write_tables(folder: Path, kind: str, columns: tuple[str, ...], parts: dict[str, list[tuple]]) -> Path:
    """A task's parts as tables with these columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in parts.items():
        if kind == "csv":
            lines = [",".join(map(str, row)) for row in (columns, *rows)]
            (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
        else:
            table = pyarrow.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
            parquet.write_table(table, folder / f"{part}.parquet")
    return folder


def mapped(folder: Path, **task: object):
    return load_task(Task.model_validate({"name": "t", "path": folder} | task), max_test=1000)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_and_words_for_labels_say_the_same_as_ours_and_numbers(tmp_path: Path, kind: str) -> None:
    """Nobody renames the columns of a published table; and the same examples are the same task."""
    rows = [("a", "b", "no", 7), ("c", "d", "yes", 8)]
    theirs = write_tables(tmp_path / "theirs", kind, ("premise", "hypothesis", "verdict", "id"),
                          {"train": rows, "test": rows[1:]})  # fmt: skip
    ours = write_tables(tmp_path / "ours", "csv", ("text", "text_pair", "label"),
                        {"train": [("a", "b", 0), ("c", "d", 1)], "test": [("c", "d", 1)]})  # fmt: skip
    found = mapped(theirs, columns={"text": "premise", "text_pair": "hypothesis", "label": "verdict"})
    assert found.train.inputs.tolist() == [["a", "b"], ["c", "d"]]
    assert found.train.names == ("no", "yes") and found.parts["report"].labels.tolist() == [1]
    assert found.sha256 == mapped(ours).sha256


@pytest.mark.parametrize(
    ("columns", "law"),
    [
        ({"text": "premise"}, r"premise \(text\) is missing, there are text, label, id"),
        ({"text_pair": "second"}, r"second \(text_pair\) is missing"),
        ({"label": "gold"}, r"gold \(label\) is missing"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, kind: str, columns: dict, law: str
) -> None:
    parts = {part: [("a", 0, 1), ("b", 1, 2)] for part in ("train", "test")}
    folder = write_tables(tmp_path, kind, ("text", "label", "id"), parts)
    with pytest.raises(RecipeError, match=rf"\.{kind}.*{law}"):
        mapped(folder, columns=columns)


def test_columns_of_files_without_any_are_refused(images: Path) -> None:
    with pytest.raises(RecipeError, match=r"\.npz has none"):
        mapped(images, columns={"text": "x"})


STARS = ("1", "2", "3", "4", "5")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("spelled", "labels", "numbers", "names"),
    [
        (["no", "yes"], ("yes", "no"), [1, 0], ("yes", "no")),
        ([1, 2, 3, 4, 5], STARS, [0, 1, 2, 3, 4], STARS),
        ([0, 1], ("neg", "pos"), [0, 1], ("neg", "pos")),
    ],
)
def test_the_list_of_labels_gives_their_order(
    tmp_path: Path, kind: str, spelled: list, labels: tuple, numbers: list[int], names: tuple
) -> None:
    """Stars from 1 to 5, words in an order that is not the alphabet's, names for plain numbers."""
    rows = [(f"text {label}", label) for label in spelled]
    folder = write_tables(tmp_path, kind, ("text", "label"), {"train": rows, "test": rows[:1]})
    found = mapped(folder, labels=labels)
    assert (found.train.labels.tolist(), found.train.names, found.num_labels) == (numbers, names, len(labels))
    assert found.parts["report"].labels.tolist() == numbers[:1]


def test_the_list_of_labels_settles_what_differing_numbers_mean(tmp_path: Path) -> None:
    """Files that name their numbers differently can be used once the recipe says the order: names count then."""
    write_parquet(tmp_path / "train.parquet", ["a", "b"], [0, 1], '["no", "yes"]')
    write_parquet(tmp_path / "test.parquet", ["c", "d"], [0, 1], '["yes", "no"]')
    assert mapped(tmp_path, labels=("no", "yes")).parts["report"].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("train", "test", "labels", "law"),
    [
        (["no", "yes"], ["no", "perhaps"], (), r"test\.parquet: the labels 'perhaps' do not occur in train \(no, yes"),
        (["no", "yes"], ["no"], ("no", "nay"), r"train\.parquet: the labels 'yes' do not occur in the task's labels"),
        (["no", "yes"], ["no"], ("no", "yes", "nay"), r"train\.parquet: labels must be .* missing are \[2\]"),
        (["no", "yes"], [0], (), r"words in .*train\.parquet and numbers in .*test\.parquet"),
        ([0, 1], [2], ("a", "b"), r"test\.parquet: label 2 does not occur"),
        ([1, 2], [1], (), r"missing are \[0\]; renumber the labels, or list"),
    ],
)
def test_labels_on_which_the_parts_disagree_are_refused_by_name(
    tmp_path: Path, train: list, test: list, labels: tuple, law: str
) -> None:
    parts = {"train": [(f"t{x}", x) for x in train], "test": [(f"u{x}", x) for x in test]}
    folder = write_tables(tmp_path, "parquet", ("text", "label"), parts)
    with pytest.raises(RecipeError, match=law):
        mapped(folder, labels=labels)


def test_a_models_own_examples_are_numbered_by_its_labels(tmp_path: Path) -> None:
    """Private data need not have every label of the model; by the alphabet "yes" would be the model's "maybe"."""
    write_tables(tmp_path, "csv", ("text", "label"), {"train": [("a", "yes"), ("b", "no")], "other": [("c", 2)]})
    names = ["maybe", "no", "yes"]
    assert number_alone(read_examples(tmp_path / "train.csv"), names, "t").labels.tolist() == [2, 1]
    assert number_alone(read_examples(tmp_path / "other.csv"), names, "t").labels.tolist() == [2]
    with pytest.raises(RecipeError, match="'yes' do not occur in the model's labels"):
        number_alone(read_examples(tmp_path / "train.csv"), ["no", "maybe"], "t")


@pytest.mark.parametrize(
    ("task", "law"),
    [
        ({"labels": ["a", "b", "a"]}, "given twice: a"),
        ({"columns": {"text": "x", "label": "x"}}, "given twice: x"),
        ({"columns": {"texts": "x"}}, "texts"),
    ],
)
def test_a_task_that_says_something_twice_or_of_no_column_is_refused(task: dict, law: str) -> None:
    with pytest.raises(ValueError, match=law):
        Task.model_validate({"name": "t", "path": "t"} | task)


@pytest.mark.parametrize(("role", "examples"), [("gate", 30), ("report", 20), ("seen", 20)])
def test_a_task_with_a_role_is_measured_in_that_role_alone(images: Path, role: Role, examples: int) -> None:
    """A report task must not decide through its gate file, nor a seen one count as unseen."""
    parts = load_task(Task(name="t", path=images, role=role), max_test=100).parts
    assert {role: len(part) for role, part in parts.items()} == {role: examples}


def test_gate_or_report_alone_is_enough(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "t")
    (folder / "gate.npz").unlink()
    assert set(load(folder).parts) == {"report"}


def test_the_cap_keeps_the_same_examples_every_time_and_leaves_the_identity_alone(images: Path) -> None:
    first, second, whole = load(images, 10), load(images, 10), load(images)
    assert len(first.parts["gate"]) == 10
    np.testing.assert_array_equal(first.parts["gate"].inputs, second.parts["gate"].inputs)
    assert first.sha256 == whole.sha256


def test_the_identity_is_of_contents_not_of_file_bytes(tmp_path: Path, images: Path) -> None:
    folder = write_images(tmp_path / "t")
    with np.load(folder / "gate.npz") as arrays:
        np.savez_compressed(folder / "gate.npz", **dict(arrays))
    assert load(folder).sha256 == load(images).sha256
    with np.load(folder / "gate.npz") as arrays:
        np.savez(folder / "gate.npz", pixel_values=arrays["pixel_values"], label=arrays["label"][::-1])
    assert load(folder).sha256 != load(images).sha256


PIXELS = np.zeros((4, 1, 8, 8), dtype=np.float32)
LABELS = np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("name", "arrays", "law"),
    [
        ("gate", {"pixel_values": PIXELS}, "label"),
        ("gate", {"pixel_values": PIXELS.astype(np.float64), "label": LABELS}, "float32"),
        ("gate", {"pixel_values": PIXELS[:, 0], "label": LABELS}, "channels"),
        ("gate", {"pixel_values": PIXELS * np.float32("nan"), "label": LABELS}, "finite"),
        ("gate", {"pixel_values": PIXELS, "label": LABELS[:3]}, "label must be"),
        ("gate", {"pixel_values": PIXELS, "label": LABELS + 0.5}, "whole numbers"),
        ("gate", {"pixel_values": PIXELS, "label": LABELS - 1}, "renumber"),
        ("gate", {"pixel_values": PIXELS, "label": LABELS + 5}, "does not occur in train"),
        ("gate", {"pixel_values": PIXELS[:0], "label": LABELS[:0]}, "holds no example"),
        ("gate", {"pixel_values": PIXELS[..., :4], "label": LABELS}, "one shape"),
        ("gate", {"pixel_values": np.array([object()] * 4), "label": LABELS}, "allow_pickle"),
        ("train", {"pixel_values": PIXELS, "label": LABELS * 0}, "k ≥ 2"),
        ("train", {"pixel_values": PIXELS, "label": LABELS * 10**12}, "each must occur"),
    ],
)
def test_malformed_arrays_are_refused_by_name(tmp_path: Path, name: str, arrays: dict, law: str) -> None:
    folder = write_images(tmp_path / "t")
    np.savez(folder / f"{name}.npz", **arrays)
    with pytest.raises(RecipeError, match=rf"(?s){name}\.npz.*{law}"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "law"),
    [
        (b"words,label\na,1\n", "columns must be"),
        (b"text,label\na,one\n", "the labels 'one' do not occur in train"),
        (b"text,label\na,\n", "row 2 has no label"),
        (b"text,label\na\n", "one value per column"),
        (b"text,label\na,0,1\n", "one value per column"),
        (b'text,label\n"a,0\n', "unexpected end"),
        (b"text,label\n\xff,0\n", "utf-8"),
        (b"text,label\n", "holds no example"),
        (b"", "columns must be"),
        (b"text,text_pair,label\na,b,0\n", "one shape"),
    ],
)
def test_malformed_tables_are_refused_by_name(tmp_path: Path, content: bytes, law: str) -> None:
    folder = write_texts(tmp_path / "t")
    (folder / "gate.csv").write_bytes(content)
    with pytest.raises(RecipeError, match=rf"(?s)gate\.csv.*{law}"):
        load(folder)


def test_malformed_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    folder = write_images(tmp_path / "t")
    (folder / "report.npz").write_bytes((folder / "report.npz").read_bytes()[:100])
    with pytest.raises(RecipeError, match=r"report\.npz: cannot be read"):
        load(folder)
    (folder / "report.npz").unlink()
    (folder / "gate.csv").write_text("text,label\na,0\n")
    with pytest.raises(RecipeError, match="remove one"):
        load(folder)
    (folder / "gate.npz").unlink()
    with pytest.raises(RecipeError, match="one shape and kind"):
        load(folder)
    (folder / "gate.csv").unlink()
    with pytest.raises(RecipeError, match="needs a train file and a gate or report file"):
        load(folder)


def write_train(folder: Path, rows: list[tuple]) -> Path:
    return write_tables(folder, "csv", ("text", "label"), {"train": rows})


def sides(found) -> dict[str, str]:
    """text → the part it is in."""
    parts = {"train": found.train} | found.parts
    return {text: part for part, examples in parts.items() for (text,) in examples.inputs.tolist()}


ROWS = [(f"text {n}", n % 2) for n in range(400)]


def test_a_split_depends_on_the_seed_and_each_text_and_on_nothing_else(tmp_path: Path) -> None:
    """A table that is shuffled or grows moves no example into training that has judged before."""
    split = {"gate": 0.2, "report": 0.1}
    whole = mapped(write_train(tmp_path / "a", ROWS), split=split)
    assert {part: len(examples) for part, examples in whole.parts.items()} == pytest.approx(
        {"gate": 80, "report": 40}, abs=3 * (400 * 0.2 * 0.8) ** 0.5)  # fmt: skip
    assert len(sides(whole)) == 400
    less = sides(mapped(write_train(tmp_path / "b", ROWS[300:0:-1]), split=split))
    assert less == {text: part for text, part in sides(whole).items() if text in less} and len(less) == 300
    other = sides(mapped(tmp_path / "a", split=split | {"seed": 1}))
    assert sum(other[text] != part for text, part in sides(whole).items()) > 100


def test_no_text_is_on_two_sides_of_a_split(tmp_path: Path) -> None:
    """Nor in another case or spacing: who has learned the one knows the other."""
    again = [(f"  TEXT   {n}", label) for n, (_, label) in enumerate(ROWS)]
    found = mapped(write_train(tmp_path, ROWS + again), split={"gate": 0.3, "report": 0.3})
    where = sides(found)
    assert len(where) == 800 and all(where[f"text {n}"] == where[f"  TEXT   {n}"] for n in range(400))


def test_a_role_takes_its_own_share_and_leaves_the_others_alone(tmp_path: Path) -> None:
    """The same table under two names, one to decide and one to tell: they must not meet."""
    folder, split = write_train(tmp_path, ROWS), {"gate": 0.2, "report": 0.2}
    gate, report = (mapped(folder, split=split, role=role) for role in ("gate", "report"))
    assert set(gate.parts) == {"gate"} and set(report.parts) == {"report"}
    assert sides(gate).keys() & sides(report).keys() == {t for t, part in sides(gate).items() if part == "train"}


def test_images_and_plain_texts_are_split_too(tmp_path: Path, images: Path) -> None:
    (tmp_path / "train.npz").write_bytes((images / "train.npz").read_bytes())
    found = mapped(tmp_path, split={"report": 0.3})
    assert len(found.train) + len(found.parts["report"]) == 40 and found.kind == "image"
    (tmp_path / "plain").mkdir()
    parquet.write_table(pyarrow.table({"text": [f"text {n}" for n in range(90)]}), tmp_path / "plain/train.parquet")
    assert 10 < len(mapped(tmp_path / "plain", split={"gate": 0.3}).parts["gate"]) < 50


@pytest.mark.parametrize(
    ("files", "split", "law"),
    [
        (("train", "gate"), {"gate": 0.2}, r"split makes what .*gate\.csv holds"),
        (("train", "validation"), {"gate": 0.2}, r"split makes what .*validation\.csv holds"),
        (("gate",), {"report": 0.2}, "there are none; add a train file"),
        (("train",), {"gate": 0.001}, r"train\.csv: of 400 examples.* none is left for gate"),
        (("train",), None, "split train with the task's split"),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path: Path, files: tuple, split: dict | None, law: str) -> None:
    folder = write_tables(tmp_path, "csv", ("text", "label"), dict.fromkeys(files, ROWS))
    with pytest.raises(RecipeError, match=law):
        mapped(folder, split=split)


@pytest.mark.parametrize("split", [{}, {"gate": 0.5, "report": 0.5}, {"gate": -0.1}, {"test": 0.1}])
def test_shares_are_parts_of_one(split: dict) -> None:
    with pytest.raises(ValueError, match="split"):
        Task.model_validate({"name": "t", "path": "t", "split": split})

"""Images in files are a task: folders of PNGs, tables of bytes; nothing is decoded before its size is known."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from hub_fusion.cli.rank import task_folders
from hub_fusion.errors import RecipeError, WeightsError
from hub_fusion.evaluate.heads import fit_heads
from hub_fusion.evaluate.models import load_encode
from hub_fusion.evaluate.suite import measure
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.recipe import Recipe, Task
from hub_fusion.records import Generation, now

from .conftest import make_vit, settings

SHA = "a" * 64
PREPROCESSOR = """{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8},
 "image_mean": [0.5], "image_std": [0.5]}"""


def png(value: int, side: int = 12, mode: str = "L") -> bytes:
    """A plain grey image with one pixel of its own."""
    image = Image.new(mode, (side, side + 1), value if mode == "L" else (value,) * 3)
    image.putpixel((0, 0), 255 - value if mode == "L" else (value, 0, 0))
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def images_of(size: int) -> Iterator[tuple[str, bytes]]:
    """Dark and light ones of different sizes, all different."""
    return ((("dark", "light")[n % 2], png(n if n % 2 == 0 else 200 + n, side=9 + n % 5)) for n in range(size))


def write_folder(folder: Path, size: int = 24) -> Path:
    for part, start in {"train": 0, "gate": 1}.items():
        for number, (label, content) in enumerate(images_of(size)):
            place = folder / part / label
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{start + number}.PNG").write_bytes(content)
    (folder / "train" / ".DS_Store").write_bytes(b"what a Mac leaves behind")
    return folder


def load(folder: Path, **task: Any) -> TaskData:
    return load_task(Task.model_validate({"name": "t", "path": folder} | task), max_test=100)


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A model that says how it wants its images."""
    folder = make_vit(tmp_path / "vit")
    (folder / "preprocessor_config.json").write_text(PREPROCESSOR)
    return folder


def test_a_folder_of_images_is_a_task_that_can_be_measured(tmp_path: Path, vit: Path) -> None:
    """Probe and few-shot; every size and colour of image becomes what the model takes, by the model's own rules."""
    folder = write_folder(tmp_path / "shades")
    task = load(folder)
    assert (task.kind, task.num_labels, task.train.names, len(task.train)) == ("image", 2, ("dark", "light"), 24)
    encode = load_encode(vit, task, max_length=8)
    white = np.array([[png(255, side=8, mode="RGB")]], dtype=object)
    pixels = encode(white)["pixel_values"]
    assert tuple(pixels.shape) == (1, 1, 8, 8) and pixels[0, 0, -1, -1] == 1.0
    scores = measure(vit, settings(folder), weights_sha256=SHA, cache=tmp_path / "cache").scores
    assert {s.protocol: s.examples for s in scores.tasks} == {"probe": 24, "fewshot": 24}
    assert next(s.mean for s in scores.tasks if s.protocol == "probe") > 0.9, "dark from light"


def test_such_a_task_gets_no_head_and_is_found_by_the_ranking(tmp_path: Path, vit: Path) -> None:
    """A head's record says the shape of an array, which images of all sizes do not have; that is said."""
    task = write_folder(tmp_path / "tasks" / "shades")
    listed = [{"name": "shades", "path": str(task), "role": "seen"}]
    recipe = Recipe.model_validate({"base": "a/b", "evaluate": {"tasks": listed}, "heads": {"kind": "refit"}})
    record = Generation(id="0" * 64, base="a/b", generation=1, created_at=now(), weights={"model.safetensors": SHA})
    said: list[str] = []
    assert fit_heads(recipe, record, vit, tmp_path / "cache", "cpu", said.append).heads == ()
    assert said[-1].startswith("no head for shades")
    assert task_folders(tmp_path / "tasks") == [task] == task_folders(task)


def test_names_of_files_do_not_matter_and_contents_do(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "t")
    before = load(folder).sha256
    for number, file in enumerate(sorted((folder / "train" / "dark").iterdir())):
        file.rename(file.with_name(f"renamed-{9 - number}.png"))
    assert load(folder).sha256 == before
    next((folder / "gate" / "dark").iterdir()).write_bytes(png(77))
    assert load(folder).sha256 != before


def write_table(file: Path, images: list[Any], labels: list[Any], column: str = "image") -> None:
    parquet.write_table(pyarrow.table({column: images, "label": labels}), file)


def test_a_table_as_the_datasets_library_writes_it_is_the_same_task(tmp_path: Path) -> None:
    """Image and ClassLabel columns, by the library itself; a split of it keeps images that are equal on one side."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageColumn

    folder = write_folder(tmp_path / "folder")
    task = load(folder)
    features = Features({"picture": ImageColumn(), "label": ClassLabel(names=["dark", "light"])})
    (tmp_path / "table").mkdir()
    for part, examples in {"train": task.train, "gate": task.parts["gate"]}.items():
        rows = {"picture": [{"bytes": b, "path": "0.png"} for (b,) in examples.inputs], "label": examples.labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "table" / f"{part}.parquet")
    assert load(tmp_path / "table", columns={"image": "picture"}).sha256 == task.sha256
    (tmp_path / "table" / "gate.parquet").unlink()
    split = load(tmp_path / "table", columns={"image": "picture"}, split={"gate": 0.4})
    assert len(split.train) + len(split.parts["gate"]) == 24


def bomb(width: int, height: int) -> bytes:
    """A PNG of 60 bytes that says it has so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "law"),
    [
        (bomb(6000, 6000), r"6000 × 6000 pixels, more than 25000000"),
        (bomb(60_000, 60_000), "is no PNG, JPEG, WEBP, BMP image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no PNG, JPEG, WEBP, BMP image; convert or remove it"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "is no PNG"),
        (b"", "is no PNG"),
        (None, "holds no bytes of an image"),
    ],
)
def test_what_is_no_image_of_a_sane_size_is_refused_before_it_is_decoded(
    tmp_path: Path, content: bytes | None, law: str
) -> None:
    """In a folder and in a table, by name; a path instead of bytes is not followed."""
    table = [{"bytes": b, "path": "/etc/passwd"} for b in (png(1), content)]
    for part in ("train", "gate"):
        write_table(tmp_path / f"{part}.parquet", table, ["a", "b"])
    with pytest.raises(RecipeError, match=rf"train\.parquet: .*image of row 1 .*{law}"):
        load(tmp_path)
    if content is not None:
        folder = write_folder(tmp_path / "folder")
        (folder / "train" / "dark" / "x.png").write_bytes(content)
        with pytest.raises(RecipeError, match=rf"folder/train: .*dark/x\.png .*{law}"):
            load(folder)


def test_what_does_not_belong_into_a_folder_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "t")
    (tmp_path / "elsewhere.png").write_bytes(png(3))
    link, text, stray = folder / "train/dark/link.png", folder / "train/dark/notes.txt", folder / "train/stray.png"
    link.symlink_to(tmp_path / "elsewhere.png")
    for path, law in ((link, "leaves the task's folder"), (text, "notes.txt is none of"), (stray, "lies beside")):
        if path is not link:
            path.write_bytes(png(4))
        with pytest.raises(RecipeError, match=law):
            load(folder)
        path.unlink()
    write_table(folder / "gate.parquet", [png(1)], ["dark"])
    with pytest.raises(RecipeError, match=r"one folder of images, but gate\.parquet and gate exist"):
        load(folder)


def test_a_model_that_does_not_say_how_it_wants_images_is_named(tmp_path: Path, vit: Path) -> None:
    """So are one whose rules do not fit it, and an image that breaks off."""
    task = load(write_folder(tmp_path / "t"))
    rows = task.train.inputs[:2]
    Image.effect_noise((40, 40), 90).save(file := io.BytesIO(), "PNG")
    cut = np.array([[file.getvalue()[:600]]], dtype=object)
    with pytest.raises(RecipeError, match=r"the image with sha256 \w+… cannot be decoded.*replace it"):
        load_encode(vit, task, max_length=8)(cut)
    for text, law in (
        (PREPROCESSOR.replace("[0.5]", "[0.5, 0.5]"), "does not fit images of 1 channels"),
        (PREPROCESSOR.replace("8", "80000"), "at most 4096"),
        ("{", "cannot be used"),
    ):
        (vit / "preprocessor_config.json").write_text(text)
        with pytest.raises(WeightsError, match=law):
            load_encode(vit, task, max_length=8)(rows)
    (vit / "preprocessor_config.json").unlink()
    with pytest.raises(RecipeError, match=r"has no preprocessor_config\.json"):
        load_encode(vit, task, max_length=8)

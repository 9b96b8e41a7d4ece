"""Merge methods of other distributions, installed for real, and what happens when they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.errors import MergeError
from hub_fusion.merge.method import MergeMethod

EXAMPLE = Path(__file__).parents[2] / "examples" / "merge-plugin"


def python(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds the distributions in a folder."""
    environment = os.environ | {"PYTHONPATH": str(path), "COLUMNS": "200", "ACCELERATE_USE_CPU": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def hub_fusion(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """The command."""
    return python("-m", "hub_fusion", *arguments, path=path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, built and installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    done = python("-m", "pip", "install", *flags, "--target", str(target), str(EXAMPLE), path=target)
    assert done.returncode == 0, done.stderr
    return target


def write_plugin(folder: Path, name: str, code: str, distribution: str | None = None) -> None:
    """A distribution as pip leaves it: a module, its metadata, an entry point called like the module's method."""
    distribution = distribution or name
    (folder / f"{distribution}_module.py").write_text(code)
    metadata = folder / f"{distribution}-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text(f"[hub_fusion.merge_methods]\n{name} = {distribution}_module\n")


def method(name: str) -> str:
    """The code of a method that takes the first contribution."""
    return (
        "from hub_fusion.merge import merge_method\n"
        "@merge_method('First', source='https://example.org', judged='base')\n"
        f"def {name}(deltas, weights):\n    return deltas[0]\n"
    )


def test_an_installed_method_is_listed_explained_and_used(installed: Path, tmp_path: Path) -> None:
    """The README of the example, with two finetunes of one tensor."""
    listed = {m["name"]: m for m in json.loads(hub_fusion("methods", "--json", path=installed).stdout)}
    assert listed["loudest"]["plugin"] == "hub-fusion-loudest 0.1.0"
    assert listed["ties"]["plugin"] == ""
    done = hub_fusion("methods", "loudest", path=installed)
    explained = done.stdout
    assert done.returncode == 0, done.stderr
    assert "brought by hub-fusion-loudest 0.1.0" in explained and "For every element" in explained
    for name, change in (("base", [0.0, 0.0]), ("a", [3.0, -1.0]), ("b", [1.0, -2.0])):
        (tmp_path / name).mkdir()
        save_file({"weight": torch.tensor(change)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    folders = [str(tmp_path / name) for name in ("base", "a", "b")]
    options = ("--method", "loudest", "--set", "scale=0.5", "--out", str(tmp_path / "out"))
    fused = hub_fusion("fuse", *folders, *options, path=installed)
    assert fused.returncode == 0, fused.stderr
    assert load_file(tmp_path / "out" / "model.safetensors")["weight"].tolist() == [1.5, -1.0]


def test_without_the_distribution_the_method_is_unknown(tmp_path: Path) -> None:
    missing = hub_fusion("methods", "loudest", path=tmp_path)
    assert missing.returncode == 1 and "there is no merge method 'loudest'; there are breadcrumbs," in missing.stderr


def test_a_broken_plugin_is_named_when_its_method_is_asked_for(tmp_path: Path) -> None:
    """And stops nobody who wants another: built-in methods load no plug-in at all, the listing notes it."""
    write_plugin(tmp_path, "shattered", "print('loaded')\nraise RuntimeError('no such GPU')")
    write_plugin(tmp_path, "whole", method("whole"))
    asked = hub_fusion("methods", "shattered", path=tmp_path)
    assert asked.returncode == 1
    assert "plug-in shattered 2.0 cannot bring 'shattered': RuntimeError: no such GPU" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert "loaded" not in hub_fusion("methods", "ties", path=tmp_path).stdout
    other = hub_fusion("methods", "whole", path=tmp_path)
    assert other.returncode == 0 and "First (whole)" in other.stdout
    listing = hub_fusion("methods", path=tmp_path)
    assert listing.returncode == 0 and "whole" in listing.stdout and "no such GPU" in listing.stderr
    assert "no such GPU" in hub_fusion("methods", "shatered", path=tmp_path).stderr, "perhaps that one was meant"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (method("ties"), "MergeError: the name 'ties' is that of TIES already"),
        (method("slerp"), "MergeError: the name 'slerp' is that of Karcher mean already"),
        ("", "it registers no method; decorate a function with @merge_method"),
        (method("bad").replace("weights)", "weights, *, colour)"), "asks for ['colour']"),
    ],
    ids=["built-in", "alias", "nothing", "unknown input"],
)
def test_a_plugin_that_cannot_be_taken_is_noted(tmp_path: Path, code: str, why: str) -> None:
    """It may not replace what recipes of others mean by a name."""
    write_plugin(tmp_path, "bad", code)
    asked = hub_fusion("methods", "bad", path=tmp_path)
    assert asked.returncode == 1 and why in asked.stderr and "bad 2.0" in asked.stderr
    assert "Yadav" in hub_fusion("methods", "ties", path=tmp_path).stdout


def test_of_two_plugins_with_one_name_the_first_distribution_brings_it(tmp_path: Path) -> None:
    """By the alphabet, not by the order of installation; the other is noted."""
    write_plugin(tmp_path, "first", method("first"), "zebra")
    write_plugin(tmp_path, "first", method("first"), "ant")
    explained = hub_fusion("methods", "first", path=tmp_path)
    assert explained.returncode == 0 and "brought by ant 2.0" in explained.stdout
    assert "zebra 2.0 cannot bring 'first': MergeError" in hub_fusion("methods", path=tmp_path).stderr


def test_importing_a_plugin_first_does_not_let_it_take_a_name(tmp_path: Path) -> None:
    """The built-in methods are there before a stranger's, whoever is imported first."""
    write_plugin(tmp_path, "ties", method("ties"), "impostor")
    done = python("-c", "import impostor_module", path=tmp_path)
    assert done.returncode == 1 and "the name 'ties' is that of TIES already" in done.stderr
    write_plugin(tmp_path, "early", method("early"))
    script = "import early_module; from hub_fusion.merge import find_method as f, merge_methods as m\n"
    done = python("-c", script + "m(); print(f('early').plugin)", path=tmp_path)
    assert done.stdout == "early 2.0\n", done.stderr


def test_a_plugin_may_annotate_choices_as_it_likes(tmp_path: Path) -> None:
    """Postponed annotations are strings, others are not; both say which values there are."""
    code = method("turned").replace("weights)", "weights, *, way: Literal['up', 'down'] = 'up')")
    write_plugin(tmp_path, "turned", f"from typing import Literal\n{code}")
    write_plugin(tmp_path, "turning", f"from __future__ import annotations\n{code.replace('turned', 'turning')}")
    for name in ("turned", "turning"):
        assert "options: way=up (up | down)" in hub_fusion("methods", name, path=tmp_path).stdout


@pytest.mark.parametrize(
    ("gives", "why"),
    [
        (lambda deltas: deltas, r"must give \[2\], not \[1, 2\]"),
        (lambda deltas: deltas.sum(), r"must give \[2\], not \[\]"),
        (lambda _: None, r"must give \[2\], not NoneType"),
        (lambda deltas: deltas[7], r"cannot merge \[1, 2\]: IndexError: index 7 is out of bounds"),
    ],
    ids=["several", "scalar", "nothing", "an exception"],
)
def test_what_a_plugin_gives_is_checked(gives: Callable[[torch.Tensor], torch.Tensor], why: str) -> None:
    """A result of another shape would be merged in part, and nobody would notice; who wrote it is named."""

    def odd(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return gives(deltas)

    brought = MergeMethod("odd", "Odd", "", "base", odd, plugin="strange 2.0")
    with pytest.raises(MergeError, match=rf"^merge method 'odd' of strange 2.0 {why}"):
        brought.bind({})(torch.ones(1, 2), torch.ones(1))


def test_a_fuse_by_a_broken_method_is_a_sentence(tmp_path: Path) -> None:
    """And leaves nothing in the output's folder."""
    write_plugin(tmp_path, "odd", method("odd").replace("deltas[0]", "deltas[0] / 0"))
    for name, change in (("base", [0.0, 0.0]), ("a", [3.0, -1.0])):
        (tmp_path / name).mkdir()
        save_file({"weight": torch.tensor(change)}, tmp_path / name / "model.safetensors")
    folders = [str(tmp_path / name) for name in ("base", "a")]
    done = hub_fusion("fuse", *folders, "-m", "odd", "-o", str(tmp_path / "out"), path=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the fused tensor weight is not finite: odd gives NaN or infinity" in " ".join(done.stderr.split())
    assert not list((tmp_path / "out").iterdir())

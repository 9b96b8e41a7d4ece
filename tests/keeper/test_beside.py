"""What lies beside the weights of a candidate, heads and what rounding lost: the keeper reads them as what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from loop.test_heads import HEADS, recipe_of, seen  # noqa: F401 - a fixture
from loop.test_residual import FILE, grown
from loop.world import BASE, World
from safetensors.torch import load_file, save, save_file

from .test_refusals import Json, Scene, staged


def head(**changes: object) -> Callable[[Scene], Json]:
    def forge(scene: Scene) -> Json:
        path = scene.candidate / "heads" / "colour" / "head.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return scene.honest

    return forge


def other_tensors(scene: Scene) -> Json:
    path = scene.candidate / "heads" / "colour" / "head.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    return scene.honest


def more_lost(scene: Scene) -> Json:
    found = load_file(scene.candidate / FILE)
    save_file(found | {"extra": next(iter(found.values())).clone()}, scene.candidate / FILE)
    return scene.honest


def no_tensors(scene: Scene) -> Json:
    (scene.candidate / FILE).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    return scene.honest


FORGED: dict[str, tuple[Callable[[Scene], Json], str]] = {
    "a head of another generation": (head(generation=4), "is of another generation"),
    "a head of other weights": (head(weights_sha256="0" * 64), "is of another generation"),
    "a head that is no head": (head(pooling="eval"), "head.json is not a Head"),
    "other tensors of a head": (other_tensors, "is not the head that"),
    "a residual of other tensors": (more_lost, "the residual has tensors that the weights have not"),
    "a residual that is a pickle": (no_tensors, "claims a header of"),
}


def test_heads_and_residuals_are_published_as_what_they_are_or_not_at_all(empty: World, seen: Path) -> None:  # noqa: F811
    start = {name: tensor.bfloat16() for name, tensor in empty.weights("main").items()}
    empty.commit({"model.safetensors": save(start, {"format": "pt"})})
    empty.contribute_all(seed=10, change=grown)
    rules = recipe_of(empty, seen, "refit")
    rules = rules.model_copy(update={"merge": rules.merge.model_copy(update={"residual": True})})
    scene = staged(empty, rules)
    scene.refuses(FORGED)
    assert scene.ask(scene.honest) == {"number": 1, "value": empty.tags()["gen-1"]}
    assert empty.maintainer.files(BASE, "gen-1").keys() > {*HEADS, FILE}

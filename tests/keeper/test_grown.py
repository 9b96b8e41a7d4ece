"""A candidate with new tokens: the keeper lets the tokenizer grow by those of the record, and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from loop.test_vocabulary import KEEP, contribute, world  # noqa: F401 - a fixture
from loop.world import World

from .test_refusals import Scene, staged

Json = dict[str, Any]


def edited(name: str, change: Callable[[Json], Any]) -> Callable[[Scene], Json]:
    """A file of the candidate that is not what the base's becomes."""

    def forge(scene: Scene) -> Json:
        path = scene.candidate / name
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        return scene.honest

    return forge


def token(**changes: Any) -> Callable[[Scene], Json]:
    """Another token in the record than the files have."""

    def forge(scene: Scene) -> Json:
        *others, last = scene.honest["record"]["tokens"]
        return scene.honest | {"record": scene.honest["record"] | {"tokens": [*others, last | changes]}}

    return forge


def untold(scene: Scene) -> Json:
    return scene.honest | {"record": scene.honest["record"] | {"tokens": []}}


FORGED: dict[str, tuple[Callable[[Scene], Json], str]] = {
    "code in the configuration": (edited("config.json", lambda d: d.update(auto_map={"AutoModel": "eve/x--m.M"})),
                                  "is not the base's config.json"),
    "another tokenizer": (edited("tokenizer.json", lambda d: d["added_tokens"].pop(0)), "is not the base's tokenizer"),
    "another token": (token(content="<z>"), "is not the base's tokenizer.json"),
    "a token that is there": (token(content="[CLS]"), "is no new token"),
    "a special token in disguise": (token(content="[cls]"), "stands for the special token"),
    "another id": (token(id=50), "ids that go on from 40"),
    "rows that no token tells of": (untold, "differ"),
}  # fmt: skip


def test_a_base_grows_by_the_tokens_of_its_record_alone(world: World) -> None:  # noqa: F811
    """Every forgery is refused and changes nothing; then what it was made from is published."""
    contribute(world, "ann", "main", "<a>", "<b>", seed=10)
    contribute(world, "bob", "main", "<b>", seed=11)
    recipe = world.recipe(**KEEP)
    scene = staged(world, recipe)
    scene.refuses(FORGED)
    assert scene.ask(scene.honest) == {"number": 1, "value": world.tags()["gen-1"]}
    assert [t.content for t in world.record(1).tokens] == ["<a>", "<b>"]

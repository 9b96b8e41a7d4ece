"""A worker that strangers have taken over: whatever it asks for beyond a round of its recipe is refused by name."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd
from loop.world import BASE, World, opened
from safetensors.numpy import load_file, save_file

from hub_fusion.deeds import Direct
from hub_fusion.errors import BudgetSpent, DeedRefused, HubConflict, HubUnreachable, RepoMissing
from hub_fusion.keeper import wire
from hub_fusion.keeper.serving import Keeper
from hub_fusion.publish.commit import PublishConflict
from hub_fusion.publish.state import BaseState
from hub_fusion.recipe import Recipe
from hub_fusion.records import Generation
from hub_fusion.weights.checkpoint import file_sha256

Json = dict[str, Any]


class Stopped(Exception):
    """The worker has asked for its publication."""


class Publication(Direct):
    """Deeds that keep the last one for themselves."""

    def publish(self, state: BaseState, record: Generation, beside: object = None) -> str:
        self.asked = {"deed": "publish", "head": state.head, "record": record.model_dump(mode="json")}
        raise Stopped


@dataclass
class Scene:
    """A round that has come to its publication, and a keeper that may be asked for it."""

    world: World
    recipe: Recipe
    honest: Json
    said: list[str]

    @property
    def candidate(self) -> Path:
        return self.world.work / "candidate"

    def tell(self, *lines: bytes) -> list[Json]:
        """What the keeper answers to lines of its worker."""
        sent: list[bytes] = []
        deeds = Direct(self.recipe, self.world.maintainer.uncached(), self.world.work, self.said.append)
        Keeper(deeds).serve(io.BytesIO(b"".join(lines)), sent.append)
        return [json.loads(line) for line in sent]

    def ask(self, ask: Json) -> Json:
        return self.tell(wire.to_line({"number": 1, "ask": ask}))[0]

    def refuses(self, forged: Mapping[str, tuple[Callable[[Scene], Json], str]]) -> None:
        """Each forgery is refused with these words and changes nothing; the candidate is what it was after each."""
        before, kept = self.changes(), {p: p.read_bytes() for p in self.candidate.rglob("*") if p.is_file()}
        for name, (forge, named) in forged.items():
            error = self.ask(forge(self)).get("error", {})
            assert error.get("kind") == "DeedRefused" and named in error["text"], (name, error)
            for path, content in kept.items():
                path.write_bytes(content)
        assert self.changes() == before

    def changes(self) -> tuple[object, ...]:
        """All that the Hub has of the base."""
        hub = self.world.maintainer
        return hub.tags(BASE), hub.branches(BASE), len(hub.commits(BASE))


def staged(world: World, recipe: Recipe) -> Scene:
    """A round, up to its publication."""
    deeds = Publication(recipe, world.maintainer, world.work)
    with pytest.raises(Stopped):
        world.run(recipe, deeds=deeds)
    return Scene(world, recipe, deeds.asked, [])


@pytest.fixture(scope="module")
def prepared(ready_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One round for all tests: none of them changes the Hub."""
    with opened(ready_store, tmp_path_factory.mktemp("keeper")) as world:
        yield staged(world, world.recipe())


@pytest.fixture
def scene(prepared: Scene, tmp_path: Path) -> Iterator[Scene]:
    """The same, with the candidate as it was."""
    kept = tmp_path / "kept"
    shutil.copytree(prepared.candidate, kept)
    prepared.said.clear()
    before = prepared.changes()
    yield prepared
    assert prepared.changes() == before, "a refused deed changed the Hub"
    shutil.rmtree(prepared.candidate)
    shutil.copytree(kept, prepared.candidate, symlinks=True)


def record_with(**changes: Any) -> Callable[[Scene], Json]:
    return lambda scene: scene.honest | {"record": scene.honest["record"] | changes}


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Scene], Json]:
    """Other tensors, with a record that tells their true sha256."""

    def forge(scene: Scene) -> Json:
        path = scene.candidate / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        return record_with(weights={path.name: file_sha256(path)})(scene)

    return forge


def linked(scene: Scene) -> Json:
    """The weights lie elsewhere, whole and right."""
    path = scene.candidate / "model.safetensors"
    path.replace(scene.world.folder / "elsewhere")
    path.symlink_to(scene.world.folder / "elsewhere")
    return scene.honest


def beside(name: str) -> Callable[[Scene], Json]:
    def forge(scene: Scene) -> Json:
        (scene.candidate / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        return scene.honest

    return forge


def rewritten(scene: Scene) -> Json:
    """Finite weights of the right form that nobody fused and the record does not know."""
    path = scene.candidate / "model.safetensors"
    save_file({name: tensor * 0 for name, tensor in load_file(path).items()}, path)
    return scene.honest


def longer(tensors: dict[str, Any]) -> None:
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].repeat(2, axis=0)


def credit(scene: Scene) -> Json:
    found: Json = scene.honest["record"]["contributions"][0]
    return found


FORGED: dict[str, tuple[Callable[[Scene], Json], str]] = {
    "another base": (record_with(base="acme/other"), "a record of 'acme/other'"),
    "another recipe": (record_with(recipe="base: acme/base\n"), "another recipe"),
    "a later generation": (record_with(generation=7), "generation is 7, not 1"),
    "another parent": (record_with(parent_revision="0" * 40), "parent_revision is 0000"),
    "not accepted": (record_with(verdict=None), "the gate accepted it"),
    "withdrawn": (record_with(status="yanked"), "status is yanked"),
    "another archive": (record_with(archive="eve/loot"), "names 'eve/loot' as its archive"),
    "wrong sha256": (record_with(weights={"model.safetensors": "0" * 64}), "its record says 0000"),
    "rewritten weights": (rewritten, "has the sha256"),
    "no weights": (record_with(weights={}), "names no weights"),
    "a path": (record_with(weights={"../../secret": "0" * 64}), "no names of weights"),
    "code": (record_with(weights={"modeling.py": "0" * 64}), "no names of weights"),
    "an adapter": (record_with(weights={"adapter_model.safetensors": "0" * 64}), "no weights that this base"),
    "a head of no task": (record_with(heads=[{"task": "../..", "role": "seen", "protocol": "head", "mean": 0.5,
                                              "low": 0, "high": 1, "examples": 1}]), "no tasks whose heads"),
    "a tensor more": (weights(lambda t: t.update(extra=t[sorted(t)[0]])), "1 differ: extra"),
    "a tensor less": (weights(lambda t: t.pop(sorted(t)[0])), "1 differ"),
    "another shape": (weights(longer), "1 differ"),
    "another dtype": (weights(lambda t: t.update({n: v.astype("float16") for n, v in t.items()})), "differ"),
    "a link": (linked, "is a link"),
    "a pickle beside": (beside("pytorch_model.bin"), "a pickle or code"),
    "code beside": (beside("modeling.py"), "a pickle or code"),
    "an index of others": (lambda s: ((s.candidate / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "b.safetensors"}}') and s.honest) or s.honest, "lists other tensors"),
    "a residual": (lambda s: (s.candidate / "fusion").mkdir() or (
        s.candidate / "fusion" / "residual-00001-of-00001.st").touch() or s.honest, "no residual"),
    "texts beside": (lambda s: s.honest | {"beside": {"fusion/gen-0.json": "{}"}}, "beside: Extra inputs"),
    "a propose of its own": (lambda s: s.honest | {"propose": False}, "propose: Extra inputs"),
    "another repository": (lambda s: s.honest | {"repo": "acme/other"}, "repo: Extra inputs"),
    "no commit": (lambda s: s.honest | {"head": "main"}, "head"),
    "an unknown deed": (lambda s: {"deed": "delete_repo", "repo": BASE}, "delete_repo"),
    "a status of others": (lambda s: {"deed": "tell_rejected", "headroom": None, "record":
                           s.honest["record"] | {"status": "rejected", "generation": None, "base": "acme/other"}},
                           "a record of 'acme/other'"),
    "rejected yet published": (lambda s: {"deed": "tell_rejected", "headroom": None, "record": s.honest["record"]},
                               "not one that the gate rejected"),
    "an archive that none asks for": (lambda s: {"deed": "open_archive", "fused": []}, "does not ask for"),
    "a copy of anything": (lambda s: {"deed": "keep_copy", "key": f"{BASE}@{'0' * 40}", "names": ["config.json"]},
                           "not among what the archive lacks"),
    "a comment anywhere": (lambda s: {"deed": "answer", "number": 1, "answer":
                           {"mark": "queued:a", "text": "spam", "final": False}}, "not an open one"),
    "a mark that is more": (lambda s: {"deed": "answer", "number": 1, "answer":
                            {"mark": "a --> <b>", "text": "", "final": False}}, "answer.answer.mark"),
    "a long comment": (lambda s: {"deed": "answer", "number": 1, "answer":
                       {"mark": "a", "text": "x" * 20_000, "final": False}}, "at most 10000 characters"),
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_deed_is_refused_by_name_and_changes_nothing(forged: str, scene: Scene) -> None:
    """The fixture compares tags, branches and commits."""
    forge, named = FORGED[forged]
    error = scene.ask(forge(scene))["error"]
    assert error["kind"] == "DeedRefused" and named in error["text"]
    assert len(scene.said) == 1 and named in scene.said[0], "and the keeper's own log tells of it"


LINES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"publish!\n", "is not JSON of a deed"),
    "no object": (b"[1, 2]\n", "is not JSON of a deed"),
    "no number": (b'{"ask": {"deed": "mend"}}\n', "is not JSON of a deed"),
    "more keys": (b'{"number": 1, "ask": {"deed": "mend"}, "token": 1}\n', "other keys"),
    "deep": (b"[" * 100_000 + b"\n", "is not JSON of a deed"),
    "not UTF-8": (b"\xff\xfe\n", "is not JSON of a deed"),
    "NaN": (b'{"number": 1, "ask": {"deed": "tell_headroom", "headroom": {"generation": 1, "disk_free": NaN}}}\n',
            "disk_free"),
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_is_no_deed_is_answered_by_its_name(line: str, scene: Scene) -> None:
    """And what is asked for next is heard."""
    text, named = LINES[line]
    refused, heard = scene.tell(text, wire.to_line({"number": 2, "ask": {"deed": "account"}}))
    assert refused["error"]["kind"] == "DeedRefused" and named in refused["error"]["text"]
    assert heard == {"number": 2, "value": "acme"}


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_line_without_end_is_the_last(ending: bytes, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the longest line that is allowed."""
    monkeypatch.setattr(wire, "MOST_BYTES", 1000)
    answers = scene.tell(b" " * 5000 + ending, wire.to_line({"number": 2, "ask": {"deed": "account"}}))
    assert len(answers) == 1 and "more than 1000 bytes" in answers[0]["error"]["text"]


@pytest.mark.parametrize(
    "error",
    [HubUnreachable("a", retry_after_s=3.5, refused=True), PublishConflict("b"), RepoMissing("c"), BudgetSpent("d"),
     DeedRefused("e"), OSError("f")],
)  # fmt: skip
def test_errors_arrive_as_what_they_are(error: Exception) -> None:
    """A conflict makes the worker start over, an unreachable Hub makes it wait as long as the Hub says."""
    again = wire.error_from_json(json.loads(wire.to_line(wire.error_to_json(error))))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_what_the_worker_does_not_know_arrives_as_the_next_that_it_knows() -> None:
    class Special(HubConflict):
        pass

    assert type(wire.error_from_json(wire.error_to_json(Special("a")))) is HubConflict


def test_the_keeper_believes_the_hub_and_not_the_cache(ready: World) -> None:
    """Keeper and worker may share one: whoever has taken over the worker may write there what he likes."""
    hub = ready.maintainer
    head = hub.resolve(BASE)
    local = hub.download(BASE, "README.md", head)
    local.write_text("forged")
    assert hub.read_text(BASE, "README.md", revision=head) == "forged"
    assert "Our little model." in hub.uncached().read_text(BASE, "README.md", revision=head)
    with pytest.raises(RepoMissing):
        hub.uncached().read_text(BASE, "missing.md")


def test_what_a_round_asks_for_is_done(ready: World) -> None:
    """The very publication that all forgeries begin from; once more it is a conflict."""
    scene = staged(ready, ready.recipe())
    ready.maintainer.commit(BASE, [CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n")], "A card in between")
    assert scene.ask(scene.honest) == {"number": 1, "value": ready.tags()["gen-1"]}
    assert ready.record(1).weights == scene.honest["record"]["weights"] and ready.status().generation == 1
    assert scene.ask(scene.honest)["error"]["kind"] == "PublishConflict"
    assert set(ready.tags()) == {"gen-0", "gen-1"}

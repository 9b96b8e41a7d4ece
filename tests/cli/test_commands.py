"""Every command: data on stdout, words on stderr, exit codes, stages that are run alone and together."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi
from loop.world import AUTHORS, BASE, LATER, World, harmful, hub_fusion, judged, opened, python_environment
from safetensors.torch import load_file

from hub_fusion.cli import app
from hub_fusion.contribute.upload import publish_contribution
from hub_fusion.recipe import Recipe

from .conftest import Call

HEAVY = ("torch", "transformers", "accelerate", "huggingface_hub")
COMMANDS = ("check", "contribute", "run", "watch", "lineage", "status", "init", "discover", "filter", "screen",
            "evaluate", "publish", "card", "fuse", "methods", "rank", "reproduce", "replay", "demo", "hub serve",
            "hub user add")  # fmt: skip
PRINTABLE = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]*")  # newlines may occur


def test_help_needs_no_heavy_library_and_every_command_has_it(tmp_path: Path) -> None:
    """Importing torch alone takes longer than a person waits for help; and check is for machines without it."""
    script = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "accelerate"):
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
from hub_fusion.cli import app, main
def loaded():
    return [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded(), loaded()
for command in ("", *{COMMANDS!r}):
    for option in ("--help", "-h"):
        sys.argv = ["hub-fusion", *command.split(), option]
        try:
            main()
        except SystemExit as exit:
            assert not exit.code, command
assert not loaded(), loaded()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=python_environment(tmp_path), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: hub-fusion") == 2 * (len(COMMANDS) + 1)


def test_every_command_is_in_the_list_above() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {name for name in COMMANDS if not name.startswith("hub ")} <= names


def test_version_and_no_arguments(call: Call) -> None:
    from hub_fusion import __version__

    assert call("--version").out.strip() == __version__
    assert "Usage" in call("--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run", "--nonsense"],
        ["fuse", "--out", "x"],
        ["fuse", "base", "one", "--out", "x", "--weights", "a,b"],
        ["fuse", "base", "one", "--out", "x", "--dtype", "int7"],
        ["fuse", "base", "one", "--out", "x", "--heads", "both"],
        ["fuse", "base", "one", "--out", "x", "--vocab", "both"],
        ["fuse", "base", "one", "--out", "x", "--set", "density"],
        ["fuse", "base", "--from", "kept.jsonl", "--out", "x"],
        ["fuse", "--from", "kept.jsonl", "--method", "ties", "--out", "x"],
        ["run", "--set", "round.choose"],
        ["run", "--set", "round.choose=[1, 2"],
        ["watch", "--interval", "0"],
        ["demo", "--generations", "0"],
        ["demo", "--clean"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], call: Call) -> None:
    Path("recipe.yaml").write_text(f"base: {BASE}\n")
    done = call(*arguments)
    assert (done.code, done.out) == (2, "") and done.err.strip() and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--recipe", "missing.yaml"], "hub-fusion init writes a recipe"),
        (["run", "--set", "round.chose=all"], "did you mean 'choose'"),
        (["run"], "evaluate.tasks is empty"),
        (["watch"], "evaluate.tasks is empty"),
        (["methods", "mediocre"], "there is no merge method 'mediocre'"),
        (["init", "no base", "--force"], "base"),
        (["init", BASE, "--out", "nowhere/recipe.yaml"], "nowhere/recipe.yaml"),
        (["fuse", "base", "one", "--out", "x"], "'base' is neither a folder nor a repository"),
        (["fuse", "here/recipe.yaml", "one", "--out", "x"], "'here/recipe.yaml' is a file: give the folder"),
        (["publish", "missing.jsonl", "--set", "gate.require_tasks=false"], "missing.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_exit_code_1_and_a_sentence(arguments: list[str], words: str, call: Call, empty: World) -> None:
    for place in (Path(), Path("here")):
        place.mkdir(exist_ok=True)
        (place / "recipe.yaml").write_text(f"base: {BASE}\n")
    done = call(*arguments, world=empty)
    assert (done.code, done.out) == (1, ""), done.err
    assert words in done.err and done.err.startswith("Error: ") and "Traceback" not in done.err


def test_run_says_words_on_stderr_and_data_on_stdout(call: Call, ready: World) -> None:
    recipe = ready.write_recipe()
    planned = call("run", "-r", recipe, "--dry-run", "--json", world=ready)
    assert planned.code == 0 and planned.json["status"] == "planned" and len(planned.json["queue"]) == 5
    assert ready.tags() == {}
    published = call("run", "-r", recipe, "--json", world=ready)
    assert published.code == 0 and published.json["status"] == "published" and published.json["generation"] == 1
    assert published.json["weights"] == ready.record(1).weights
    assert published.json["revision"] == ready.tags()["gen-1"] and "publishing gen-1" in published.err
    again = call("run", "-r", recipe, world=ready)
    assert (again.code, again.out) == (0, "") and again.err.splitlines()[-1].startswith("waiting: ")


def test_what_the_gate_rejects_is_exit_code_3_and_the_second_time_nothing_to_do(
    call: Call, empty: World, task: Path
) -> None:
    empty.contribute_all(seed=1, change=harmful)
    recipe = empty.write_recipe(**judged(task), merge={"steps": [1.0]}, gate={"epsilon": 0.0})
    rejected = call("run", "-r", recipe, "--json", world=empty)
    assert rejected.code == 3 and rejected.json["status"] == "rejected" and "rejected at step 1" in rejected.err
    known = call("watch", "--once", "-r", recipe, "--json", world=empty)
    assert known.code == 0 and known.json["status"] == "known"
    status = call("status", "-r", recipe, "--json", world=empty).json
    assert status["generation"] == 0 and len(status["rejected"]) == 1
    assert "rejected by the gate" in call("status", BASE, world=empty).out


def test_check_refuses_with_exit_code_3(call: Call, empty: World) -> None:
    empty.contribute("ann")
    empty.contribute("bob", license="cc-by-nc-4.0")
    good, bad = (call("check", f"{author}/finetune", "--json", world=empty) for author in ("ann", "bob"))
    assert (good.code, good.json["accepted"]) == (0, True)
    assert (bad.code, bad.json["accepted"]) == (3, False) and bad.json["refusals"][0]["fix"]


def test_stages_alone_make_the_bytes_that_run_makes(
    call: Call, ready: World, ready_store: Path, tmp_path: Path
) -> None:
    """discover | filter | screen, then publish; on a base that nobody has tagged yet, and without tagging it before."""
    ready.contribute(LATER, seed=1)  # a copy of ann's
    recipe, work = ready.write_recipe(), ["--work", ready.work]
    found = call("discover", "-r", recipe, world=ready)
    assert found.code == 0 and {line["kind"] for line in found.lines} == {"contribution"} and len(found.lines) == 6
    kept = call("filter", "-r", recipe, stdin=found.out, world=ready)
    passed = call("screen", "-r", recipe, *work, stdin=kept.out, world=ready)
    assert [line["code"] for line in passed.lines if line["kind"] == "refusal"] == ["copy"]
    assert all(line["weight"] == 0.2 and line["norm"] > 0 for line in passed.lines if line["kind"] == "contribution")
    assert ready.tags() == {}
    Path("kept.jsonl").write_text(passed.out)
    fused = call("fuse", "--from", "kept.jsonl", "-r", recipe, *work, "--out", "fused", "--json", world=ready)
    assert fused.code == 0, fused.err
    planned = call("publish", "kept.jsonl", "-r", recipe, *work, "--dry-run", "--json", world=ready)
    assert planned.json["status"] == "planned" and planned.json["weights"] == fused.json["files"] and ready.tags() == {}
    published = call("publish", "kept.jsonl", "-r", recipe, *work, "--json", world=ready)
    assert published.code == 0 and published.json["status"] == "published"
    with opened(ready_store, tmp_path / "twin") as twin:
        twin.contribute(LATER, seed=1)
        assert call("run", "-r", recipe, "--work", twin.work, "--json", world=twin).code == 0
        assert ready.weights_sha256() == twin.weights_sha256() == fused.json["files"]["model.safetensors"]
        assert [c.repo for c in ready.record(1).contributions] == [c.repo for c in twin.record(1).contributions]
        assert [r.code for r in ready.record(1).refusals] == [r.code for r in twin.record(1).refusals] == ["copy"]
    twice = call("publish", "kept.jsonl", "-r", recipe, *work, world=ready)
    assert twice.code == 1 and "already_fused" in twice.err and set(ready.tags()) == {"gen-0", "gen-1"}
    again = call("filter", "-r", recipe, stdin=found.out, world=ready)
    assert {line.get("code") for line in again.lines} == {"already_fused", None}, "the copy was never fused"


def test_screen_takes_no_more_than_a_round(call: Call, ready: World) -> None:
    """What `run` would leave for later is not downloaded by the stages either."""
    recipe = ready.write_recipe(round={"min_contributions": 2, "max_contributions": 2})
    found = call("discover", "-r", recipe, world=ready)
    passed = call("screen", "-r", recipe, "--work", ready.work, stdin=found.out, world=ready)
    assert [line["author"] for line in passed.lines] == ["dora", "eve"]
    assert "3 of 5 contributions wait for a later round" in passed.err


def test_a_stage_names_the_line_it_cannot_read(call: Call, empty: World) -> None:
    done = call("filter", "-r", empty.write_recipe(), stdin='\n{"kind": "refused"}\n', world=empty)
    assert done.code == 1 and "line 2 of standard input" in done.err


def test_evaluate_measures_a_repository(call: Call, empty: World, task: Path) -> None:
    recipe = empty.write_recipe(**judged(task))
    scores = call("evaluate", BASE, "-r", recipe, "--work", empty.work, "--json", world=empty).json
    assert {(s["role"], s["protocol"]) for s in scores["means"]} == {("gate", "probe"), ("report", "probe")}
    assert "quadrants" in call("evaluate", BASE, "-r", recipe, "--work", empty.work, world=empty).out


def test_fuse_merges_folders_without_a_loop(call: Call, ready: World) -> None:
    """Weights are relative; bf16 halves the bytes; a dry run writes nothing."""
    base = ready.maintainer.snapshot(BASE, ready.maintainer.resolve(BASE), ("*.json", "*.safetensors"))
    both = [f"{author}/finetune" for author in AUTHORS[:2]]
    options = ["--weights", "3,1", "--out", "merged"]
    plan = call("fuse", base, *both, *options, "--dry-run", "--json", world=ready)
    assert plan.code == 0 and [s["weight"] for s in plan.json["sources"]] == [3, 1] and not Path("merged").exists()
    report = call("fuse", base, *both, *options, "--json", world=ready).json
    assert report["tensors"] == plan.json["tensors"] and report["bytes"] == plan.json["bytes"]
    tensors = load_file(Path("merged/model.safetensors"))
    start = load_file(base / "model.safetensors")
    ann, bob = (ready.weights("main", repo) for repo in both)
    for name, tensor in tensors.items():
        expected = start[name] + 0.75 * (ann[name] - start[name]) + 0.25 * (bob[name] - start[name])
        assert tensor.allclose(expected, rtol=0, atol=1e-6)
    half = call("fuse", base, *both, "--out", "half", "--dtype", "bf16", world=ready)
    assert half.code == 0 and re.fullmatch(r"[0-9a-f]{64}  model\.safetensors\n", half.out)
    assert {str(t.dtype) for t in load_file(Path("half/model.safetensors")).values()} == {"torch.bfloat16"}
    kept = call("fuse", base, *both, "--out", "kept", "--dtype", "bf16", "--residual", "--json", world=ready).json
    assert kept["residual"] == ["fusion/residual-00001-of-00001.st"] and (Path("kept") / kept["residual"][0]).is_file()
    wrong = call("fuse", base, *both, "--weights", "1,2,3", "--out", "wrong", world=ready)
    assert wrong.code == 1 and "2 contributions need as many weights, not 3" in wrong.err


def test_init_writes_a_recipe_that_loads_and_never_overwrites(call: Call) -> None:
    assert call("init", BASE, "--root", "acme/root").code == 0
    recipe = Recipe.load(Path("recipe.yaml"))
    assert recipe.base == BASE and recipe.root == "acme/root"
    Path("recipe.yaml").write_text("mine")
    refused = call("init", BASE)
    assert refused.code == 1 and "--force" in refused.err and Path("recipe.yaml").read_text() == "mine"
    assert call("init", BASE, "--force").code == 0 and Recipe.load(Path("recipe.yaml")).root is None


def test_methods_lists_and_explains(call: Call) -> None:
    from hub_fusion.evaluate.posterior import domain_posterior
    from hub_fusion.evaluate.soup import greedy_soup
    from hub_fusion.merge import merge_methods

    assert [m["name"] for m in call("methods", "--json").json] == list(merge_methods())
    listed = call("methods")
    assert "mean" in listed.out
    for function in (greedy_soup, domain_posterior):
        assert f"{function.__module__}.{function.__qualname__}, " in listed.err
    explained = call("methods", "mean").out
    assert "arxiv.org/abs/2212.01378" in explained and "weighted mean" in explained


def test_descends_tells_a_finetune_from_a_stranger(call: Call, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(0)
    shapes = {"layer.fc1.weight": (24, 6), "layer.fc2.weight": (6, 24)}
    base = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    noise = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    for name, made in (("base", base), ("near", {n: t + 0.1 * noise[n] for n, t in base.items()}), ("far", noise),
                       ("odd", {"conv.weight": torch.ones(2, 3)})):  # fmt: skip
        (tmp_path / name).mkdir()
        save_file(made, tmp_path / name / "model.safetensors")
    assert call("descends", "base", "near", "--json").json["descends"] is True
    far = call("descends", "base", "far")
    assert far.code == 3 and "far does not descend from base" in far.err
    unknown = call("descends", "odd", "odd")
    assert unknown.code == 1 and "no MLP block" in unknown.err


def test_card_and_lineage_speak_of_the_newest_generation(call: Call, ready: World) -> None:
    new = call("lineage", BASE, "--json", world=ready).json
    assert [e["status"] for e in new["entries"]] == ["root"], "a base is at gen-0 before the first fuse"
    assert call("card", BASE, world=ready).code == 1
    ready.run()
    assert call("card", BASE, world=ready).out.strip() == ready.text("README.md").strip()
    lineage = call("lineage", BASE, "--json", world=ready).json
    tags = ready.tags()
    assert [(e["tag"], e["revision"]) for e in lineage["entries"]] == [(tag, tags[tag]) for tag in ("gen-0", "gen-1")]
    table = call("lineage", BASE, world=ready)
    assert "gen-1" in table.out and tags["gen-1"][:8] in table.out and table.err == ""


def test_status_tells_the_present_generation_whatever_the_file_says(call: Call, ready: World) -> None:
    """The file is only rewritten at the next look; a generation mended meanwhile is on the Hub already."""
    from hub_fusion.publish.state import open_base
    from hub_fusion.publish.status import tell_queue

    old = open_base(ready.maintainer, BASE)
    ready.run()
    tell_queue(ready.maintainer, BASE, old.generation, (), ())
    assert ready.status().generation == 0
    status = call("status", BASE, "--json", world=ready).json
    assert status["generation"] == 1 and status["revision"] == ready.tags()["gen-1"]


def test_contribute_publishes_what_the_next_round_finds(call: Call, empty: World, tmp_path: Path) -> None:
    from loop.world import honest, write_finetune

    source = empty.maintainer.snapshot(BASE, empty.maintainer.resolve(BASE), ("*.json", "*.safetensors"))
    out = write_finetune(source, tmp_path / "mine", 1, honest)
    assert call("contribute", out, "acme/mine", "--base", BASE, world=empty).code == 2, "what it started from is asked"
    start = ["--base", BASE, "--revision", "main"]
    done = call("contribute", out, "acme/mine", *start, "--license", "mit", "--json", world=empty)
    assert done.code == 0 and done.json == {"repo": "acme/mine", "sha": empty.maintainer.resolve("acme/mine")}
    found = call("discover", "-r", empty.write_recipe(), world=empty).lines
    assert [(line["repo"], line["license"], line["consent"]) for line in found] == [("acme/mine", "mit", True)]
    refused = call("contribute", out, "acme/other", *start, "--license", "mine", world=empty)
    assert refused.code == 1 and '"license" must be one of' in refused.err and "Traceback" not in refused.err


def test_flags_win_over_environment_over_file(call: Call, empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment changes one key without editing the recipe; a person changes it once more for one run."""
    recipe = empty.write_recipe(round={"min_contributions": 7})

    def needed(*flags: str) -> str:
        return call("run", "-r", recipe, "--dry-run", *flags, "--json", world=empty).json["reason"]

    assert "7 are needed" in needed()
    monkeypatch.setenv("HUB_FUSION_ROUND__MIN_CONTRIBUTIONS", "3")
    assert "3 are needed" in needed()
    assert "4 are needed" in needed("--set", "round.min_contributions=4")


def test_endpoint_flag_wins_over_the_environment(ready: World) -> None:
    nobody = {"env": ready.environment("http://127.0.0.1:9")}
    command = hub_fusion("discover", "-r", ready.write_recipe(), "--endpoint", ready.hub.url)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **nobody)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5, done.stderr


def test_strangers_cannot_steer_the_terminal(call: Call, empty: World) -> None:
    """An escape sequence in a stranger's text could hide what is printed after it, or play somebody else's words."""
    from safetensors.torch import save_file

    evil = "\x1b[2J\x9b31m\x07 red\u2028\u202e"
    empty.contribute("ann")
    out, hub = empty.folder / "contributions" / "ann-finetune-0", empty.client("bob")
    about = {"task": evil, "metadata": {"datasets": [evil], "tags": ["hub-fusion", evil]}}
    common = {"base": BASE, "base_revision": "main", "hub": hub, "license": "apache-2.0"}
    publish_contribution(out, "bob/card", **common, **about)
    publish_contribution(out, "bob/copy", **common)
    tensors = load_file(out / "model.safetensors")
    save_file({f"{name}{evil}": tensor for name, tensor in tensors.items()}, out / "model.safetensors")
    publish_contribution(out, "bob/other", **common)
    recipe = empty.write_recipe()
    found = call("discover", "-r", recipe, world=empty)
    said = [line | {"tags": [evil, "hub-fusion"], "files": [evil, *line["files"]]} for line in found.lines]
    kept = call("filter", "-r", recipe, stdin="\n".join(map(json.dumps, said)), world=empty)
    sound = [line for line in kept.lines if line["kind"] == "contribution"]
    assert sound and all(line["files"][0] == evil for line in sound), "what was said is still there for machines"
    passed = call("screen", "-r", recipe, "--work", empty.work, stdin=kept.out, world=empty)
    codes = {line["repo"]: line.get("code") for line in passed.lines}
    assert codes.pop("bob/card") == "malformed_card"
    assert sorted(map(str, codes.values())) == ["None", "copy", "malformed_weights"]
    outputs = [found, kept, passed, *(call("check", f"bob/{name}", world=empty) for name in ("card", "other")),
               call("status", f"a/{evil}", world=empty)]  # fmt: skip
    outputs.append(call("run", "-r", recipe, "--set", "round.min_contributions=1", "--json", world=empty))
    outputs += [call(*words, world=empty) for words in (["status", BASE], ["status", BASE, "--json"], ["card", BASE])]
    for done in outputs:
        assert PRINTABLE.fullmatch(done.out) and PRINTABLE.fullmatch(done.err), done


def test_hub_user_add_prints_a_token_that_works(call: Call, tmp_path: Path) -> None:
    from hub_fusion.hub import Hub
    from hub_fusion.local_hub import serve

    done = call("hub", "user", "add", "zoe", "--root", tmp_path / "store")
    token = done.out.strip()
    assert done.code == 0 and token.startswith("hf_") and "\n" not in token
    with serve(tmp_path / "store") as hub:
        assert Hub(hub.url, token, tmp_path / "c").account() == "zoe"
    assert call("hub", "user", "add", "not a name", "--root", tmp_path / "store").code == 2


def test_hub_user_add_takes_a_known_token_a_full_name_and_organisations(call: Call, tmp_path: Path) -> None:
    """Test suites of other projects come with users and tokens of their own."""
    from hub_fusion.local_hub import serve

    root = ("--root", tmp_path / "store")
    (tmp_path / "token").write_text("hf_KnownTokenXXXX\n")
    known = ("--token-file", tmp_path / "token")
    assert call("hub", "user", "add", "acme", "--org", "--private-by-default", *root).code == 0
    assert call("hub", "user", "add", "labs", "--org", "--fullname", "The Labs", *root).code == 0
    orgs = ("--member-of", "acme", "--member-of", "labs=read")
    for _ in range(2):
        done = call("hub", "user", "add", "__DUMMY_USER__", "--fullname", "Dummy", *orgs, *known, *root)
        assert done.code == 0 and done.out.strip() == "hf_KnownTokenXXXX"
    with serve(tmp_path / "store") as hub:
        api = HfApi(endpoint=hub.url, token="hf_KnownTokenXXXX")
        me = api.whoami()
        assert (me["name"], me["fullname"]) == ("__DUMMY_USER__", "Dummy")
        shown = [(org["name"], org["fullname"], org["roleInOrg"]) for org in me["orgs"]]
        assert shown == [("acme", "acme", "write"), ("labs", "The Labs", "read")]
        assert api.model_info(api.create_repo("acme/m").repo_id).private
        assert not api.model_info(api.create_repo("acme/open", private=False).repo_id).private
        assert not api.model_info(api.create_repo("mine").repo_id).private
    assert call("hub", "user", "add", "eve", *known, *root).code == 2  # another account's token
    (tmp_path / "token").write_text("two words\n")
    assert call("hub", "user", "add", "eve", *known, *root).code == 2
    assert call("hub", "user", "add", "eve", "--token-file", tmp_path / "none", *root).code == 2
    assert call("hub", "user", "add", "eve", "--member-of", "nowhere", *root).code == 2
    assert call("hub", "user", "add", "eve", "--member-of", "acme=king", *root).code == 2


def test_hub_serve_prints_its_address_serves_and_stops_on_sigterm(tmp_path: Path) -> None:
    command = hub_fusion("hub", "serve", "--root", tmp_path / "store", "--port", "0")
    process = subprocess.Popen(
        command, env=python_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        from hub_fusion.hub import Hub

        assert list(Hub(url, cache_dir=tmp_path / "c").children(BASE, "finetune")) == []
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(timeout=20) == 0 and time.monotonic() - began < 10
    finally:
        process.kill()


def test_ctrl_c_is_exit_code_130(empty: World) -> None:
    process = empty.start("watch", "-r", empty.write_recipe(), "--work", empty.work, "--interval", "60")
    assert process.stderr
    while not process.stderr.readline().startswith("waiting"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in words


def test_a_recipe_that_was_published_can_be_run_again(call: Call, ready: World, task: Path) -> None:
    """fusion/recipe.yaml is the whole recipe, defaults included."""
    call("run", "-r", ready.write_recipe(), world=ready)
    Path("published.yaml").write_text(ready.text("fusion/recipe.yaml"))
    assert yaml.safe_load(Path("published.yaml").read_text())["round"]["min_contributions"] == 5
    assert call("run", "-r", "published.yaml", "--json", world=ready).json["status"] == "waiting"


def test_json_of_outcomes_and_records_is_what_json_loads_reads(call: Call, ready: World) -> None:
    done = call("watch", "--once", "-r", ready.write_recipe(), "--json", world=ready)
    assert [json.loads(line)["status"] for line in done.out.splitlines()] == ["published", "waiting"]

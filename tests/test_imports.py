"""Who may import whom: imports point down only, heavy libraries stay where they serve, importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hub_fusion

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "hub_fusion"
MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FLOOR = {"errors", "events", "records", "provenance"}
SHARED = {"hub", "recipe"} | FLOOR
BELOW = {  # part → what it may import, besides itself
    "errors": set(),
    "events": set(),
    "records": {"errors"},
    "provenance": {"errors", "records"},
    "recipe": FLOOR,
    "hub": FLOOR,
    "merge": FLOOR,
    "weights": {"merge"} | SHARED,
    "contributions": {"weights", "merge"} | SHARED,
    "evaluate": {"weights"} | SHARED,
    "publish": {"weights"} | SHARED,
    "contribute": {"contributions", "evaluate", "weights"} | SHARED,
    "candidates": {"contributions", "evaluate", "publish", "weights"} | SHARED,
    "budget": SHARED,
    "forecast": {"budget", "publish", "weights"} | SHARED,
    "analysis": {"candidates", "evaluate", "weights"} | SHARED,
    "lock": {"events"},
    "deeds": {"publish", "weights"} | SHARED,
    "keeper": {"deeds", "publish"} | SHARED,
    "screening": {"contributions", "publish", "weights"} | SHARED,
    "finish": {
        "analysis",
        "budget",
        "candidates",
        "contributions",
        "deeds",
        "evaluate",
        "forecast",
        "merge",
        "publish",
        "weights",
    }
    | SHARED,
    "generation": {"budget", "contributions", "deeds", "finish", "forecast", "lock", "publish", "screening", "weights"}
    | SHARED,
    "deploy": {"announcements", "deeds", "finish", "generation", "weights"} | SHARED,
    "subtract": {"finish", "lock", "replan", "contributions", "publish", "weights"} | SHARED,
    "replan": {"publish", "weights"} | SHARED,
    "reproduce": {"replan", "publish", "weights"} | SHARED,
    "replay": {"replan", "evaluate", "publish", "weights", "merge"} | SHARED,
    "reevaluate": {"evaluate", "publish", "weights"} | SHARED,
    "simulate": {"evaluate", "weights", "merge"} | SHARED,
    "announcements": {"contribute", "deeds", "publish"} | SHARED,
    "webhook": {"events"} | FLOOR,
    "watch": {"announcements", "deeds", "webhook", "finish", "generation", "contributions", "publish", "weights"}
    | SHARED,
    "local_hub": set(),
    "__main__": {"cli"},
}
EVERYTHING = set(BELOW) - {"__main__"}
BELOW |= {"demo": EVERYTHING, "cli": EVERYTHING | {"demo"}}
HTTP = {"HfApi", "hf_hub_download", "snapshot_download", "hf_hub_url", "get_session", "create_commit", "model_info"}
VALUES = {
    "CommitOperationAdd",
    "CommitOperationDelete",
    "CommitOperationCopy",
    "ModelCard",
    "ModelCardData",
    "ModelInfo",
    "EvalResult",
}


def imports(path: Path, module: str) -> Iterator[tuple[str, set[str]]]:
    """(module, names imported from it) of every import in a file, also of those inside of functions."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, set()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*parents, *([node.module] if node.module else [])]), {alias.name for alias in node.names}


def part(module: str) -> str:
    """The part of the package that a module belongs to: ``hub_fusion.weights.fuse`` → ``weights``."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    """Whoever reads a part needs to know only what is below it; and the stages never know each other."""
    own = part(module)
    for imported, names in imports(MODULES[module], module):
        if imported.split(".")[0] != "hub_fusion":
            continue
        found = {part(imported)} if part(imported) else {n for n in names if f"hub_fusion.{n}" in MODULES}
        allowed = {own} | (BELOW[own] if own else set())
        assert found <= allowed, f"{module} imports {imported}: {own or 'the package'} may import {sorted(allowed)}"


def test_every_part_has_its_place_in_the_rule() -> None:
    assert {part(module) for module in MODULES} - {""} == set(BELOW)


@pytest.mark.parametrize("module", MODULES)
def test_devices_and_the_hub_are_each_behind_one_module(module: str) -> None:
    """accelerate only in weights/compute, the Hub's HTTP API only in hub/; its value types may travel."""
    for imported, names in imports(MODULES[module], module):
        library = imported.split(".")[0]
        if library == "accelerate":
            assert module == "hub_fusion.weights.compute", f"{module} imports {imported}"
        if library == "huggingface_hub" and part(module) != "hub":
            assert not names & HTTP, f"{module} imports {sorted(names & HTTP)} from {imported}"
            quiet = names <= {"disable_progress_bars", "enable_progress_bars"}
            assert names and (names <= VALUES or quiet), (
                f"{module} imports {sorted(names - VALUES)}: are these plain values?"
            )
        if library in ("httpx", "requests", "urllib3", "aiohttp"):
            raise AssertionError(f"{module} imports {library}: the Hub is spoken to through hub/")


def test_gradio_is_for_the_space_only() -> None:
    found = [m for m, path in MODULES.items() for imported, _ in imports(path, m) if imported.split(".")[0] == "gradio"]
    assert found == []


def test_public_names_resolve_and_none_is_a_module() -> None:
    """``hub_fusion.fuse`` as a name and as a module would depend on who imported what first."""
    names = hub_fusion.__all__
    assert names == sorted(names) and len(set(names)) == len(names)
    assert all(getattr(hub_fusion, name) is not None for name in names)
    modules = {part for module in MODULES for part in module.split(".")[1:]}
    assert not set(names) & modules
    with pytest.raises(AttributeError, match="'hub_fusion' has no attribute 'fuse'; it has"):
        hub_fusion.fuse  # noqa: B018


@pytest.mark.parametrize(
    "module",
    [
        "hub_fusion",
        "hub_fusion.cli",
        "hub_fusion.generation",
        "hub_fusion.contribute.check",
        "hub_fusion.contribute.statistics",
    ],
)
def test_importing_takes_no_torch(module: str) -> None:
    """Importing torch alone takes longer than most commands; and check works where it is not installed."""
    script = f"import sys, {module}\nheavy = {{'torch', 'transformers', 'accelerate', 'gradio'}} & set(sys.modules)\n"
    environment = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"{script}assert not heavy, heavy"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

"""fuse: part of the way, and mergekit configurations."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from loop.world import BASE, World
from safetensors.torch import load_file

from .conftest import Call


def folders(world: World) -> list[Path]:
    """The base and ann's finetune of it, downloaded."""
    repos = (BASE, "ann/finetune")
    return [
        world.maintainer.snapshot(repo, world.maintainer.resolve(repo), ("*.json", "*.safetensors")) for repo in repos
    ]


def test_step_goes_part_of_the_way(call: Call, ready: World) -> None:
    base, ann = folders(ready)
    assert call("fuse", base, ann, "--out", "half", "--step", "0.5", world=ready).code == 0
    half, start, end = (load_file(folder / "model.safetensors") for folder in (Path("half"), base, ann))
    for name, tensor in half.items():
        torch.testing.assert_close(tensor, (start[name] + end[name]) / 2, rtol=1e-6, atol=1e-6)
    for step in ("0", "1.5", "-1", "nan"):
        done = call("fuse", base, ann, "--out", "half", "--step", step, world=ready)
        assert done.code == 2 and "part of the way" in done.err


def test_a_mergekit_configuration_is_fused_and_what_differs_is_said(call: Call, ready: World) -> None:
    """From repositories, as most configurations are written."""
    entries = [{"model": f"{name}/finetune", "parameters": {"weight": w}} for name, w in (("ann", 0.5), ("bob", 1.5))]
    config = {"merge_method": "task_arithmetic", "base_model": BASE, "models": entries, "dtype": "bfloat16"}
    Path("merge.yml").write_text(yaml.safe_dump(config | {"parameters": {"lambda": 0.5}}))
    done = call("fuse", "--from-mergekit", "merge.yml", "--out", "merged", "--dtype", "fp32", world=ready)
    assert done.code == 0 and "merge.yml: task_arithmetic(scale=0.5)" in done.err
    assert "note: everything is computed in float32; mergekit rounds" in done.err
    merged, base = load_file("merged/model.safetensors"), ready.weights("main")
    one, two = (ready.weights(ready.maintainer.resolve(f"{n}/finetune"), f"{n}/finetune") for n in ("ann", "bob"))
    for name, tensor in merged.items():
        expected = base[name] + 0.25 * (one[name] - base[name]) + 0.75 * (two[name] - base[name])
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-6)
    plan = call("fuse", "--from-mergekit", "merge.yml", "--out", "other", "--dry-run", "--json", world=ready).json
    assert plan["method"] == "task_arithmetic" and not Path("other").exists()


def test_what_a_mergekit_configuration_asks_for_in_vain_is_an_error(call: Call, ready: World) -> None:
    Path("merge.yml").write_text("merge_method: passthrough\nslices: []\nchat_template: chatml\n")
    done = call("fuse", "--from-mergekit", "merge.yml", "--out", "x", world=ready)
    assert done.code == 1 and "Traceback" not in done.err
    assert all(words in done.err for words in ("layers are not stacked", "chat_template", "a list of models is needed"))
    for more in (["base", "one"], ["--method", "ties"], ["--from", "kept.jsonl"], ["--weights", "1"]):
        assert call("fuse", *more, "--from-mergekit", "merge.yml", "--out", "x", world=ready).code == 2

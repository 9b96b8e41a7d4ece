"""Generations that are adapters: the base's weights stay frozen, and PeftModel.from_pretrained loads every gen-N."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hub_fusion.contribute.check import check_contribution
from hub_fusion.contribute.upload import publish_contribution
from hub_fusion.errors import HubFusionError, RecipeError
from hub_fusion.hub import Hub
from hub_fusion.recipe import Recipe

from .world import AUTHORS, BASE, World, judged, python_environment, write_task

FROZEN: dict[str, Any] = {"publish": {"kind": "adapter", "rank": 16}}  # as many as a matrix of this base can have
FILES = ("adapter_model.safetensors", "adapter_config.json")


def base_folder(hub: Hub) -> Path:
    return hub.snapshot(BASE, hub.resolve(BASE, "gen-0"), ("config.json", "model.safetensors"))


def adapter(
    world: World, author: str, seed: int, *, goes_on: str | None = None, says: str | None = None,
    kind: str = "ViTForImageClassification", **options: Any,
) -> str:  # fmt: skip
    """Publish an adapter of the base with noise, new or from a generation's; gives its commit."""
    import transformers
    from peft import LoraConfig, PeftModel, get_peft_model

    from hub_fusion.evaluate.models import quiet

    hub = world.client(author)
    revision = "gen-0" if "gen-0" in hub.tags(BASE) else "main"
    root = hub.snapshot(BASE, hub.resolve(BASE, revision), ("config.json", "model.safetensors"))
    with quiet(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = getattr(transformers, kind).from_pretrained(root)
        if goes_on:
            peft = PeftModel.from_pretrained(model, parent(hub, goes_on), is_trainable=True)
        else:
            settings = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False} | options
            peft = get_peft_model(model, LoraConfig(**settings))
        with torch.no_grad():
            for name, parameter in peft.named_parameters():
                if parameter.requires_grad and "lora_" in name:
                    parameter.mul_(0.3 if not goes_on else 1).add_(0.02 * torch.randn(parameter.shape))
        out = world.folder / "adapters" / f"{author}-{seed}"
        peft.save_pretrained(out)
    return publish_contribution(out, f"{author}/lora", base=BASE, base_revision=says or goes_on or revision, hub=hub,
                                license="apache-2.0")  # fmt: skip


def parent(hub: Hub, tag: str) -> Path:
    return hub.snapshot(BASE, hub.resolve(BASE, tag), FILES)


def change(folder: Path) -> dict[str, torch.Tensor]:
    """ΔW by module, as PEFT's scalings have it."""
    tensors, config = load_file(folder / FILES[0]), json.loads((folder / FILES[1]).read_text())
    found = {}
    for name in [n for n in tensors if n.endswith("lora_A.weight")]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = tensors[name].double(), tensors[name.replace("lora_A", "lora_B")].double()
        alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
        found[module if module.startswith("vit.") else f"vit.{module}"] = alpha / len(a) * b @ a
    return found


def mean(changes: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([c[name] for c in changes]).mean(dim=0) for name in changes[0]}


def check_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-6 * float(tensor.abs().max()))


def recipe(world: World, **changes: Any) -> Recipe:
    rules = {"round": {"min_contributions": 2}, "screen": {"min_for_norms": 100, "cap_ratio": 1e6}}
    return world.recipe(**FROZEN, **rules | changes)


def test_two_rounds_publish_adapters_that_peft_loads(empty: World) -> None:
    """Round two mixes an adapter that went on, one that began anew, one that says where it began, and other classes."""
    task = write_task(empty.folder / "task")
    rules = recipe(empty, **judged(task), gate={"epsilon": 1.0})
    for seed, author in enumerate(AUTHORS[:3]):
        kind = "ViTModel" if author == AUTHORS[1] else "ViTForImageClassification"
        adapter(empty, author, seed, kind=kind, **({"r": 3, "lora_alpha": 5} if seed == 2 else {}))
    root = empty.weights("main")
    first = empty.run(rules)
    assert first.status == "published", first.reason
    hub = empty.maintainer
    expected = mean([change(empty.folder / "adapters" / f"{a}-{s}") for s, a in enumerate(AUTHORS[:3])])
    check_equal(change(parent(hub, "gen-1")), expected)

    adapter(empty, AUTHORS[0], 10, goes_on="gen-1")
    adapter(empty, AUTHORS[1], 11, says="gen-0")
    adapter(empty, AUTHORS[2], 12, goes_on="gen-1")
    second = empty.run(rules)
    assert second.status == "published", second.reason
    old = change(parent(hub, "gen-1"))
    ones = [change(empty.folder / "adapters" / f"{a}-{s}") for s, a in enumerate(AUTHORS[:3], start=10)]
    learned = [{n: t - old[n] for n, t in ones[0].items()}, ones[1], {n: t - old[n] for n, t in ones[2].items()}]
    check_equal(change(parent(hub, "gen-2")), {n: t + old[n] for n, t in mean(learned).items()})
    origins = {c.repo: c.generation for c in empty.record(2).contributions}
    assert [origins[f"{author}/lora"] for author in AUTHORS[:3]] == [1, 0, 1]

    for tag in ("gen-0", "gen-1", "gen-2"):
        for name, tensor in empty.weights(tag).items():
            assert torch.equal(tensor, root[name])
    record = empty.record(2)
    assert list(record.weights) == ["adapter_model.safetensors"]
    assert record.weights["adapter_model.safetensors"] == hub.files(BASE, "gen-2")["adapter_model.safetensors"].sha256
    assert record.candidate_scores is not None
    card = empty.text("README.md")
    assert "library_name: peft" in card
    assert 'PeftModel.from_pretrained(model, "acme/base", revision="gen-2")' in card
    check_loads(empty)


def check_loads(world: World) -> None:
    """Nothing but HF_ENDPOINT is set: what anybody does who never heard of hub_fusion."""
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from transformers import AutoModelForImageClassification as M; from peft import PeftModel\n"
        "for tag in ('gen-1', 'gen-2'):\n"
        f"    model = M.from_pretrained({BASE!r}, revision='gen-0')\n"
        f"    peft = PeftModel.from_pretrained(model, {BASE!r}, revision=tag)\n"
        "    print(tag, float(sum(p.double().abs().sum() for n, p in peft.named_parameters() if 'lora_' in n)))"
    )
    environment = python_environment(world.folder / "user") | {"HF_ENDPOINT": world.hub.url}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        tag, total = line.split()
        tensors = load_file(parent(world.maintainer, tag) / FILES[0])
        assert float(total) == pytest.approx(sum(float(t.double().abs().sum()) for t in tensors.values()))
    assert len(done.stdout.splitlines()) == 2


def test_what_cannot_be_part_of_an_adapter_is_refused_by_name(empty: World) -> None:
    """Full models by their card, DoRA and trained biases from their configuration; the round goes on without them."""
    rules = recipe(empty)
    for seed, author in enumerate(AUTHORS[:2]):
        adapter(empty, author, seed)
    adapter(empty, AUTHORS[2], 3, use_dora=True)
    adapter(empty, AUTHORS[3], 4, bias="all")
    empty.contribute(AUTHORS[4])
    outcome = empty.run(rules)
    assert outcome.status == "published", outcome.reason
    reasons = {r.author: (r.code, r.reason) for r in outcome.refusals}
    assert reasons[AUTHORS[2]][0] == reasons[AUTHORS[3]][0] == "unsupported_weights"
    assert "DoRA" in reasons[AUTHORS[2]][1] and "trained biases" in reasons[AUTHORS[3]][1]
    assert reasons[AUTHORS[4]][0] == "not_an_adapter"
    for author, word in ((AUTHORS[2], "DoRA"), (AUTHORS[3], "trained biases")):
        answer = check_contribution(f"{author}/lora", hub=empty.client(author))
        assert [word in r.reason for r in answer.refusals] == [True], "check applies the recipe that the base publishes"
        local = empty.folder / "adapters" / f"{author}-{AUTHORS.index(author) + 1}"
        assert any(
            word in r.reason for r in check_contribution(str(local), hub=empty.client(author), base=BASE).refusals
        )


def test_where_no_card_says_it_the_nearer_beginning_counts(empty: World) -> None:
    """After gen-1 people begin new adapters of the base as before; gen-1 was never in them."""
    rules = recipe(empty)
    for seed, author in enumerate(AUTHORS[:2]):
        adapter(empty, author, seed)
    assert empty.run(rules).status == "published"
    for seed, (author, start) in enumerate(((AUTHORS[2], None), (AUTHORS[3], "gen-1")), start=20):
        adapter(empty, author, seed, goes_on=start)
        card = "---\nlicense: apache-2.0\nbase_model: acme/base\ntags: [hub-fusion, lora]\nlibrary_name: peft\n---\n"
        from huggingface_hub import CommitOperationAdd

        empty.client(author).commit(f"{author}/lora", [CommitOperationAdd("README.md", card.encode())], "By hand")
    assert empty.run(rules).status == "published"
    origins = {c.author: (c.generation, c.known_by) for c in empty.record(2).contributions}
    assert origins == {AUTHORS[2]: (0, "date"), AUTHORS[3]: (1, "date")}


def test_only_the_mean_and_only_on_frozen_weights(ready: World) -> None:
    """A method that is none for adapters, and a base whose gen-1 has weights of its own."""
    with pytest.raises(RecipeError, match="set it to mean"):
        ready.run(recipe(ready, merge={"method": "ties"}))
    ready.run()
    adapter(ready, AUTHORS[0], 1, says="gen-1")
    adapter(ready, AUTHORS[1], 2, says="gen-1")
    with pytest.raises(HubFusionError, match="not frozen"):
        ready.run(recipe(ready))


def test_an_adapter_is_made_again_from_its_record(empty: World) -> None:
    """Also where an author went on with a generation's adapter, and one of them deleted what he gave."""
    from hub_fusion.replay import replay
    from hub_fusion.reproduce import reproduce

    rules = recipe(empty, archive={"keep": "adapters"}, merge={"steps": [0.5]})
    for number, says in ((1, None), (2, "gen-1")):
        adapter(empty, AUTHORS[0], 10 * number, goes_on=says)
        adapter(empty, AUTHORS[1], 10 * number + 1, says=says and "gen-0")
        assert empty.run(rules).generation == number
    empty.client(AUTHORS[0]).delete_repo(f"{AUTHORS[0]}/lora")
    for tag in ("gen-1", "gen-2"):
        done = reproduce(empty.maintainer, BASE, tag, empty.compute, empty.folder / "again")
        assert done.equal and len(done.archived) == 1 and done.fused == empty.record(int(tag[-1])).weights
    assert not list((empty.folder / "again").iterdir())
    empty.rewrite("gen-2", lambda record: record.update(weights={"adapter_model.safetensors": "0" * 64}))
    assert reproduce(empty.maintainer, BASE, "gen-2", empty.compute, empty.folder / "again").apart == 0
    with pytest.raises(HubFusionError, match="gen-1, gen-2 of acme/base are adapters"):
        replay(empty.maintainer, BASE, empty.compute, empty.folder / "out", empty.folder / "again", method="mean")


def test_a_recipe_for_weights_does_not_go_on_with_adapters(empty: World) -> None:
    """It would fuse onto the root and lose every generation so far."""
    for seed, author in enumerate(AUTHORS[:2]):
        adapter(empty, author, seed)
    assert empty.run(recipe(empty)).status == "published"
    empty.contribute_all(seed=5, revision="gen-0")
    with pytest.raises(RecipeError, match=r"publish[.]kind to adapter"):
        empty.run()


def test_the_gate_takes_smaller_steps_of_an_adapter_too(empty: World) -> None:
    """A rejected candidate leaves main as it was; steps are parts of the change since the parent."""
    rules = recipe(empty, **judged(write_task(empty.folder / "task")), merge={"steps": [0.5]}, gate={"epsilon": 1.0})
    for seed, author in enumerate(AUTHORS[:2]):
        adapter(empty, author, seed)
    assert empty.run(rules).status == "published"
    ones = [change(empty.folder / "adapters" / f"{a}-{s}") for s, a in enumerate(AUTHORS[:2])]
    check_equal(change(parent(empty.maintainer, "gen-1")), {n: 0.5 * t for n, t in mean(ones).items()})
    assert empty.record(1).step == 0.5

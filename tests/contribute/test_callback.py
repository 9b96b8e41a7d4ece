"""A real Trainer with ContributeCallback pushes a contribution, with nothing else to do."""

from __future__ import annotations

import json
from collections.abc import Callable

from contributions.world import World

from hub_fusion.contribute.check import check_contribution
from hub_fusion.contribute.statistics import read_about
from hub_fusion.contributions.discover import discover
from hub_fusion.contributions.origin import Generations, resolve_origin
from hub_fusion.recipe import Recipe
from hub_fusion.records import weights_identity

TRAIN = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from transformers import BertForSequenceClassification, Trainer, TrainingArguments
from hub_fusion import ContributeCallback

base, repo = sys.argv[1:]
model = BertForSequenceClassification.from_pretrained(base, revision="gen-0", num_labels=2)
model.add_model_tags("mine")
source = torch.Generator().manual_seed(0)
rows = [{"input_ids": torch.randint(0, 11, (5,), generator=source), "labels": i % 2} for i in range(16)]
arguments = TrainingArguments("output", max_steps=4, learning_rate=0.01, per_device_train_batch_size=4, use_cpu=True,
                              report_to="none", save_strategy="no", push_to_hub=True, hub_model_id=repo,
                              disable_tqdm=True)
callback = ContributeCallback(base, revision="gen-0")
trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
trainer.train()
trainer.push_to_hub()
print(json.dumps({"sha": callback.base_revision}))
"""


def test_a_trainer_with_the_callback_pushes_a_contribution(world: World, python: Callable[..., str]) -> None:
    """The Hub lists it under base_model:finetune, with consent, licence and the generation it started from."""
    repo = "trainee/finetune"
    said = python(TRAIN, world.base, repo, token=str(world.api("trainee").token)).splitlines()[-1]
    sha = world.hub.tags(world.base)["gen-0"]
    assert json.loads(said) == {"sha": sha}
    assert [info.id for info in world.hub.children(world.base, "finetune")] == [repo]
    found, _ = discover(world.hub, Recipe(base=world.base))
    assert [c.repo for c in found] == [repo]
    assert {"hub-fusion", f"hub-fusion-base:{sha}", "mine"} <= set(found[0].tags)
    assert (found[0].consent, found[0].license, found[0].base) == (True, "mit", world.base)
    resolved = resolve_origin(found[0], Generations.of(world.hub, world.base), world.hub)
    assert (resolved.generation, resolved.origin_revision, resolved.known_by) == (0, sha, "card")
    check = check_contribution(repo, hub=world.hub)
    assert (check.accepted, [r.code for r in check.refusals]) == (True, [])
    screened = world.screen(resolved)
    assert [c.repo for c in screened.contributions] == [repo], screened.refusals


def test_a_trainer_can_bring_statistics_along(world: World, python: Callable[..., str]) -> None:
    """Of the weights that it pushes, which the file names; the training goes on to be pushed as before."""
    repo = "trainee/measured"
    more = 'ContributeCallback(base, revision="gen-0", statistics=Settings("both"), examples=10)'
    script = TRAIN.replace('ContributeCallback(base, revision="gen-0")', more)
    script = script.replace(
        "import torch\n", "import torch\nfrom hub_fusion.contribute.statistics import Settings\n", 1
    )
    python(script, world.base, repo, token=str(world.api("trainee").token))
    files = world.hub.files(repo, "main")
    place = world.hub.download(repo, "fusion/statistics.safetensors", world.hub.resolve(repo))
    about = read_about(place)
    assert about["weights_sha256"] == weights_identity([str(files["model.safetensors"].sha256)])
    assert (about["kinds"], about["examples"], about["tokens"]) == ("activations fisher", "10", "50")
    assert check_contribution(repo, hub=world.hub).accepted

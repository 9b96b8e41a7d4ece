"""Publishing a finetune or adapter as a contribution: one commit with weights, side files and a card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hub_fusion.contribute.metadata import contribution_metadata
from hub_fusion.errors import HubFusionError
from hub_fusion.hub import Hub

LEAVE = (".bin", ".pt", ".pth", ".pkl", ".ckpt")  # pickles: optimiser states, training arguments, old weights


def publish_contribution(
    folder: Path, repo: str, *, base: str, base_revision: str, hub: Hub, license: str | None = None,
    task: str | None = None, datasets: Sequence[str] = (), private: bool = False, metadata: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """Upload what `save_pretrained` wrote to `folder` to `repo` as a contribution to `base`; gives the commit.

    `base_revision` is the revision the training started from (tag, branch or sha; recorded as a sha). `metadata` adds
    to the card's front matter. Files beginning with a dot and pickles stay behind. Raises HubFusionError.
    """
    from huggingface_hub import CommitOperationAdd, ModelCard, ModelCardData

    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    adapter = "adapter_model.safetensors" in names
    if not adapter and not names & {"model.safetensors", "model.safetensors.index.json"}:
        raise HubFusionError(f"{folder} holds no safetensors: call save_pretrained({str(folder)!r}) first")
    front = contribution_metadata(
        base, hub.resolve(base, base_revision), license=license, task=task, datasets=datasets, adapter=adapter
    )
    data = ModelCardData(**{**front, **(metadata or {})})
    body = f"# {repo.partition('/')[2]}\n\nTrained from [{base}]({hub.endpoint}/{base}) to be fused into its next generation.\n"
    operations = [
        CommitOperationAdd(path.name, path)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix not in LEAVE and path.name != "README.md"
    ]
    operations.append(CommitOperationAdd("README.md", str(ModelCard(f"---\n{data}\n---\n\n{body}")).encode()))
    hub.create_repo(repo, private=private)
    return hub.commit(repo, operations, f"Contribute to {base}")

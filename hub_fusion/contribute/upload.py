"""Publishing a finetune or adapter as a contribution: one commit with weights, side files and a card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.contribute.metadata import contribution_metadata
from hub_fusion.errors import HubFusionError
from hub_fusion.hub import Hub

if TYPE_CHECKING:
    from hub_fusion.hub import Operation

# pickles: optimiser states, training arguments, old weights
LEAVE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt")
WEIGHTS = (".safetensors", ".safetensors.index.json", "adapter_config.json")


def publish_contribution(
    folder: Path, repo: str, *, base: str, base_revision: str, hub: Hub, license: str | None = None,
    task: str | None = None, datasets: Sequence[str] = (), private: bool = False,
    metadata: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """Upload what `save_pretrained` wrote to `folder` to `repo` as a contribution to `base`; gives the commit.

    `base_revision` is the revision the training started from (tag, branch or sha; recorded as a sha). `metadata` adds
    to the card's front matter. Files beginning with a dot and pickles stay behind; weights of an earlier upload to
    `repo` make way. Raises HubFusionError.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard, ModelCardData

    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    adapter = "adapter_model.safetensors" in names
    if not adapter and not names & {"model.safetensors", "model.safetensors.index.json"}:
        raise HubFusionError(f"{folder} holds no safetensors: call save_pretrained({str(folder)!r}) first")
    front = contribution_metadata(
        base, hub.resolve(base, base_revision), license=license, task=task, datasets=datasets, adapter=adapter
    )
    data = ModelCardData(**{**front, **(metadata or {})})
    origin = f"[{base}]({hub.endpoint}/{base})"
    body = f"# {repo.partition('/')[2]}\n\nTrained from {origin} to be fused into its next generation.\n"
    operations: list[Operation] = [
        CommitOperationAdd(path.name, path)
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix.lower() not in LEAVE
        and path.name != "README.md"
    ]
    operations.append(CommitOperationAdd("README.md", str(ModelCard(f"---\n{data}\n---\n\n{body}")).encode()))
    hub.create_repo(repo, private=private)
    old = [path for path in hub.files(repo, "main") if "/" not in path and path.endswith(WEIGHTS) and path not in names]
    operations += [CommitOperationDelete(path) for path in old]
    return hub.commit(repo, operations, f"Contribute to {base}")

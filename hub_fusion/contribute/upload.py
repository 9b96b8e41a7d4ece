"""Publishing a finetune or adapter as a contribution: one commit with weights, side files and a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.contribute.metadata import ABOUT, contribution_metadata
from hub_fusion.errors import HubFusionError
from hub_fusion.hub import Hub
from hub_fusion.records import weights_identity
from hub_fusion.weights.checkpoint import file_sha256
from hub_fusion.weights.statistics import BESIDE

if TYPE_CHECKING:
    from hub_fusion.hub import Operation

# pickles: optimiser states, training arguments, old weights
LEAVE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt")
HEADING = "## Statistics for fusing"
WEIGHTS = (".safetensors", ".safetensors.index.json", "adapter_config.json")


def publish_contribution(
    folder: Path, repo: str, *, base: str, base_revision: str, hub: Hub, license: str | None = None,
    task: str | None = None, datasets: Sequence[str] = (), private: bool = False,
    metadata: dict[str, Any] | None = None, statistics: bool = False,
) -> str:  # fmt: skip
    """Upload what `save_pretrained` wrote to `folder` to `repo` as a contribution to `base`; gives the commit.

    `base_revision` is the revision the training started from (tag, branch or sha; recorded as a sha). `metadata` adds
    to the card's front matter. Files beginning with a dot and pickles stay behind; weights of an earlier upload to
    `repo` make way, and so do statistics of them, unless `statistics` brings those that ``hub-fusion statistics`` has
    written for just these weights. Raises HubFusionError.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard, ModelCardData

    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    adapter = "adapter_model.safetensors" in names
    if not adapter and not names & {"model.safetensors", "model.safetensors.index.json"}:
        raise HubFusionError(f"{folder} holds no safetensors: call save_pretrained({str(folder)!r}) first")
    about = _check_statistics(folder) if statistics else None
    front = contribution_metadata(base, hub.resolve(base, base_revision), license=license, task=task,
                                  datasets=datasets, adapter=adapter, statistics=about)  # fmt: skip
    data = ModelCardData(**{**front, **(metadata or {})})
    origin = f"[{base}]({hub.endpoint}/{base})"
    body = f"# {repo.partition('/')[2]}\n\nTrained from {origin} to be fused into its next generation.\n"
    if about:
        body += statistics_text(about)
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
    there = hub.files(repo, "main")
    old = [path for path in there if "/" not in path and path.endswith(WEIGHTS) and path not in names]
    if about:
        operations.append(CommitOperationAdd(BESIDE, folder / BESIDE))
    elif BESIDE in there:
        old.append(BESIDE)
    operations += [CommitOperationDelete(path) for path in old]
    return hub.commit(repo, operations, f"Contribute to {base}")


def publish_statistics(folder: Path, repo: str, *, hub: Hub) -> str:
    """Upload ``fusion/statistics.safetensors`` of a folder to `repo`, whose card then says so; gives the commit.

    Raises HubFusionError, also where they do not belong to the weights in `repo`.
    """
    from huggingface_hub import CommitOperationAdd, ModelCard

    about = _check_statistics(folder)
    files = hub.files(repo, "main")
    digests = [f.sha256 or f.oid for path, f in files.items() if "/" not in path and path.endswith(".safetensors")]
    if about.get("weights_sha256") not in (None, weights_identity(digests)):
        raise HubFusionError(f"{repo} has other weights than {folder}: contribute these first (--statistics does both)")
    operations: list[Operation] = [CommitOperationAdd(BESIDE, folder / BESIDE)]
    text = hub.read_text(repo, "README.md") if "README.md" in files else ""
    card = ModelCard(text or "---\n---\n")
    ours = card.data.get("hub_fusion")
    told = {key: about[key] for key in ABOUT if key in about}
    card.data["hub_fusion"] = {**(ours if isinstance(ours, dict) else {}), "statistics": told}
    if HEADING not in card.text:
        card.text = f"{card.text}\n{statistics_text(about)}"
    operations.append(CommitOperationAdd("README.md", str(card).encode()))
    return hub.commit(repo, operations, "Add statistics for fusing")


def statistics_text(about: Mapping[str, str]) -> str:
    """What a card says about statistics, in Markdown."""
    how = f", {about['estimator']}" if "estimator" in about else ""
    return (
        f"\n{HEADING}\n\n`{BESIDE}` ({about['kinds']}{how}) covers {about.get('covers', 'what its header lists')}, "
        f"from {about['examples']} examples with {about['tokens']} tokens of the training data.\n"
    )


def _check_statistics(folder: Path) -> dict[str, str]:
    """The metadata of a folder's statistics. Raises HubFusionError unless they are there and of its weights."""
    from hub_fusion.contribute.statistics import read_about

    if not (folder / BESIDE).is_file():
        raise HubFusionError(f"{folder / BESIDE} is not there: hub-fusion statistics {folder} --task FOLDER writes it")
    about = read_about(folder / BESIDE)
    own = weights_identity(file_sha256(path) for path in sorted(folder.glob("*.safetensors")))
    if about.get("weights_sha256") not in (None, own):
        raise HubFusionError(f"{folder / BESIDE} is of other weights than {folder} holds now: compute it again")
    return about

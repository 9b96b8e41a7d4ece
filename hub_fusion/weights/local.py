"""Merging without a loop: any folders or repositories, no recipe, no card rules, nothing capped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hub_fusion.errors import HubError, MergeError
from hub_fusion.merge import find_method
from hub_fusion.merge.method import STATISTICS
from hub_fusion.weights.checkpoint import WRITABLE
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, FuseReport, fuse
from hub_fusion.weights.places import HubFolder, Place
from hub_fusion.weights.remote import ADAPTER, fetch_checkpoint

if TYPE_CHECKING:
    from hub_fusion.hub import Hub
    from hub_fusion.weights.compute import Compute

DTYPES = {"fp32": "F32", "float32": "F32", "fp16": "F16", "float16": "F16", "bf16": "BF16", "bfloat16": "BF16"}


def fuse_models(
    base: str | Path, contributions: Sequence[str | Path], out: str | Path, *, method: str = "mean",
    options: Mapping[str, Any] | None = None, weights: Sequence[float] | None = None,
    heads: Literal["drop", "keep"] = "keep", dtype: str | None = None, seed: int = 0, residual: bool = False,
    vocab: Literal["drop", "keep"] = "drop",
    hub: Hub | None = None, compute: Compute | None = None, cache: bool = False,
) -> FuseReport:  # fmt: skip
    """Fuse finetunes and adapters of `base` into the folder `out`, which loads with from_pretrained.

    `base` and `contributions` are folders, or repositories as ``user/model[@revision]``. `weights` are relative and
    equal by default. Task heads are the base's. Weights of repositories are streamed, or downloaded beside the output
    for methods that read them more than once; `cache` downloads them into the client's cache, and they stay there.
    `residual` keeps what rounding to 16 bits lost, `vocab="keep"` the rows of tokens that the base lacks. Raises
    WeightsError, MergeError, HubError.

    Example:
        >>> fuse_models("acme/base", ["ann/finetune", "bob/lora"], Path("merged"))
    """
    plan = plan_local(base, contributions, out, method=method, options=options, weights=weights, heads=heads,
                      dtype=dtype, seed=seed, residual=residual, vocab=vocab, hub=hub, cache=cache)  # fmt: skip
    if compute is None:
        from hub_fusion.weights.compute import Compute

        compute = Compute()
    return compute.together(fuse, plan)


def plan_local(
    base: str | Path, contributions: Sequence[str | Path], out: str | Path, *, method: str = "mean",
    options: Mapping[str, Any] | None = None, weights: Sequence[float] | None = None,
    heads: Literal["drop", "keep"] = "keep", dtype: str | None = None, seed: int = 0, residual: bool = False,
    vocab: Literal["drop", "keep"] = "drop",
    hub: Hub | None = None, cache: bool = False,
) -> FusePlan:  # fmt: skip
    """The plan of `fuse_models`. Of repositories only headers are read for it, unless `cache` downloads them.

    Raises as `fuse_models`.
    """
    if weights is not None and len(weights) != len(contributions):
        raise MergeError(f"{len(contributions)} contributions need as many weights, not {len(weights)}")
    if dtype is not None and DTYPES.get(dtype, dtype) not in WRITABLE:
        raise MergeError(f"there is no output dtype {dtype!r}; there are {', '.join(DTYPES)}")
    asks = bool(find_method(method).inputs & STATISTICS) if cache else False
    base_place = checkpoint_folder(str(base), hub, residual=True) if cache else checkpoint_place(str(base), hub)
    places = [checkpoint_folder(str(c), hub, statistics=asks) if cache else checkpoint_place(str(c), hub)
              for c in contributions]  # fmt: skip
    keys = contribution_keys(contributions, places)
    sources = tuple(
        Source(key, where, base_place, "adapter" if (where / ADAPTER).is_file() else "finetune", weight)
        for key, where, weight in zip(keys, places, weights or [1.0] * len(places), strict=True)
    )
    return FusePlan(base_place, Path(out), sources, method, dict(options or {}), 1.0, heads,
                    DTYPES.get(dtype or "", dtype), seed, residual, vocab)  # fmt: skip


def checkpoint_folder(
    target: str, hub: Hub | None = None, *, residual: bool = False, statistics: bool = False
) -> Path:  # fmt: skip
    """A folder with the checkpoint: `target` itself, or a download of ``user/model[@revision]``.

    Raises RepoMissing, and HubError for what is neither a folder nor a repository's name.
    """
    place = checkpoint_place(target, hub)
    if isinstance(place, Path):
        return place
    return fetch_checkpoint(hub or place.hub, place.repo, place.sha, residual=residual, statistics=statistics)


def checkpoint_place(target: str, hub: Hub | None = None) -> Place:
    """Where a checkpoint is: a folder, or the commit behind ``user/model[@revision]``.

    Raises as `checkpoint_folder`.
    """
    if Path(target).is_dir():
        return Path(target)
    if Path(target).is_file():
        raise HubError(f"{target!r} is a file: give the folder that it is in")
    repo, _, revision = target.partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")) or repo.startswith((".", "~")):
        raise HubError(f"{target!r} is neither a folder nor a repository like user/model@revision")
    if hub is None:
        from hub_fusion.hub import Hub

        hub = Hub()
    return HubFolder(hub.endpoint, repo, hub.resolve(repo, revision or "main"), hub.token)


def contribution_keys(contributions: Sequence[str | Path], places: Sequence[Place]) -> list[str]:
    """Names for canonical order and for randomness: ``repo@sha``, or as much of a folder's path as tells it apart.

    They do not depend on where the folders are, so the result does not either.
    """
    remote = [None if Path(c).is_dir() else f"{str(c).partition('@')[0]}@{place.name}"
              for c, place in zip(contributions, places, strict=True)]  # fmt: skip
    parts = [place.resolve().parts if isinstance(place, Path) else (place.name,) for place in places]
    depth = 1
    while depth < max(map(len, parts)) and len({p[-depth:] for p in parts}) < len({*parts}):
        depth += 1
    return [name or "/".join(p[-depth:]) for name, p in zip(remote, parts, strict=True)]

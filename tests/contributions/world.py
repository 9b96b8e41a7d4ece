"""A small world: a base with two generations on a local Hub, and contributions to it."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import get_session, hf_raise_for_status
from safetensors.torch import save

from hub_fusion.contributions.discover import from_model_info
from hub_fusion.contributions.screen import Screened, screen
from hub_fusion.hub import Hub
from hub_fusion.local_hub import LocalHub, add_user
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Relation
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.remote import Spool

CONFIG = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 11, "hidden_size": 4, "num_hidden_layers": 1,
    "num_attention_heads": 1, "intermediate_size": 6, "max_position_embeddings": 8, "type_vocab_size": 1,
}  # fmt: skip
QUERY = "encoder.layer.0.attention.self.query"


def tensors(seed: int = 0, size: float = 1.0) -> dict[str, torch.Tensor]:
    """A BERT of one layer without pooler, written by hand: no model library is needed to make a contribution."""
    source = torch.Generator().manual_seed(seed)
    layer = "encoder.layer.0."
    linear = {
        "attention.self.query": (4, 4), "attention.self.key": (4, 4), "attention.self.value": (4, 4),
        "attention.output.dense": (4, 4), "intermediate.dense": (6, 4), "output.dense": (4, 6),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (11, 4),
        "embeddings.position_embeddings.weight": (8, 4),
        "embeddings.token_type_embeddings.weight": (1, 4),
    }
    for name, shape in linear.items():
        shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
    for norm in ("embeddings.LayerNorm", f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"):
        shapes |= {f"{norm}.weight": (4,), f"{norm}.bias": (4,)}
    return {name: torch.randn(shape, generator=source) * size for name, shape in shapes.items()}


def finetuned(seed: int, size: float = 0.01) -> dict[str, torch.Tensor]:
    """The base of generation 0 with noise on it."""
    return {name: t + noise for (name, t), noise in zip(tensors().items(), tensors(seed, size).values(), strict=True)}


def card(front: Mapping[str, Any] | str, text: str = "A model.") -> bytes:
    """README.md; front matter that is text already is taken as it is."""
    head = front if isinstance(front, str) else yaml.safe_dump(dict(front))
    return f"---\n{head}\n---\n\n{text}\n".encode()


@dataclass(frozen=True)
class World:
    """A base on a Hub, seen by its maintainer, and users who upload whatever they like."""

    server: LocalHub
    folder: Path
    base: str
    hub: Hub

    @classmethod
    def new(cls, server: LocalHub, folder: Path) -> World:
        """Make the base: gen-0, an edit of its card, gen-1."""
        owner = f"org{secrets.token_hex(3)}"
        token = add_user(server.root, owner)
        hub = Hub(server.url, token, folder / "cache")
        world = cls(server, folder, f"{owner}/base", hub)
        world.api(owner, token).create_repo(world.base)
        world.commit(world.base, {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": save(tensors())})
        hub.tag(world.base, "gen-0", hub.resolve(world.base))
        world.commit(world.base, {"README.md": card({"license": "mit"})})
        world.commit(world.base, {"model.safetensors": save(tensors(0, 1.001))})
        hub.tag(world.base, "gen-1", hub.resolve(world.base))
        return world

    def api(self, user: str, token: str | None = None) -> HfApi:
        """The client of a user, who is made if need be."""
        return HfApi(endpoint=self.server.url, token=token or add_user(self.server.root, user))

    def commit(self, repo: str, files: Mapping[str, bytes], api: HfApi | None = None) -> str:
        """One commit of these files."""
        operations = [CommitOperationAdd(path, data) for path, data in files.items()]
        return str((api or self.hub.api).create_commit(repo, operations, commit_message="files").oid)

    def front(self, **more: Any) -> dict[str, Any]:
        """The front matter of a good contribution."""
        ours = {"base": self.base, "base_revision": "gen-0"}
        return {"base_model": self.base, "license": "mit", "tags": ["hub-fusion"], "hub_fusion": ours} | more

    def contribute(
        self, files: Mapping[str, bytes], front: Mapping[str, Any] | str | None = None, *, user: str | None = None
    ) -> str:
        """A repository of a user's with these files and a card; gives its name."""
        user = user or f"user{secrets.token_hex(3)}"
        api = self.api(user)
        repo = f"{user}/m{secrets.token_hex(3)}"
        api.create_repo(repo)
        self.commit(repo, files, api)
        self.force(repo, "README.md", card(self.front() if front is None else front), str(api.token))
        return repo

    def force(self, repo: str, path: str, data: bytes, token: str) -> None:
        """Commit one small file as git would: the client checks cards before it sends them, which nobody has to."""
        content = base64.b64encode(data).decode()
        lines = [
            {"key": "header", "value": {"summary": path}},
            {"key": "file", "value": {"path": path, "content": content, "encoding": "base64"}},
        ]
        answer = get_session().post(
            f"{self.server.url}/api/models/{repo}/commit/main",
            content="".join(json.dumps(line) + "\n" for line in lines),
            headers={"authorization": f"Bearer {token}", "content-type": "application/x-ndjson"},
        )
        hf_raise_for_status(answer)

    def contribution(self, repo: str, relation: Relation = "finetune") -> Contribution:
        """A repository as discovery sees it, resolved to generation 0."""
        return from_model_info(self.hub.model(repo), relation).model_copy(update={"generation": 0})

    def screen(self, *found: Contribution, **merge: Any) -> Screened:
        """The screen of a round of these contributions."""
        recipe = Recipe.model_validate({"base": self.base, "merge": merge})
        base = self.hub.snapshot(self.base, self.hub.resolve(self.base, "gen-0"), ["*.json", "*.safetensors"])
        spool = Spool(self.folder / "spool", 10**9)
        return screen(self.hub, found, recipe, base, {0: base}, spool, Compute(), lambda text: None)


def adapter_files(**config: Any) -> dict[str, bytes]:
    """A LoRA adapter of one layer, well made but for the changes to its configuration."""
    source = torch.Generator().manual_seed(3)
    factors = {
        f"base_model.model.{QUERY}.lora_A.weight": torch.randn(2, 4, generator=source),
        f"base_model.model.{QUERY}.lora_B.weight": torch.randn(4, 2, generator=source),
    }
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "x"} | config
    return {"adapter_config.json": json.dumps(settings).encode(), "adapter_model.safetensors": save(factors)}

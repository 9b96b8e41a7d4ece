"""Whose work enters, when, and what its weights must pass."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from hub_fusion.recipe.section import Section

PERMISSIVE = (
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "cc0-1.0", "cc-by-2.0",
    "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "unlicense", "wtfpl", "zlib", "odc-by", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "ms-pl", "postgresql", "ncsa", "artistic-2.0", "afl-3.0", "ecl-2.0",
)  # fmt: skip


class Contributions(Section):
    """Whose work may enter."""

    include: tuple[str, ...] = Field((), description="repositories to consider although no listing names them")
    consent: Literal["tag", "license"] = Field(
        "tag", description="tag: only what is tagged hub-fusion; license: everything whose licence allows it"
    )
    licenses: tuple[str, ...] = Field(PERMISSIVE, description="licences that may be fused")
    own: bool = Field(False, description="take repositories of the base's own account")
    private: bool = Field(False, description="take private repositories that the token can read")
    gated: bool = Field(False, description="take gated repositories that the token can read")
    block: tuple[str, ...] = Field((), description="accounts or repositories never to take")


class Round(Section):
    """When a fuse is due and what enters it."""

    min_contributions: int = Field(5, ge=1)
    max_contributions: int = Field(32, ge=1)
    max_wait: timedelta = Field(timedelta(days=7), description="after this wait of the oldest, two are enough")
    choose: Literal["newest", "oldest", "diverse", "all"] = "diverse"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_contributions > self.max_contributions:
            raise ValueError(f"min_contributions {self.min_contributions} > max_contributions {self.max_contributions}")
        return self


class Screen(Section):
    """What the weights must pass; norms are those of the task vectors, compared with the round's median."""

    cap_mad: float = Field(3.0, ge=0, description="cap norms above median + cap_mad·MAD …")
    cap_ratio: float = Field(1.5, ge=1, description="… but never below cap_ratio·median")
    refuse_ratio: float = Field(10.0, ge=1, description="refuse norms above refuse_ratio·median")
    min_for_norms: int = Field(5, ge=2, description="neither with fewer contributions than this")
    spool_bytes: int = Field(200 * 10**9, ge=1, description="disk space for downloaded contributions")

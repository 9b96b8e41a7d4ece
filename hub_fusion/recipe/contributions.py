"""Whose work enters, when, and what its weights must pass."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from hub_fusion.recipe.license_names import FORBIDDEN, class_of
from hub_fusion.recipe.section import Section


class Contributions(Section):
    """Whose work may enter."""

    include: tuple[str, ...] = Field((), description="repositories to consider although no listing names them")
    consent: Literal["tag", "license"] = Field(
        "tag", description="tag: only what is tagged hub-fusion; license: everything whose licence allows it"
    )
    license_policy: Literal["keep-base", "allow-stricter"] = Field(
        "keep-base", description="keep-base: only what leaves the base's effective licence as it is; "
        "allow-stricter: also what makes it the resulting_license"
    )  # fmt: skip
    resulting_license: str | None = Field(
        None, description="of allow-stricter: the licence that every later generation then has, typed out"
    )
    licenses: tuple[str, ...] | None = Field(
        None, description="of what the policy allows only these; names that are nobody's are vouched for"
    )
    own: bool = Field(False, description="take repositories of the base's own account")
    private: bool = Field(False, description="take private repositories that the token can read")
    gated: bool = Field(False, description="take gated repositories that the token can read")
    block: tuple[str, ...] = Field((), description="accounts or repositories never to take, nor merges of them")
    allow: tuple[str, ...] | None = Field(None, description="only these accounts or repositories; default: everybody")
    block_ancestors: tuple[str, ...] = Field((), description="accounts or repositories no merge of which is taken")
    block_datasets: tuple[str, ...] = Field((), description="data sets that nothing taken may have been trained on")
    languages: tuple[str, ...] | None = Field(None, description="only what names one of these in its card")
    libraries: tuple[str, ...] | None = Field(None, description="only what is for one of these, transformers or peft")
    max_parameters: int | None = Field(None, ge=1, description="as the Hub counts them")
    min_age: timedelta = Field(timedelta(0), ge=timedelta(0), description="of the repository")
    max_age: timedelta | None = Field(None, gt=timedelta(0), description="since its last change")
    min_downloads: int = Field(0, ge=0)
    security_scan: Literal["refuse", "require", "ignore"] = Field(
        "refuse", description="refuse: what the Hub's scan calls unsafe; require: also what it has not scanned yet"
    )

    @field_validator("resulting_license")
    @classmethod
    def _plain(cls, name: str | None) -> str | None:
        return name.strip().lower() if name else name

    @model_validator(mode="after")
    def _typed(self) -> Self:
        result = self.resulting_license
        if (self.license_policy == "allow-stricter") != bool(result):
            raise ValueError(
                "license_policy: allow-stricter and resulting_license go together: fused weights cannot be unmixed, so "
                "type the licence that every later generation will have"
            )
        if result and class_of(result) in FORBIDDEN:
            raise ValueError(f"resulting_license {result} is unknown or forbids derivatives: no generation can have it")
        return self


class Round(Section):
    """When a fuse is due and what enters it."""

    min_contributions: int = Field(5, ge=1)
    max_contributions: int = Field(32, ge=1)
    max_wait: timedelta = Field(timedelta(days=7), description="after this wait of the oldest, two are enough")
    choose: Literal["newest", "oldest", "diverse", "all"] = "diverse"
    age_discount: float = Field(
        1.0,
        gt=0,
        le=1,
        description="what a change is multiplied with for each generation since the one it started from",
    )
    max_age: int | None = Field(None, ge=0, description="refuse what started from a generation older than so many")

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
    layer_cap_ratio: float = Field(
        4.0, ge=1, description="cap by a layer's norm, but never below this times its median"
    )
    layer_refuse_ratio: float = Field(
        20.0, ge=1, description="refuse where a layer's norm is above this times its median"
    )
    min_kinship: float = Field(
        0.3, ge=-1, le=1, description="refuse where the matrices' cosine with the base's is lower: random, or another's"
    )
    noise: Literal["refuse", "note", "off"] = Field(
        "refuse", description="where nothing tells the change of any matrix from random numbers; note: only say so"
    )
    min_cosine: float = Field(
        -0.5, ge=-1, le=1, description="refuse where the cosine with the mean of the other accounts' is lower"
    )
    min_for_norms: int = Field(
        5,
        ge=2,
        description="with fewer contributions only min_kinship, noise, and the cap on norms, by the lower median",
    )
    spool_bytes: int = Field(200 * 10**9, ge=1, description="disk space for downloaded contributions")

"""The card's front matter: what the Hub reads. Values of the present card are kept only where they are sane."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hub_fusion.publish.markdown import REPO
from hub_fusion.records import Generation, Score
from hub_fusion.weights.remote import ADAPTER

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

PROTOCOLS = {"probe": "linear probe", "fewshot": "few-shot finetuning", "finetune": "full finetuning"}
_WORD = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9][\w.:+/ -]{0,63}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")
_LINK = re.compile(r"https://[\w./%#?=&+-]{1,200}|[\w.-]{1,64}", re.ASCII)
_OURS = re.compile(r"gen-\d+|hub-fusion.*|cold-fusion")  # of earlier generations, or set below
_KEPT = ("datasets", "metrics", "thumbnail", "widget", "inference")  # a maintainer's own, as are extra_gated_*


def card_data(record: Generation, license: str | None, front: Mapping[str, Any] | None) -> ModelCardData:
    """The metadata of a generation's card.

    `base_model` is the root alone: the contributions declare this repository as their base, so listing them would close
    a loop in the Hub's model tree. Scores of the report role become the model-index.
    """
    from huggingface_hub import ModelCardData

    front = front if isinstance(front, Mapping) else {}
    license = _sane(license, _WORD)
    ours = {"schema": 1, "generation": record.generation, "parent_revision": record.parent_revision}
    pipeline = _sane(front.get("pipeline_tag"), _WORD)
    results = _results(record, pipeline if pipeline and pipeline.endswith("-classification") else "text-classification")
    kept = {k: v for k, v in front.items() if k in _KEPT or (isinstance(k, str) and k.startswith("extra_gated_"))}
    return ModelCardData(
        library_name="peft" if ADAPTER in record.weights else _library(front),
        pipeline_tag=pipeline,
        license=license,
        license_name=_sane(front.get("license_name"), _WORD) if license == "other" else None,
        license_link=_sane(front.get("license_link"), _LINK) if license == "other" else None,
        language=_sane_list(front.get("language"), _LANGUAGE) or None,
        base_model=sane_root(record),
        tags=["hub-fusion", "cold-fusion", f"gen-{record.generation}", *_old_tags(front)],
        hub_fusion={k: v for k, v in ours.items() if v is not None}
        | {"record": f"fusion/gen-{record.generation}.json"},
        model_name=record.base if results else None,
        eval_results=results or None,
        **kept,
    )


def _library(front: Mapping[str, Any]) -> str:
    found = _sane(front.get("library_name"), _WORD)
    return found if found and found != "peft" else "transformers"


def sane_root(record: Generation) -> str | None:
    """The root's repository, if it is known and another than the base."""
    root = record.root or ""
    return root if REPO.fullmatch(root) and root.lower() != record.base.lower() else None


def _sane(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _sane_list(value: object, pattern: re.Pattern[str], limit: int = 50) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(kept for v in values if (kept := _sane(v, pattern))))[:limit]


def _old_tags(front: Mapping[str, Any]) -> list[str]:
    return [tag for tag in _sane_list(front.get("tags"), _TAG) if not _OURS.fullmatch(tag)]


def _results(record: Generation, task_type: str) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    scores: tuple[Score, ...] = record.candidate_scores.tasks if record.candidate_scores else ()
    return [
        EvalResult(
            task_type=task_type,
            dataset_type=score.task,
            dataset_name=score.task,
            metric_type="accuracy",
            metric_name=f"Accuracy, {PROTOCOLS[score.protocol]}",
            metric_value=round(score.mean, 4),
        )
        for score in scores
        if score.role == "report" and score.protocol in PROTOCOLS and score.task and _WORD.fullmatch(score.task)
    ]

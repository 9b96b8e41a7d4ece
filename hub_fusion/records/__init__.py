"""The records that travel between the stages and into the base repository. No I/O here.

A round makes `Contribution`s and `Refusal`s; a fuse that was evaluated makes an `Attempt`; an attempt that was
published is a `Generation` (``fusion/gen-N.json``). `Index` (``fusion/index.json``) lists all attempts in small form,
`Status` (``fusion/status.json`` on the branch ``fusion-status``) is what is going on between generations.

Readers ignore unknown fields, so that a newer writer does not break an older dashboard; `schema_version` says when
they should not even try. ``python -m hub_fusion.records FOLDER`` writes the JSON Schemas.
"""

from __future__ import annotations

from hub_fusion.records.attempt import Analysis, Attempt, Formula, Generation, Line, Withdrawal
from hub_fusion.records.contribution import Contribution, Credit, KnownBy, Refusal, Relation, Stage, parse_lines
from hub_fusion.records.head import Head
from hub_fusion.records.identities import (
    attempt_id,
    data_name,
    files_identity,
    generation_number,
    restored_generation,
    weights_identity,
    withdrawal_title,
)
from hub_fusion.records.index import AttemptStatus, Index, IndexEntry
from hub_fusion.records.record import SCHEMA_VERSION, Moment, Record, Role, Sha, Sha256, encodable, now
from hub_fusion.records.refused import Told, tell_refusals
from hub_fusion.records.schemas import write_schemas
from hub_fusion.records.scores import Difference, Estimate, Retained, Score, Scores
from hub_fusion.records.status import Aside, Headroom, Later, Proposed, Status, Waiting
from hub_fusion.records.token import AddedToken
from hub_fusion.records.verdict import CanaryCheck, Contamination, Control, Rule, Trial, Verdict

__all__ = [
    "SCHEMA_VERSION",
    "AddedToken",
    "Analysis",
    "Aside",
    "Attempt",
    "AttemptStatus",
    "CanaryCheck",
    "Contamination",
    "Contribution",
    "Control",
    "Credit",
    "Difference",
    "Estimate",
    "Formula",
    "Generation",
    "Head",
    "Headroom",
    "Index",
    "IndexEntry",
    "KnownBy",
    "Later",
    "Line",
    "Moment",
    "Proposed",
    "Record",
    "Refusal",
    "Relation",
    "Retained",
    "Role",
    "Rule",
    "Score",
    "Scores",
    "Sha",
    "Sha256",
    "Stage",
    "Status",
    "Told",
    "Trial",
    "Verdict",
    "Waiting",
    "Withdrawal",
    "attempt_id",
    "data_name",
    "encodable",
    "files_identity",
    "generation_number",
    "now",
    "parse_lines",
    "restored_generation",
    "tell_refusals",
    "weights_identity",
    "withdrawal_title",
    "write_schemas",
]

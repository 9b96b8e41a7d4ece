"""The stages of a job, and a way for rehearsals to play the machine that would go through them."""

from contextlib import closing
from pathlib import Path
from typing import Literal, get_args

from hub_fusion.local_hub.db import Database, now_ms

JobStage = Literal["SCHEDULING", "RUNNING", "COMPLETED", "CANCELED", "ERROR", "DELETED"]
STAGES: tuple[JobStage, ...] = get_args(JobStage)
OVER = ("COMPLETED", "CANCELED", "ERROR", "DELETED")


def set_job_stage(root: Path, job: str, stage: JobStage, message: str | None = None) -> None:
    """Put a job in another stage, as a machine would that ran it. Works beside a running server."""
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}.")
    finished = now_ms() if stage in OVER else None
    with closing(Database(root / "hub.sqlite3")) as db, db.write() as con:
        done = con.execute(
            "UPDATE jobs SET stage=?, message=?, finished=? WHERE hex=?", (stage, message, finished, job)
        )
        if not done.rowcount:
            raise ValueError(f"there is no job {job!r} in {root}.")

"""Jobs and webhooks on the Hub: what is scheduled, what runs, what starts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import HubError
from hub_fusion.hub.calls import Calls

if TYPE_CHECKING:
    from hub_fusion.hub.client import Hub

ALIVE = ("RUNNING", "SCHEDULING")
LABEL = "hub-fusion"  # its value is the job's part


@dataclass(frozen=True)
class JobPlan:
    """A job as it is asked for; of secrets the names count, their values are known to who starts it."""

    part: str  # poll, fuse
    base: str
    image: str
    command: tuple[str, ...]
    flavor: str
    timeout: str
    environment: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ("HF_TOKEN",)

    @property
    def labels(self) -> dict[str, str]:
        """By which it is found again; a label holds no slash."""
        return {LABEL: self.part, "base": self.base.replace("/", "--")}

    def is_like(self, spec: Any) -> bool:
        """Whether the Hub's description of a job is of this one, apart from timeout and secrets' values."""
        same = (spec.docker_image, tuple(spec.command or ()), spec.environment or {}, spec.flavor)
        return same == (self.image, self.command, self.environment, self.flavor) and set(spec.secrets or ()) == set(
            self.secrets
        )


class Jobs:
    """The jobs of one account and the webhooks of the token's owner. Methods raise what those of `Hub` raise."""

    def __init__(self, hub: Hub, account: str, known: Mapping[str, str] | None = None) -> None:
        """`known` are the secrets that a plan may name besides the token in use."""
        self._api: Any = hub.api
        self._calls, self.account = Calls(hub.endpoint), account
        self._known: dict[str, str | None] = {"HF_TOKEN": hub.saved_token(), **(known or {})}

    def alive(self, plan: JobPlan) -> list[str]:
        """Ids of the jobs of this part that run or are about to."""
        found = self._calls.again(lambda: list(self._api.list_jobs(labels=plan.labels, namespace=self.account)))
        return [job.id for job in found if str(job.status.stage) in ALIVE]

    def start(self, plan: JobPlan) -> str:
        """Start it now; gives its id. Not sent twice: two jobs would be paid for."""
        job = self._calls.once(lambda: self._api.run_job(**self._arguments(plan)), self.account)
        return str(job.id)

    def scheduled(self, plan: JobPlan) -> list[Any]:
        """The schedules of this part."""
        return list(
            self._calls.again(lambda: self._api.list_scheduled_jobs(labels=plan.labels, namespace=self.account))
        )

    def schedule(self, plan: JobPlan, when: str) -> str:
        """Have it started by a cron expression, one at a time; gives the schedule's id."""
        arguments = self._arguments(plan) | {"schedule": when, "concurrency": False}
        return str(self._calls.once(lambda: self._api.create_scheduled_job(**arguments), self.account).id)

    def unschedule(self, id: str) -> None:
        """Forget a schedule."""
        self._calls.again(lambda: self._api.delete_scheduled_job(scheduled_job_id=id, namespace=self.account))

    def hooks(self, repo: str) -> list[Any]:
        """The webhooks that start a job when something happens to a model repository alone."""
        found = self._calls.again(lambda: list(self._api.list_webhooks()))
        return [h for h in found if h.job and [(w.type, w.name) for w in h.watched] == [("model", repo)]]

    def hook(self, repo: str, job: str, domains: list[str], plan: JobPlan) -> str:
        """Start a job like `job`, which `plan` is of, whenever something of `domains` happens to a model repository."""
        watched = [{"type": "model", "name": repo}]
        made = self._calls.once(lambda: self._api.create_webhook(job_id=job, watched=watched, domains=domains,
                                                                 secrets=self._secrets(plan)))  # fmt: skip
        return str(made.id)

    def unhook(self, id: str) -> None:
        """Forget a webhook."""
        self._calls.again(lambda: self._api.delete_webhook(id))

    def _secrets(self, plan: JobPlan) -> dict[str, str | None]:
        if lost := sorted(set(plan.secrets) - self._known.keys()):
            raise HubError(f"the Job {plan.part} needs {', '.join(lost)}: set it in the environment, or deploy without")
        return {name: self._known[name] for name in plan.secrets}

    def _arguments(self, plan: JobPlan) -> dict[str, Any]:
        return {"image": plan.image, "command": list(plan.command), "env": plan.environment, "flavor": plan.flavor,
                "secrets": self._secrets(plan), "timeout": plan.timeout, "labels": plan.labels,
                "namespace": self.account, "name": f"hub-fusion-{plan.part}"}  # fmt: skip

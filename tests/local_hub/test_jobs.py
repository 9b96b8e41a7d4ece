"""Jobs and schedules: read back as they were made, and nobody waits for what never runs."""

import json
import secrets
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest
from huggingface_hub import HfApi, JobStage, Volume, constants
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, JobNotFoundError

from hub_fusion.local_hub import LocalHub, add_member, add_user, collect, cron, fsck, serve, set_job_stage

from .conftest import found_on_disk

RUN = {"image": "python:3.12", "command": ["python", "-c", "print(1)"]}


def status_of(act) -> int:
    """The status a call is refused with."""
    with pytest.raises(HfHubHTTPError) as caught:
        act()
    return caught.value.response.status_code


def test_a_job_is_read_back_as_it_was_made(alice: HfApi, repo) -> None:
    """All that the client can send; secrets by name only."""
    job = alice.run_job(
        image="ghcr.io/lab/fusion:1",
        command=["hub-fusion", "run", "recipe.yaml"],
        env={"BASE": "alice/base"},
        secrets={"HF_TOKEN": "hf_s3cret"},
        flavor="a10g-large",
        timeout="2h",
        attempts=3,
        name="gen-1",
        labels={"base": "alice-base", "urgent": ""},
        volumes=[Volume(type="model", source=repo, mount_path="/base")],
        expose=[8000],
        expose_public=[9000],
        ssh=True,
        network_group="train",
        network_aliases=["master"],
    )
    assert job == alice.inspect_job(job_id=job.id) and job in list(alice.list_jobs(namespace="alice"))
    assert (job.docker_image, job.command, job.arguments) == (
        "ghcr.io/lab/fusion:1",
        ["hub-fusion", "run", "recipe.yaml"],
        [],
    )
    assert (job.environment, job.secrets, job.flavor) == ({"BASE": "alice/base"}, {"HF_TOKEN": "***"}, "a10g-large")
    assert job.labels == {"base": "alice-base", "urgent": "", "name": "gen-1"}
    assert [(v.source, v.mount_path, v.read_only) for v in job.volumes] == [(repo, "/base", True)]
    assert (job.expose, job.expose_public, job.retry) == ([8000, 9000], [9000], 2)
    assert (job.network.group, job.network.aliases) == ("train", ["master"])
    assert (job.owner.name, job.initiator.name, job.initiator.type) == ("alice", "alice", "user")
    assert job.url.endswith(f"/jobs/alice/{job.id}")


def test_nobody_waits_for_a_job(alice, python) -> None:
    """It is over when it is made, and says why, to programs and at the command line."""
    job = alice.run_job(**RUN)
    assert job.status.stage == JobStage.ERROR and "never runs" in job.status.message and job.finished_at
    assert alice.wait_for_job(job.id, timeout=1).status == job.status
    for follow in (False, True):
        assert ["never runs" in line for line in alice.fetch_job_logs(job_id=job.id, follow=follow)] == [True]
    assert len(list(alice.fetch_job_logs(job_id=job.id, tail=5, follow=True))) == 1
    assert (
        list(alice.fetch_job_metrics(job_id=job.id)) == list(alice.fetch_job_metrics(job_id=job.id, follow=True)) == []
    )
    script = """
import subprocess, sys
command = [sys.executable, "-m", "huggingface_hub.cli.hf", "jobs", "run", "python:3.12", "true"]
done = subprocess.run(command, capture_output=True, text=True, timeout=60)
print(done.returncode, done.stdout, done.stderr)
"""
    said = python(script, HF_TOKEN=alice.token)
    assert said.startswith("1 ") and "never runs" in said and "finished with stage 'ERROR'" in said


def test_lists_are_narrowed_by_stage_and_labels_in_pages(hub: LocalHub) -> None:
    """Newest first; every label must match. (The client asks another endpoint who it is unless it is told.)"""
    user = f"lister-{secrets.token_hex(4)}"
    api = HfApi(endpoint=hub.url, token=add_user(hub.root, user))
    ids = [api.run_job(**RUN, labels={"n": str(n % 2), "all": "1"}).id for n in range(105)]
    assert [job.id for job in api.list_jobs(namespace=user)] == ids[::-1]
    assert [job.id for job in api.list_jobs(namespace=user, labels={"n": "1", "all": "1"})] == ids[1::2][::-1]
    assert not list(api.list_jobs(namespace=user, labels={"n": "1", "all": "2"}))
    assert not list(api.list_jobs(namespace=user, status=["running", "SCHEDULING"]))
    api.cancel_job(job_id=ids[0])
    assert [job.id for job in api.list_jobs(namespace=user, status=JobStage.CANCELED)] == ids[:1]
    assert status_of(lambda: list(api.list_jobs(namespace=user, status="asleep"))) == 400


def test_a_job_can_be_cancelled_relabelled_and_made_again(alice) -> None:
    """What was changed is what is read back."""
    job = alice.run_job(**RUN, secrets={"S": "x"}, labels={"a": "1"})
    alice.cancel_job(job_id=job.id)
    alice.cancel_job(job_id=job.id)
    assert alice.wait_for_job(job.id).status.stage == JobStage.CANCELED
    assert alice.update_job_labels(job_id=job.id, labels={"b": "2"}).labels == {"b": "2"}
    assert alice.update_job_expose(job_id=job.id, expose=[80]).expose == [80]
    again = alice.rerun_job(job_id=job.id)
    assert (again.labels, again.secrets, again.command) == ({"b": "2"}, {"S": "***"}, job.command)
    assert (again.initiator.type, again.initiator.id) == ("duplicated-job", job.id) and again.id != job.id


def test_a_rehearsal_can_play_the_machine(hub: LocalHub, alice) -> None:
    """What waits for jobs can be tested with jobs that end as the test wants."""
    job = alice.run_job(**RUN)
    set_job_stage(hub.root, job.id, "RUNNING")
    running = alice.inspect_job(job_id=job.id)
    assert (running.status.stage, running.status.message, running.finished_at) == ("RUNNING", None, None)
    assert job.id in [item.id for item in alice.list_jobs(namespace="alice", status="RUNNING")]
    with pytest.raises(TimeoutError):
        alice.wait_for_job(job.id, timeout=0.1, poll_interval=0.05)
    set_job_stage(hub.root, job.id, "COMPLETED", "done")
    assert alice.wait_for_job(job.id, timeout=1).status.message == "done"
    alice.cancel_job(job_id=job.id)
    assert alice.inspect_job(job_id=job.id).status.stage == "COMPLETED"
    for wrong in ((job.id, "ASLEEP"), ("0" * 24, "RUNNING")):
        with pytest.raises(ValueError, match=r"stage must be|no job"):
            set_job_stage(hub.root, *wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"flavor": "abacus"}, {"command": "true"}, {"command": []}, {"command": [7]}, {"environment": {"1": "x"}},
     {"environment": {"A": 1}}, {"environment": []}, {"secrets": {"a b": "x"}}, {"timeoutSeconds": -1},
     {"timeoutSeconds": 2**70}, {"timeoutSeconds": True}, {"attempts": 0}, {"labels": {"a b": "x"}},
     {"labels": {"a": None}}, {"labels": {"name": "a b"}}, {"labels": {"a": "x" * 101}}, {"dockerImage": ""},
     {"dockerImage": None},
     {"spaceId": "alice/never-was"}, {"volumes": [{"type": "model", "source": "alice/never-was", "mountPath": "/m"}]},
     {"volumes": "x"}, {"expose": {"ports": [0]}}, {"expose": {"ports": [1], "portsPublic": [2]}}, {"expose": []},
     {"network": {}}, {"ssh": True}, {"gpu": "yes"}, {"command": ["\ud800"]}],
)  # fmt: skip
def test_a_wrong_job_is_refused_by_name(alice, raw, wrong) -> None:
    """And leaves nothing; so is a schedule of it."""
    before = [job.id for job in alice.list_jobs(namespace="alice")]
    body = {"command": ["true"], "dockerImage": "python:3.12", "flavor": "cpu-basic"} | wrong
    refused = raw("POST", "/api/jobs/alice", body, token=alice.token)
    assert refused.status in (400, 422) and refused.json["error"]
    scheduled = raw("POST", "/api/scheduled-jobs/alice", {"jobSpec": body, "schedule": "@daily"}, token=alice.token)
    assert scheduled.status == refused.status
    assert [job.id for job in alice.list_jobs(namespace="alice")] == before


def test_jobs_are_for_those_with_the_role_and_the_permission(hub: LocalHub, alice, bob, nobody) -> None:
    """Members see an organisation's jobs, writers start them, tokens need job.read or job.write."""
    org = f"org-{secrets.token_hex(4)}"
    add_user(hub.root, org, org=True)
    members = {}
    for role in ("read", "contributor", "write"):
        user = f"{role}-{secrets.token_hex(4)}"
        members[role] = HfApi(endpoint=hub.url, token=add_user(hub.root, user))
        add_member(hub.root, org, user, role=role)
    job = members["write"].run_job(**RUN, namespace=org)
    assert (job.owner.name, job.owner.type) == (org, "org")
    for role in ("read", "contributor"):
        assert members[role].inspect_job(job_id=job.id, namespace=org).id == job.id
        assert status_of(lambda api=members[role]: api.run_job(**RUN, namespace=org)) == 403
        assert status_of(lambda api=members[role]: api.cancel_job(job_id=job.id, namespace=org)) == 403
    assert status_of(lambda: bob.inspect_job(job_id=job.id, namespace=org)) == 403
    assert status_of(lambda: nobody.inspect_job(job_id=job.id, namespace=org)) == 401
    with pytest.raises(JobNotFoundError):
        alice.inspect_job(job_id=job.id)  # of another account
    assert status_of(lambda: alice.run_job(**RUN, namespace="never-was")) == 404

    def token(*permissions: str) -> HfApi:
        fine = add_user(hub.root, "alice", role="fineGrained", permissions={"alice": list(permissions)})
        return HfApi(endpoint=hub.url, token=fine)

    mine = token("job.write").run_job(**RUN)
    assert token("job.read").inspect_job(job_id=mine.id).id == mine.id
    assert status_of(lambda: token("job.read").run_job(**RUN)) == 403
    assert status_of(lambda: token("repo.write").inspect_job(job_id=mine.id)) == 403
    read = HfApi(endpoint=hub.url, token=add_user(hub.root, "alice", role="read"))
    assert read.inspect_job(job_id=mine.id) and status_of(lambda: read.cancel_job(job_id=mine.id)) == 403


def test_scripts_from_a_url_or_a_command_run_with_uv_and_local_ones_say_why_not(alice, tmp_path, monkeypatch) -> None:
    """The client uploads a local script to a bucket, which is not there."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_EXPERIMENTAL_WARNING", True)
    job = alice.run_uv_job("https://example.com/sft.py", dependencies=["trl"], script_args=["--x"], flavor="t4-small")
    assert job.command == ["uv", "run", "--with", "trl", "https://example.com/sft.py", "--x"]
    assert alice.run_uv_job("lighteval").labels["name"].startswith("lighteval-")
    script = tmp_path / "local.py"
    script.write_text("print(1)")
    with pytest.raises(HfHubHTTPError) as caught:
        alice.run_uv_job(str(script))
    assert caught.value.response.status_code == 501 and "Buckets are not served" in str(caught.value.server_message)


def test_a_space_can_be_the_image(alice) -> None:
    """By its name as the client spells it."""
    space = alice.create_repo(f"alice/i-{secrets.token_hex(4)}", repo_type="space", space_sdk="docker").repo_id
    job = alice.run_job(image=f"hf.co/spaces/{space}", command=["true"])
    assert (job.space_id, job.docker_image) == (space, None)


def test_a_schedule_is_made_read_back_changed_and_triggered(hub: LocalHub, alice) -> None:
    """Its next time is known; nothing happens then, until it is triggered by hand."""
    made = alice.create_scheduled_job(
        image="python:3.12",
        command=["hub-fusion", "watch", "--once"],
        schedule="30 4 * * mon",
        env={"BASE": "alice/base"},
        secrets={"HF_TOKEN": "hf_s3cret"},
        flavor="cpu-upgrade",
        timeout=600,
        attempts=2,
        concurrency=True,
        labels={"base": secrets.token_hex(4)},
    )
    spec = made.job_spec
    assert (made.schedule, made.suspend, made.concurrency, spec.timeout) == ("30 4 * * mon", False, True, 600)
    assert (spec.environment, spec.secrets, spec.retry) == ({"BASE": "alice/base"}, {"HF_TOKEN": "***"}, 1)
    assert (spec.flavor, spec.docker_image) == ("cpu-upgrade", "python:3.12")
    due = made.status.next_job_run_at
    assert due > datetime.now(UTC) and (due.weekday(), due.hour, due.minute) == (0, 4, 30)
    of = {"scheduled_job_id": made.id}
    assert alice.inspect_scheduled_job(**of) == made
    assert alice.list_scheduled_jobs(labels={"base": spec.labels["base"]}) == [made]
    assert made in alice.list_scheduled_jobs()
    alice.suspend_scheduled_job(**of)
    suspended = alice.inspect_scheduled_job(**of)
    assert suspended.suspend and suspended.status.next_job_run_at is None
    alice.resume_scheduled_job(**of)
    assert alice.inspect_scheduled_job(**of) == made
    assert alice.update_scheduled_job_schedule(schedule="@hourly", **of).schedule == "@hourly"
    assert alice.update_scheduled_job_labels(labels={"a": "b"}, **of).job_spec.labels == {"a": "b"}
    job = alice.trigger_scheduled_job(**of)
    assert (job.command, job.labels, job.secrets) == (
        ["hub-fusion", "watch", "--once"],
        {"a": "b"},
        {"HF_TOKEN": "***"},
    )
    assert (job.initiator.type, job.initiator.id) == ("scheduled-job", made.id)
    last = alice.inspect_scheduled_job(**of).status.last_job
    assert (last.id, last.at) == (job.id, job.created_at)
    alice.delete_scheduled_job(**of)
    with pytest.raises(JobNotFoundError):
        alice.inspect_scheduled_job(**of)
    assert alice.inspect_job(job_id=job.id) == job and fsck.check(hub.root, contents=False).faults == []


def test_a_schedule_starts_suspended_when_asked_and_is_refused_when_it_is_none(alice, bob) -> None:
    """With the expression in the sentence."""
    made = alice.create_scheduled_job(**RUN, schedule="@daily", suspend=True)
    assert made.suspend and made.status.next_job_run_at is None
    for wrong in ("@reboot", "* * * *", "61 * * * *", "* * 31 2 *", "*/0 * * * *", "x * * * *", "5-1 * * * *", ""):
        with pytest.raises(BadRequestError, match=r"cron|within|due|number"):
            alice.create_scheduled_job(**RUN, schedule=wrong)
    for act in (
        lambda: bob.inspect_scheduled_job(scheduled_job_id=made.id, namespace="alice"),
        lambda: bob.delete_scheduled_job(scheduled_job_id=made.id, namespace="alice"),
        lambda: bob.create_scheduled_job(**RUN, schedule="@daily", namespace="alice"),
    ):
        assert status_of(act) == 403
    alice.delete_scheduled_job(scheduled_job_id=made.id)


@pytest.mark.parametrize(
    ("schedule", "after", "due"),
    [
        ("@hourly", "2026-01-01 10:00", "2026-01-01 11:00"),
        ("@yearly", "2026-01-01 00:00", "2027-01-01 00:00"),
        ("@weekly", "2026-01-01 10:00", "2026-01-04 00:00"),
        ("*/15 * * * *", "2026-01-01 10:59", "2026-01-01 11:00"),
        ("5/20 * * * *", "2026-01-01 10:30", "2026-01-01 10:45"),
        ("0 9 * * 1", "2026-01-01 10:00", "2026-01-05 09:00"),
        ("0 9 * * 5-7", "2026-01-02 10:00", "2026-01-03 09:00"),
        ("0 0 1,15 * sun", "2026-01-02 10:00", "2026-01-04 00:00"),
        ("0 0 13 jan,mar *", "2026-01-13 00:00", "2026-03-13 00:00"),
        ("0 0 29 2 *", "2096-03-01 00:00", "2104-02-29 00:00"),
        ("30 4 31 * *", "2026-01-31 04:30", "2026-03-31 04:30"),
    ],
)
def test_the_next_time_of_a_schedule(schedule, after, due) -> None:
    """Worked out by hand; 2026-01-01 is a Thursday, and 2100 is no leap year."""
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    found = cron.next_run(schedule, int(moment.timestamp() * 1000))
    assert f"{datetime.fromtimestamp(found / 1000, UTC):%Y-%m-%d %H:%M}" == due


def test_hardware_is_listed_with_sizes_and_prices(alice) -> None:
    """Every flavor that the client knows by name, so that a cost can be worked out in a rehearsal."""
    listed = {flavor.name: flavor for flavor in alice.list_jobs_hardware()}
    assert set(listed) >= {"cpu-basic", "cpu-xl", "t4-small", "h200x8"}
    large = listed["a10g-large"]
    assert (large.accelerator.model, large.accelerator.quantity, large.unit_label) == ("A10G", "1", "minute")
    assert large.unit_cost_usd * 60 == pytest.approx(1.5) and listed["cpu-basic"].unit_cost_micro_usd == 167


def test_a_webhook_starts_a_job_like_the_one_it_was_given(alice, repo, raw) -> None:
    """With the event in its environment and without volumes; once more when the delivery is replayed."""
    volume = Volume(type="model", source=repo, mount_path="/m")
    source = alice.run_job(**RUN, env={"A": "1"}, secrets={"S": "x"}, volumes=[volume], labels={"w": repo[-8:]})
    watched = [{"type": "model", "name": repo}]
    hook = alice.create_webhook(job_id=source.id, watched=watched, domains=["repo"], secret="s3", secrets={"T": "y"})
    assert (hook.url, hook.job.command, hook.job.secrets) == (None, source.command, {"S": "***", "T": "***"})
    assert alice.get_webhook(hook.id) == hook
    alice.create_tag(repo, tag="v1")

    def started() -> list:
        return [job for job in alice.list_jobs(namespace="alice", labels={"w": repo[-8:]}) if job.id != source.id]

    (job,) = started()
    assert (job.command, job.volumes, job.initiator.type, job.initiator.id) == (
        RUN["command"],
        None,
        "webhook",
        hook.id,
    )
    assert job.secrets == {"S": "***", "T": "***", "WEBHOOK_SECRET": "***"}
    payload = json.loads(job.environment["WEBHOOK_PAYLOAD"])
    assert payload["updatedRefs"][0]["ref"] == "refs/tags/v1" and payload["webhook"]["id"] == hook.id
    assert (job.environment["A"], job.environment["WEBHOOK_REPO_ID"]) == ("1", repo)
    assert job.environment["WEBHOOK_REPO_TYPE"] == "model"
    path = f"/api/settings/webhooks/{hook.id}/deliveries"
    (delivery,) = raw("GET", path, token=alice.token).json
    assert (delivery["status"], delivery["id"]) == ("delivered", job.environment["WEBHOOK_ID"])
    assert raw("POST", f"{path}/{delivery['id']}/replay", token=alice.token).json["status"] == "delivered"
    assert len(started()) == 2
    moved = alice.update_webhook(hook.id, url="http://127.0.0.1:9/")
    assert (moved.url, moved.job) == ("http://127.0.0.1:9/", None)
    back = alice.update_webhook(hook.id, job_id=source.id)
    assert (back.url, back.job.secrets) == (None, {"S": "***"})
    alice.delete_webhook(hook.id)


def test_a_webhook_starts_only_jobs_that_its_owner_may_start(hub: LocalHub, alice, bob, raw, repo) -> None:
    """When it is made, and still when it is triggered."""
    org, user = f"org-{secrets.token_hex(4)}", f"w-{secrets.token_hex(4)}"
    add_user(hub.root, org, org=True)
    member = HfApi(endpoint=hub.url, token=add_user(hub.root, user))
    add_member(hub.root, org, user)
    job = member.run_job(**RUN, namespace=org)
    watched = [{"type": "model", "name": repo}]
    assert status_of(lambda: bob.create_webhook(job_id=job.id, watched=watched)) == 404
    assert status_of(lambda: bob.create_webhook(job_id="0" * 24, watched=watched)) == 404
    hook = member.create_webhook(job_id=job.id, watched=watched)
    add_member(hub.root, org, user, role="read")
    alice.create_tag(repo, tag="v2")
    (delivery,) = raw("GET", f"/api/settings/webhooks/{hook.id}/deliveries", token=member.token).json
    assert delivery["status"] == "failed" and "may not start" in delivery["error"]
    assert [item.id for item in member.list_jobs(namespace=org)] == [job.id]
    body = {"watched": watched, "url": "http://127.0.0.1:9/"}
    for wrong in ({"jobSourceId": job.id}, {"secrets": {"A": "x"}}, {"url": None}):
        assert raw("POST", "/api/settings/webhooks", body | wrong, token=member.token).status == 400


def test_the_value_of_a_secret_of_a_job_is_nowhere_on_the_disk(hub: LocalHub, alice, repo) -> None:
    """Nor of a schedule or a webhook that starts a job."""
    value = f"s3cret-{secrets.token_hex(8)}"
    job = alice.run_job(**RUN, secrets={"S": value})
    made = alice.create_scheduled_job(**RUN, secrets={"S": value}, schedule="@daily")
    watched = [{"type": "model", "name": repo}]
    hook = alice.create_webhook(job_id=job.id, watched=watched, secrets={"T": value})
    assert not found_on_disk(hub.root, value) and found_on_disk(hub.root, job.id)
    alice.delete_webhook(hook.id)
    alice.delete_scheduled_job(scheduled_job_id=made.id)


def test_fsck_tells_of_records_that_cannot_be_read(tmp_path) -> None:
    """And gc leaves jobs and Spaces alone."""
    token = add_user(tmp_path, "alice")
    with serve(tmp_path) as hub:
        api = HfApi(endpoint=hub.url, token=token)
        job = api.run_job(**RUN)
        api.create_repo("alice/s", repo_type="space", space_sdk="gradio", space_secrets=[{"key": "S", "value": "x"}])
        collect.collect(tmp_path, grace_s=0, history=True)
        assert api.inspect_job(job_id=job.id) == job and list(api.get_space_secrets("alice/s")) == ["S"]
    assert fsck.check(tmp_path).faults == []
    with closing(sqlite3.connect(tmp_path / "hub.sqlite3")) as con:
        con.execute("UPDATE jobs SET spec='{'")
        con.execute("UPDATE space_values SET value='x'")
        con.commit()
    assert [job.id in fault or "secret S" in fault for fault in fsck.check(tmp_path).faults] == [True, True]

"""Jobs and schedules. Only here: elsewhere they run and cost money. A suspended schedule costs nothing anywhere."""

import secrets

import pytest
from huggingface_hub.errors import JobNotFoundError

RUN = {"image": "python:3.12", "command": ["python", "-c", "print(1)"]}


@pytest.fixture
def label() -> dict[str, str]:
    """What is looked for among the account's other jobs."""
    return {"hub-fusion-conformance": secrets.token_hex(4)}


def test_a_job_is_found_by_its_label_and_ends(place, only_here, label) -> None:
    """Whatever the end is."""
    job = place.api.run_job(**RUN, env={"A": "1"}, timeout=60, labels=label, namespace=place.account)
    assert [found.id for found in place.api.list_jobs(labels=label, namespace=place.account)] == [job.id]
    found = place.api.inspect_job(job_id=job.id, namespace=place.account)
    assert (found.command, found.environment, found.docker_image) == (RUN["command"], {"A": "1"}, "python:3.12")
    list(place.api.fetch_job_logs(job_id=job.id, follow=True, namespace=place.account))
    assert place.api.wait_for_job(job.id, timeout=300, namespace=place.account).finished_at


def test_a_suspended_schedule_is_kept_until_it_is_deleted(place, label) -> None:
    """It is read back as it was made."""
    api, name = place.api, place.account
    made = api.create_scheduled_job(**RUN, schedule="@yearly", suspend=True, labels=label, namespace=name)
    of = {"scheduled_job_id": made.id, "namespace": name}
    try:
        assert made.suspend and made.job_spec.command == RUN["command"]
        assert [found.id for found in api.list_scheduled_jobs(labels=label, namespace=name)] == [made.id]
        assert api.update_scheduled_job_schedule(schedule="0 9 1 1 *", **of).schedule == "0 9 1 1 *"
        assert api.inspect_scheduled_job(**of).suspend
    finally:
        api.delete_scheduled_job(**of)
    with pytest.raises(JobNotFoundError):
        api.inspect_scheduled_job(**of)

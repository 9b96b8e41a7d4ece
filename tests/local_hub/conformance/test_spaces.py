"""Spaces that cost nothing: no machine is asked for, and one without an app file is never built."""

import pytest


@pytest.fixture
def space(new_repo) -> str:
    """A private Gradio Space without files."""
    return new_repo("space", space_sdk="gradio")


def test_a_new_space_has_no_app_and_asks_for_no_more_than_the_free_machine(place, space) -> None:
    """And nobody needs to wait for it."""
    runtime = place.api.get_space_runtime(space)
    assert runtime.stage in ("NO_APP_FILE", "BUILDING") and runtime.hardware in (None, "cpu-basic")
    assert place.api.wait_for_space(space, timeout=120).stage == "NO_APP_FILE"
    info = place.api.space_info(space)
    assert info.sdk == "gradio" and info.runtime.stage == "NO_APP_FILE" and info.subdomain


def test_variables_are_shown_and_secrets_are_named(place, space) -> None:
    """Removing what is not there is no error."""
    api = place.api
    api.add_space_secret(space, "TOKEN", "s3cret", description="d")
    api.add_space_secret(space, "TOKEN", "other")
    shown = api.add_space_variable(space, "BASE", "ns/base", description="watched")
    assert (shown["BASE"].value, shown["BASE"].description) == ("ns/base", "watched")
    assert list(api.get_space_secrets(space)) == ["TOKEN"] and list(api.get_space_variables(space)) == ["BASE"]
    api.delete_space_secret(space, "TOKEN")
    api.delete_space_secret(space, "missing")
    assert api.delete_space_variable(space, "missing").keys() == {"BASE"}
    assert api.delete_space_variable(space, "BASE") == api.get_space_secrets(space) == {}


def test_a_duplicate_has_the_head_of_its_source(place, new_repo, push) -> None:
    """And its visibility."""
    source = new_repo()
    head = push(source, {"README.md": b"---\nlicense: mit\n---\n# a\n"})
    copy = f"{source}-copy"
    try:
        assert place.api.duplicate_repo(source, copy).repo_id == copy
        info = place.api.model_info(copy)
        assert (info.sha, info.private) == (head, True)
    finally:
        place.api.delete_repo(copy, missing_ok=True)


def test_machines_are_asked_for_and_given_back(place, space, only_here) -> None:
    """Only here: elsewhere they cost money."""
    asked = place.api.request_space_hardware(space, "t4-small", sleep_time=300)
    assert (asked.requested_hardware, asked.sleep_time) == ("t4-small", 300)
    assert place.api.pause_space(space).stage == "PAUSED"
    assert place.api.restart_space(space).stage != "PAUSED"
    assert place.api.request_space_hardware(space, "cpu-basic").requested_hardware == "cpu-basic"

"""Spaces: what is set on them is kept, and nothing about them pretends to run."""

import secrets

import pytest
from huggingface_hub import HfApi, SpaceHardware, SpaceStage, Volume
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hub_fusion.local_hub import LocalHub, fsck

from .conftest import found_on_disk

APP = b"import gradio\n"


def status_of(act) -> int:
    """The status a call is refused with."""
    with pytest.raises(HfHubHTTPError) as caught:
        act()
    return caught.value.response.status_code


@pytest.fixture
def space(alice: HfApi) -> str:
    """A new Gradio Space of alice's without an app file."""
    return alice.create_repo(f"alice/s-{secrets.token_hex(4)}", repo_type="space", space_sdk="gradio").repo_id


def upload(api: HfApi, space: str, path: str, content: bytes) -> None:
    """One file."""
    api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=space, repo_type="space")


def test_all_that_a_space_is_made_with_is_kept(alice, repo) -> None:
    """In one request; the client leaves out what was not given."""
    volume = Volume(type="model", source=repo, mount_path="/model")
    name = alice.create_repo(
        f"alice/s-{secrets.token_hex(4)}",
        repo_type="space",
        space_sdk="docker",
        space_hardware=SpaceHardware.T4_SMALL,
        space_sleep_time=300,
        space_secrets=[{"key": "TOKEN", "value": "hf_s3cret", "description": "to write"}],
        space_variables=[{"key": "BASE", "value": "alice/base", "description": "watched"}],
        space_volumes=[volume],
    ).repo_id
    runtime = alice.get_space_runtime(name)
    assert (runtime.hardware, runtime.requested_hardware, runtime.sleep_time) == (None, "t4-small", 300)
    assert [(v.type, v.source, v.mount_path, v.read_only) for v in runtime.volumes] == [("model", repo, "/model", True)]
    variable = alice.get_space_variables(name)["BASE"]
    assert (variable.value, variable.description) == ("alice/base", "watched") and variable.updated_at
    secret = alice.get_space_secrets(name)["TOKEN"]
    assert secret.description == "to write" and secret.updated_at and not hasattr(secret, "value")


def test_a_wrong_setting_makes_no_space(alice, nobody, raw) -> None:
    """The request is one transaction."""
    name = f"alice/s-{secrets.token_hex(4)}"
    for wrong in (
        {"space_hardware": "abacus"},
        {"space_sleep_time": 0},
        {"space_secrets": [{"key": "not a name", "value": "x"}]},
        {"space_variables": [{"key": "A"}]},
        {"space_volumes": [Volume(type="model", source="alice/never-was", mount_path="/m")]},
        {"space_volumes": [Volume(type="bucket", source="alice/b", mount_path="/m")]},
    ):
        status = 501 if "bucket" in str(wrong) else 400
        assert status_of(lambda w=wrong: alice.create_repo(name, repo_type="space", space_sdk="gradio", **w)) == status
    for sdk in ("flask", None, ["gradio"], {}):
        body = {"type": "space", "name": name.partition("/")[2], "sdk": sdk}
        assert raw("POST", "/api/repos/create", body, token=alice.token).status == 400
    assert not nobody.repo_exists(name, repo_type="space")


def test_the_value_of_a_secret_is_nowhere_on_the_disk(hub: LocalHub, alice, bob, nobody, space) -> None:
    """Nothing here runs that would need it. Its name is for those who may write."""
    value = f"s3cret-{secrets.token_hex(8)}"
    alice.add_space_secret(space, "TOKEN", value, description="d")
    assert not found_on_disk(hub.root, value) and found_on_disk(hub.root, space)
    assert list(alice.get_space_secrets(space)) == ["TOKEN"]
    assert status_of(lambda: bob.get_space_secrets(space)) == 403
    assert status_of(lambda: nobody.get_space_secrets(space)) == 401
    assert status_of(lambda: bob.add_space_secret(space, "A", "b")) == 403


def test_values_are_changed_and_removed_by_name(alice, nobody, space) -> None:
    """Removing what is not there is no error. Variables are public."""
    alice.add_space_variable(space, "A", "1", description="first")
    alice.add_space_variable(space, "B", "2")
    shown = alice.add_space_variable(space, "A", "3")
    assert {key: (v.value, v.description) for key, v in shown.items()} == {"A": ("3", None), "B": ("2", None)}
    assert alice.delete_space_variable(space, "A").keys() == nobody.get_space_variables(space).keys() == {"B"}
    alice.delete_space_variable(space, "missing")
    alice.add_space_secret(space, "S", "x")
    alice.delete_space_secret(space, "S")
    alice.delete_space_secret(space, "S")
    assert alice.get_space_secrets(space) == {}
    assert status_of(lambda: alice.add_space_variable(space, "1A", "x")) == 400


def test_webhooks_are_told_of_variables_and_of_the_names_of_secrets(alice, raw, space) -> None:
    """Never of what is secret."""
    hook = alice.create_webhook(url="http://127.0.0.1:9/", watched=[{"type": "space", "name": space}])
    alice.add_space_variable(space, "A", "1")
    alice.add_space_secret(space, "S", "s3cret")
    alice.delete_space_variable(space, "A")
    alice.delete_space_variable(space, "missing")
    told = raw("GET", f"/api/settings/webhooks/{hook.id}/deliveries", token=alice.token).json[::-1]
    assert {item["payload"]["event"]["scope"] for item in told} == {"repo.config"}
    config = [item["payload"]["updatedConfig"] for item in told]
    assert config == [{"variables": {"A": "1"}}, {"secrets": ["S"]}, {"variables": {"A": None}}]
    alice.delete_webhook(hook.id)


@pytest.mark.parametrize(
    ("sdk", "card", "file", "stage"),
    [
        ("gradio", "", None, "NO_APP_FILE"),
        ("gradio", "", "app.py", "STOPPED"),
        ("gradio", "app_file: main.py", "app.py", "NO_APP_FILE"),
        ("gradio", "app_file: main.py", "main.py", "STOPPED"),
        ("gradio", "sdk: docker", "Dockerfile", "STOPPED"),
        ("docker", "", "app.py", "NO_APP_FILE"),
        ("static", "", "index.html", "STOPPED"),
        ("gradio", "a: [", "app.py", "CONFIG_ERROR"),
    ],
)
def test_the_stage_says_why_nothing_runs(alice, raw, sdk, card, file, stage) -> None:
    """And is one at which clients stop waiting."""
    name = alice.create_repo(f"alice/s-{secrets.token_hex(4)}", repo_type="space", space_sdk=sdk).repo_id
    if card:
        path = f"/api/spaces/{name}/commit/main"
        lines = b'{"key":"header","value":{"summary":"s"}}\n'
        lines += b'{"key":"file","value":{"path":"README.md","content":"---\\n%s\\n---\\n","encoding":"utf-8"}}' % (
            card.encode()
        )
        assert raw("POST", path, lines, token=alice.token).status == 200
    if file:
        upload(alice, name, file, APP)
    runtime = alice.wait_for_space(name, timeout=1)
    assert runtime.stage == stage and runtime.raw["errorMessage"]
    assert alice.space_info(name).runtime.stage == stage
    assert list(alice.fetch_space_logs(name)) == list(alice.fetch_space_logs(name, build=True, follow=True)) == []


def test_a_variable_and_a_secret_of_one_name_are_an_error_of_the_space(alice, space) -> None:
    """The app would see one of them."""
    upload(alice, space, "app.py", APP)
    alice.add_space_variable(space, "A", "1")
    alice.add_space_secret(space, "A", "1")
    runtime = alice.get_space_runtime(space)
    assert runtime.stage == "CONFIG_ERROR" and "A" in runtime.raw["errorMessage"]


def test_machine_sleep_pause_and_dev_mode(alice, bob, nobody, space) -> None:
    """Each answers with the state as it is then; a free machine sleeps when it sleeps."""
    upload(alice, space, "app.py", APP)
    before = nobody.get_space_runtime(space)
    assert (before.requested_hardware, before.sleep_time, before.dev_mode) == ("cpu-basic", 172_800, False)
    assert alice.request_space_hardware(space, SpaceHardware.A10G_SMALL, sleep_time=600).sleep_time == 600
    assert alice.set_space_sleep_time(space, -1).sleep_time == -1
    assert alice.pause_space(space).stage == SpaceStage.PAUSED
    assert alice.get_space_runtime(space).requested_hardware == "a10g-small"
    assert alice.restart_space(space, factory_reboot=True).stage == SpaceStage.STOPPED
    assert alice.enable_space_dev_mode(space).dev_mode and not alice.disable_space_dev_mode(space).dev_mode
    for act in (
        lambda: alice.request_space_hardware(space, "abacus"),
        lambda: alice.set_space_sleep_time(space, 0),
        lambda: alice.set_space_sleep_time(space, 2**70),
    ):
        assert status_of(act) == 400
    for act in (
        lambda: bob.pause_space(space),
        lambda: bob.request_space_hardware(space, "cpu-upgrade"),
        lambda: list(bob.fetch_space_logs(space)),
    ):
        assert status_of(act) == 403
    with pytest.warns(UserWarning, match="48 hours"):
        alice.request_space_hardware(space, SpaceHardware.CPU_BASIC, sleep_time=60)
    assert alice.get_space_runtime(space).sleep_time == 172_800


def test_a_static_space_has_no_machine(alice) -> None:
    """There is nothing to size, pause or wait for."""
    name = alice.create_repo(f"alice/s-{secrets.token_hex(4)}", repo_type="space", space_sdk="static").repo_id
    assert alice.get_space_runtime(name).requested_hardware is None
    assert status_of(lambda: alice.request_space_hardware(name, "t4-small")) == 400
    assert status_of(lambda: alice.pause_space(name)) == 400


def test_volumes_are_repositories_that_the_owner_sees(alice, bob, repo, space) -> None:
    """Set all at once, and removed."""
    hidden = bob.create_repo(f"bob/h-{secrets.token_hex(4)}", private=True).repo_id
    alice.set_space_volumes(space, [Volume(type="model", source=repo, mount_path="/m", revision="main", path="sub")])
    (volume,) = alice.get_space_runtime(space).volumes
    assert (volume.revision, volume.path, volume.read_only) == ("main", "sub", True)
    for wrong in (
        Volume(type="model", source=hidden, mount_path="/m"),
        Volume(type="model", source=repo, mount_path="m"),
        Volume(type="model", source=repo, mount_path="/../etc"),
        Volume(type="model", source=repo, mount_path="/m", read_only=False),
        Volume(type="place", source=repo, mount_path="/m"),
    ):
        assert status_of(lambda w=wrong: alice.set_space_volumes(space, [w])) == 400
    two = [Volume(type="model", source=repo, mount_path="/m")] * 2
    assert status_of(lambda: alice.set_space_volumes(space, two)) == 400
    assert (
        status_of(
            lambda: alice.set_space_volumes(space, [Volume(type="model", source=repo, mount_path="/m", revision="no")])
        )
        == 404
    )
    alice.delete_space_volumes(space)
    assert not alice.get_space_runtime(space).volumes


def test_spaces_and_what_they_use_know_of_each_other(alice, bob, repo, space) -> None:
    """By the card. A private Space does not show with the model."""
    data = alice.create_repo(f"alice/d-{secrets.token_hex(4)}", repo_type="dataset").repo_id
    card = f"---\nsdk: gradio\nmodels: [{repo}]\ndatasets: {data}\n---\n".encode()
    upload(alice, space, "README.md", card)
    info = alice.space_info(space)
    assert (info.models, info.datasets, info.sdk) == ([repo], [data], "gradio")
    assert info.subdomain == space.replace("/", "-") and info.host is None
    assert alice.model_info(repo).spaces == [space]
    assert alice.dataset_info(data).__dict__["spaces"] == [space]
    for found in (
        alice.list_spaces(models=repo),
        alice.list_spaces(datasets=[data]),
        alice.list_spaces(models=repo, datasets=data, linked=True),
    ):
        assert [item.id for item in found] == [space]
    assert not list(alice.list_spaces(models="alice/other"))
    (item,) = alice.list_spaces(models=repo, expand=["runtime", "models", "sdk", "subdomain"])
    assert item.runtime.stage == "NO_APP_FILE" and item.models == [repo]
    (item,) = alice.list_spaces(models=repo, full=True)
    assert item.runtime.stage == "NO_APP_FILE" and item.datasets == [data]
    alice.update_repo_settings(space, private=True, repo_type="space")
    assert bob.model_info(repo).spaces == [] and alice.model_info(repo).spaces == [space]


def test_hardware_is_listed_with_all_the_client_knows(alice) -> None:
    """For Spaces; the free machine costs nothing."""
    listed = {flavor.name: flavor for flavor in alice.list_spaces_hardware()}
    assert set(listed) == {flavor.value for flavor in SpaceHardware}
    assert listed["cpu-basic"].unit_cost_usd == 0 and listed["t4-small"].accelerator.model == "T4"


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_duplicate_has_the_history_and_goes_its_own_way(hub, alice, bob, kind, tmp_path) -> None:
    """Commits, branches and tags; not discussions. What is led to by nothing stays behind."""
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    name = alice.create_repo(f"alice/o-{secrets.token_hex(4)}", repo_type=kind, **sdk).repo_id
    put = {"repo_id": name, "repo_type": kind}
    alice.upload_file(path_or_fileobj=b"gone", path_in_repo="secret.bin", **put)
    alice.super_squash_history(name, repo_type=kind)
    alice.delete_file("secret.bin", **put)
    alice.super_squash_history(name, repo_type=kind)
    alice.upload_file(path_or_fileobj=secrets.token_bytes(2000), path_in_repo="m.bin", **put)
    alice.create_tag(name, tag="v1", tag_message="first", repo_type=kind)
    alice.create_branch(name, branch="dev", repo_type=kind)
    alice.create_discussion(name, "t", description="d", repo_type=kind)
    copy = bob.duplicate_repo(name, f"bob/c-{secrets.token_hex(4)}", repo_type=kind)
    assert copy.files_copy_pending is False and copy.repo_type == kind
    of = {"repo_type": kind}
    assert bob.repo_info(copy.repo_id, **of).sha == alice.repo_info(name, **of).sha
    assert [c.commit_id for c in bob.list_repo_commits(copy.repo_id, **of)] == [
        c.commit_id for c in alice.list_repo_commits(name, **of)
    ]
    refs = bob.list_repo_refs(copy.repo_id, **of)
    assert ({b.name for b in refs.branches}, [t.name for t in refs.tags]) == ({"main", "dev"}, ["v1"])
    assert not list(bob.get_repo_discussions(copy.repo_id, **of))
    alice.delete_repo(name, repo_type=kind)
    bob.hf_hub_download(copy.repo_id, "m.bin", revision="v1", cache_dir=tmp_path, **of)
    bob.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=copy.repo_id, **of)
    assert fsck.check(hub.root).faults == []


def test_a_duplicate_of_a_space_has_its_variables_and_no_secrets(alice, bob, space) -> None:
    """And what it was given itself, on the free machine."""
    upload(alice, space, "app.py", APP)
    alice.add_space_variable(space, "A", "1")
    alice.add_space_variable(space, "B", "2")
    alice.add_space_secret(space, "S", "x")
    alice.request_space_hardware(space, "t4-small")
    copy = bob.duplicate_repo(space, repo_type="space", space_variables=[{"key": "B", "value": "3"}]).repo_id
    assert copy == f"bob/{space.partition('/')[2]}"
    assert {key: v.value for key, v in bob.get_space_variables(copy).items()} == {"A": "1", "B": "3"}
    runtime = bob.get_space_runtime(copy)
    assert bob.get_space_secrets(copy) == {} and (runtime.requested_hardware, runtime.stage) == ("cpu-basic", "STOPPED")
    assert status_of(lambda: bob.duplicate_repo(space, copy, repo_type="space")) == 409
    assert bob.duplicate_repo(space, copy, repo_type="space", exist_ok=True).repo_id == copy


def test_who_may_not_read_may_not_duplicate(alice, bob, nobody, repo) -> None:
    """A duplicate would read for them. It is as private and as gated as its source unless it is asked for otherwise."""
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo)
    alice.update_repo_settings(repo, gated="manual")
    target = f"bob/{secrets.token_hex(4)}"
    assert status_of(lambda: bob.duplicate_repo(repo, target)) == 403
    assert status_of(lambda: nobody.duplicate_repo(repo, target)) == 401
    assert status_of(lambda: bob.duplicate_repo(repo, "alice/mine-now")) == 403
    alice.grant_access(repo, "bob")
    assert bob.model_info(bob.duplicate_repo(repo, target).repo_id).gated == "manual"
    alice.update_repo_settings(repo, private=True)
    with pytest.raises(RepositoryNotFoundError):
        bob.duplicate_repo(repo, f"{target}-b")
    assert alice.model_info(alice.duplicate_repo(repo, f"{repo}-c").repo_id).private is True
    assert alice.model_info(alice.duplicate_repo(repo, f"{repo}-d", private=False).repo_id).private is False


def test_what_is_set_goes_with_the_space(hub, alice, space) -> None:
    """Along when it is renamed, away when it is deleted."""
    alice.add_space_variable(space, "A", "1")
    alice.pause_space(space)
    alice.move_repo(space, f"{space}-b", repo_type="space")
    assert alice.get_space_runtime(space).stage == "PAUSED" and list(alice.get_space_variables(f"{space}-b")) == ["A"]
    alice.delete_repo(f"{space}-b", repo_type="space")
    alice.create_repo(f"{space}-b", repo_type="space", space_sdk="gradio")
    assert not alice.get_space_variables(f"{space}-b") and fsck.check(hub.root, contents=False).faults == []


def test_what_needs_a_running_app_says_so(alice, space, raw) -> None:
    """501 with a reason, and only Spaces have what Spaces have."""
    assert list(alice.list_space_templates()) == []
    for act in (
        lambda: list(alice.search_spaces("a picture")),
        lambda: alice.upload_file(
            path_or_fileobj=APP, path_in_repo="app.py", repo_id=space, repo_type="space", _hot_reload=True
        ),
    ):
        assert status_of(act) == 501
    assert raw("GET", "/api/models/alice/x/runtime").status == 404
    for body in (b"[]", b"{", b'{"seconds": true}', b'{"flavor": {}}', b'{"enabled": 1}', b'{"volumes": {}}'):
        for route in ("hardware", "sleeptime", "dev-mode"):
            assert raw("POST", f"/api/spaces/{space}/{route}", body, token=alice.token).status in (200, 400)
        assert raw("PUT", f"/api/spaces/{space}/volumes", body, token=alice.token).status in (400,)

"""Every generation names whose work is in it, and keeps the notices that came with that work and the base's own."""

from __future__ import annotations

from huggingface_hub import CommitOperationAdd
from hypothesis import given
from hypothesis import strategies as st

from hub_fusion.publish.notices import FILE_BYTES, LIST_BYTES, notice_files, render_notice
from hub_fusion.publish.rollback import roll_back
from hub_fusion.publish.state import open_base
from hub_fusion.records import Credit

from .world import AUTHORS, BASE, World

LICENSE = "MIT License\n\nCopyright (c) 2026 Acme\n"
SHA = "0123456789abcdef0123456789abcdef01234567"


def beside(world: World, author: str, **files: bytes) -> str:
    """Put files beside the author's weights; gives the commit."""
    added = [CommitOperationAdd(name.replace("__", "."), data) for name, data in files.items()]
    return world.client(author).commit(f"{author}/finetune", added, "Files")


def kept(world: World, revision: str = "main") -> list[str]:
    hub = world.maintainer
    return sorted(p for p in hub.files(BASE, hub.resolve(BASE, revision)) if p.startswith("fusion/notices/"))


def test_a_generation_names_all_and_keeps_what_came_with_them(empty: World) -> None:
    """The base's own texts stay as they are through generations, strangers' are kept as text, and nothing else is."""
    empty.commit({"LICENSE": LICENSE, "NOTICE": "Acme's own notice\n"})
    empty.contribute_all(seed=1)
    hostile = "Made by Änn\r\n<script>x</script>\u202e\x1b[2J\n"
    ann = beside(empty, "ann", NOTICE=hostile.encode(), LICENSE=b"Apache")
    beside(empty, "bob", NOTICE=b"\xff\xfe\x00binary", notice__md=b"# Bob's")
    beside(empty, "cem", NOTICE=b"x" * (FILE_BYTES + 1), NOTICE__exe=b"MZ")
    said: list[str] = []
    assert empty.run(say=said.append).status == "published"
    notice = empty.text("fusion/NOTICE")
    for author in AUTHORS:
        assert f"gen-1: {author}/finetune by {author}, apache-2.0, {empty.hub.url}/{author}/finetune/tree/" in notice
    assert f"/ann/finetune/tree/{ann}" in notice
    of_ann, of_bob = kept(empty)
    assert of_ann == f"fusion/notices/ann--finetune-{ann[:12]}-NOTICE"
    assert of_bob.endswith("-notice-md") and empty.text(of_bob).endswith("# Bob's\n")
    shown = "Made by Änn\n<script>x</script>[2J\n"
    assert empty.text(of_ann) == f"From {empty.hub.url}/ann/finetune/blob/{ann}/NOTICE\n\n{shown}"
    assert any("bob/finetune/NOTICE is not kept: it is not UTF-8" in text for text in said)
    assert any("cem/finetune/NOTICE is not kept: it has 50001 bytes" in text for text in said)
    assert (empty.text("LICENSE"), empty.text("NOTICE")) == (LICENSE, "Acme's own notice\n")
    assert "`fusion/NOTICE` names all that went into this lineage" in empty.text("README.md")

    empty.contribute_all(seed=20)
    assert empty.run().status == "published"
    second = empty.text("fusion/NOTICE")
    assert second.count("gen-1: ") == second.count("gen-2: ") == len(AUTHORS)
    assert {of_ann, of_bob} < set(kept(empty)) and empty.text("LICENSE") == LICENSE
    hub = empty.maintainer
    roll_back(hub, open_base(hub, BASE), 2, "Worse.")
    assert empty.text("fusion/NOTICE") == notice, "it names what main has"
    roll_back(hub, open_base(hub, BASE), 1, "Worse.")
    assert "fusion/NOTICE" not in hub.files(BASE, "main") and empty.text("LICENSE") == LICENSE


def test_the_roots_notices_are_kept_once_and_a_contribution_that_is_gone_is_named(empty: World) -> None:
    """A root's licence binds all generations; whoever deletes a repository after the screen stops no publication."""
    dora = empty.client("dora")
    dora.create_repo("dora/root")
    files = {"LICENSE": LICENSE, "README.md": "---\nlicense: apache-2.0\n---\n"}
    dora.commit("dora/root", [CommitOperationAdd(name, text.encode()) for name, text in files.items()], "Licence")
    empty.commit({"LICENSE": "ours"})
    empty.contribute_all(seed=1)

    def say(text: str) -> None:
        if text.startswith("publishing"):
            empty.client("eve").api.delete_repo("eve/finetune")

    assert empty.run(empty.recipe(root="dora/root"), say=say).status == "published"
    assert "Made from dora/root" in empty.text("fusion/NOTICE") and "eve/finetune by eve" in empty.text("fusion/NOTICE")
    assert kept(empty) == ["fusion/notices/dora--root-root-LICENSE"]
    assert empty.text("LICENSE") == "ours" and empty.text(kept(empty)[0]).endswith(LICENSE)


def test_nothing_of_a_private_repository_is_published(ready: World) -> None:
    """Whoever writes a record could else have the maintainer's token read what only the maintainer may."""
    hub = ready.maintainer
    assert ready.run().status == "published"
    state, said = open_base(hub, BASE), list[str]()
    hub.create_repo("acme/secret", private=True)
    sha = hub.commit("acme/secret", [CommitOperationAdd("NOTICE", b"of nobody's concern")], "Secret")
    credit = Credit(repo="acme/secret", sha=sha, relation="finetune", author="acme")
    record = ready.record(1).model_copy(update={"contributions": (credit,), "generation": 2})
    files = notice_files(hub, state, record, {}, said.append)
    assert set(files) == {"fusion/NOTICE"} and "gen-2: acme/secret" in files["fusion/NOTICE"]
    assert said == [
        "notices of acme/secret are not kept: it is private or gated, and the base's readers would see them"
    ]
    hub.api.update_repo_settings("acme/secret", private=False)
    assert len(notice_files(hub, state, record, {}, said.append)) == 2


@given(st.text(), st.text(), st.text())
def test_no_name_makes_a_line_of_its_own(repo: str, author: str, license: str) -> None:
    """One line each, printable, whatever was written into cards."""
    credit = Credit(repo=repo, sha=SHA, relation="finetune", author=author, license=license)
    text = render_notice("a/b", "c/d", [(3, credit)], "https://hub.example")
    lines = text.splitlines()
    assert len(lines) == 7 and lines[-1].startswith("gen-3: ") and len(lines[-1]) < 700
    assert all(line.isprintable() for line in lines)


def test_a_long_list_names_the_newest_and_says_where_the_others_are() -> None:
    credits = [
        (n, Credit(repo=f"a{n}/{'m' * 90}", sha=SHA, relation="finetune", author=f"a{n}", license="mit"))
        for n in range(1, 9000)
    ]
    text = render_notice("a/b", None, credits, "https://hub.example")
    assert LIST_BYTES * 0.99 < len(text.encode()) < LIST_BYTES
    assert "gen-8999: " in text and "gen-1: " not in text
    told, listed = text.count("gen-") - 1, [line for line in text.splitlines() if line.startswith("gen-")]
    assert f"{8999 - len(listed)} older ones are named in the records" in text and told >= len(listed)

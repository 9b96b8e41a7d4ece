"""Base models that were renamed: their children's tags and links follow, though their cards keep the old name."""

import sqlite3

from hub_fusion.local_hub.cards import RELATIONS
from hub_fusion.local_hub.facts import Facts

PREFIXES = ("base_model:", *(f"base_model:{relation}:" for relation in RELATIONS))


def renamed(con: sqlite3.Connection) -> dict[str, str]:
    """{former name in lower case: name now} of all models that were renamed."""
    rows = con.execute(
        "SELECT renames.key, repos.full_name FROM renames JOIN repos ON repos.id=renames.repo"
        " WHERE renames.kind='model'"
    )
    return {row["key"]: row["full_name"] for row in rows}


def follow(facts: Facts, names: dict[str, str]) -> Facts:
    """The facts with renamed bases under the names they have now. The given facts stay as they are."""
    bases = facts["bases"]
    if not names or not bases or not any(name.lower() in names for name in bases["models"]):
        return facts
    models = [names.get(name.lower(), name) for name in bases["models"]]
    tags = [follow_tag(tag, names) for tag in facts["tags"]]
    return facts | {"bases": bases | {"models": models}, "tags": list(dict.fromkeys(tags))}


def follow_tag(tag: str, names: dict[str, str]) -> str:
    """A base_model tag with the name its base has now; any other tag as it is."""
    for prefix in PREFIXES[::-1]:
        if tag.startswith(prefix):
            return prefix + names.get(tag.removeprefix(prefix).lower(), tag.removeprefix(prefix))
    return tag


def rename_tags(con: sqlite3.Connection, old: str, new: str) -> None:
    """Let the index of tags say `new` wherever it says that a model's base is `old`."""
    for prefix in PREFIXES:
        con.execute("UPDATE OR REPLACE repo_tags SET tag=? WHERE tag=?", (prefix + new, prefix + old))

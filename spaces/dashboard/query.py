"""What a visitor asked for: the part of the address behind the question mark. Only known names, short values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from fields import clean

GENERATION = re.compile(r"gen-(0|[1-9][0-9]{0,5})", re.ASCII)
NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
WORD = re.compile(r"[a-z-]{1,20}", re.ASCII)
NAMES: dict[str, re.Pattern[str] | None] = {
    "show": WORD,  # the page, a key of pages.PAGES ("page" and "view" are gradio's own)
    "gen": None,  # the generation that is shown; any text, so that an unknown one can be named
    "metric": None,  # a key of View.metrics
    "a": GENERATION, "b": GENERATION,  # the two that are compared
    "to": GENERATION,  # the newest one in the window of Lineage
    "open": GENERATION,  # the one whose contributions are all shown in Lineage
    "as": WORD,  # Lineage: graph or list
    "status": WORD, "account": None, "q": None,  # filters of Contributors
    "sort": WORD, "from": NUMBER,  # order, and the first row of a long table
    "repo": None,  # looked up in Contribute
}  # fmt: skip


@dataclass(frozen=True)
class Query:
    """The values by name; everything in them is a visitor's text."""

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Query:
        """From ``?show=lineage&gen=gen-3``; what is unknown, malformed or too long is left out."""
        try:
            pairs = parse_qsl(text[:2000].lstrip("?"), max_num_fields=30)
        except ValueError:
            pairs = []
        known = {}
        for name, value in pairs:
            value = clean(value, 200).strip()
            pattern = NAMES.get(name, WORD)
            if name in NAMES and value and (pattern is None or pattern.fullmatch(value)):
                known[name] = value
        return cls(known)

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    @property
    def offset(self) -> int:
        """The first row that is shown of a long table."""
        return int(self["from"] or 0)

    def link(self, page: str = "", **changes: object) -> str:
        """The address with some values changed ("" drops one); on another page only `gen` is kept."""
        kept = self.values if page in ("", self["show"]) else {n: v for n, v in self.values.items() if n == "gen"}
        merged = {**kept, **({"show": page} if page else {}), **{n.rstrip("_"): v for n, v in changes.items()}}
        if merged.get("show") == "overview":
            del merged["show"]
        return "?" + urlencode({name: str(merged[name]) for name in NAMES if merged.get(name) not in (None, "")})


BRIEF = Query({"brief": "yes"})  # what no address can ask for: the overview without the table that is folded up

"""Markdown from strings that nobody vouches for: names, tasks and licences as strangers wrote them into their cards.

What leaves `md` is text in any renderer: no markup, no link (not even one that a renderer would make of a bare
address), no HTML, one line, nothing invisible. Not covered: whether the text is true or polite.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

HUB = "https://huggingface.co"
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
ACCOUNT = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
_ESCAPES = {ord(c): "\\" + c for c in "\\`*_[]!|$~#"} | {ord("<"): "&lt;", ord(">"): "&gt;", ord("&"): "&amp;"}


def plain(text: object, limit: int = 80) -> str:
    """One line of visible characters: no control, bidi, surrogate or private ones; at most `limit` of them."""
    shown = "".join(" " if c.isspace() else c for c in str(text)[: 4 * limit] if c.isspace() or is_visible(c))
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def is_visible(character: str) -> bool:
    """Whether a character is neither control nor format, surrogate, private, unassigned or a line of its own."""
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def md(text: object, limit: int = 80) -> str:
    """`text` as Markdown that shows it literally, in a paragraph or a table cell.

    >>> md("a|b <b>*c*</b>")
    'a\\\\|b &lt;b&gt;\\\\*c\\\\*&lt;/b&gt;'
    """
    return plain(_unlink(plain(text, limit)), 2 * limit).translate(_ESCAPES)


def _unlink(text: str) -> str:
    """Break what GitHub-flavoured Markdown makes links of: ``https://…``, ``www.…`` and mail addresses."""
    text = re.sub(r"://", ": //", text)
    text = re.sub(r"\b(www)\.", r"\1 .", text, flags=re.IGNORECASE)
    return text.replace("@", " at ")


def code(text: object, limit: int = 120) -> str:
    """`text` in a code span."""
    return "`" + plain(text, limit).replace("`", "'").replace("|", "\\|") + "`"


def fence(text: str, language: str = "") -> str:
    """`text` in a fenced block that no line of it can close; line ends become newlines, invisible characters go."""
    text = "\n".join(re.split(r"\r\n|[\r\n\v\f\x85\u2028\u2029]", text)).strip("\n")
    text = "".join(c for c in text if c in "\n\t" or is_visible(c))
    marks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{marks}{language}\n{text}\n{marks}"


def link(label: str, address: str) -> str:
    """A link with an escaped label; `address` must be made by this package of checked parts."""
    return f"[{md(label)}]({address})"


def repo_link(repo: str, sha: str | None = None, endpoint: str = HUB) -> str:
    """A link to the repository, at a commit where it is known; just text where the name is no repository's."""
    if not REPO.fullmatch(repo):
        return md(repo)
    return link(repo, f"{endpoint}/{repo}" + (f"/tree/{sha}" if sha and COMMIT.fullmatch(sha) else ""))


def account_link(name: str, endpoint: str = HUB) -> str:
    """A link to the account; just text where the name is no account's."""
    return link(name, f"{endpoint}/{name}") if ACCOUNT.fullmatch(name) else md(name)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already, without the columns that hold nothing; "" without rows.

    >>> print(table(["a", "b"], [["1", ""]]))
    | a |
    |---|
    | 1 |
    """
    used = [i for i in range(len(headers)) if any(row[i] for row in rows)]
    lines = [[headers[i] for i in used], *([row[i] for i in used] for row in rows)]
    text = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([text[0], "|" + "---|" * len(used), *text[1:]]) if used else ""


def percent(value: float, *, sign: bool = False) -> str:
    """A fraction in points with one digit: 0.7923 → 79.2; with `sign`, +79.2."""
    text = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(5025)
    '1 h 23 min'
    """
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

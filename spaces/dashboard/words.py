"""Numbers, times and addresses as people read them: one decimal, signs on differences, UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from lineage import Attempt, Metric, Score

PROTOCOLS = {
    "fewshot": "few-shot finetuning", "probe": "linear probe", "finetune": "full finetuning", "head": "published heads",
    "perplexity": "perplexity", "logme": "LogME",
}  # fmt: skip
ROLES = {"gate": "the gate's examples", "report": "examples the gate never saw", "seen": "tasks it was grown from"}
STATUS_WORDS = {
    "root": "root", "published": "published", "rejected": "rejected", "yanked": "withdrawn", "unreadable": "unreadable",
    "fused": "fused", "refused": "refused", "waiting": "waiting",
}  # fmt: skip
STATUS_MARKS = {
    "root": "◆", "published": "●", "rejected": "○", "yanked": "⊘", "unreadable": "⚠", "fused": "●", "refused": "✕",
    "waiting": "◷",
}  # fmt: skip
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
PERMISSIVE = re.compile(
    r"apache-2\.0|mit|bsd.*|isc|cc0-1\.0|cc-by-\d.*|unlicense|openmdw.*|odc-by|cdla-permissive.*", re.ASCII
)
LICENSE_CLASSES = {
    "permissive": "permissive licence", "share": "copyleft licence", "limited": "licence that limits use",
    "unknown": "no or unknown licence",
}  # fmt: skip


def license_class(name: str) -> str:
    """What the name of a licence says about use: a key of `LICENSE_CLASSES`. No legal advice."""
    name = name.lower()
    if PERMISSIVE.fullmatch(name):
        return "permissive"
    if re.match(r"a?gpl|lgpl|mpl|epl|cc-by-sa", name):
        return "share"
    return "unknown" if name in ("", "other", "unknown", "none") else "limited"


def repo_url(endpoint: str, repo: str, sha: str = "", path: str = "tree") -> str:
    """The address of a repository on the configured Hub; "" for a name that is none."""
    if not REPO.fullmatch(repo):
        return ""
    return f"{endpoint}/{repo}" + (f"/{path}/{sha}" if sha else "")


def protocol_words(protocol: str) -> str:
    """``linear probe``; a name that is not known stays as it is."""
    return PROTOCOLS.get(protocol, protocol)


def metric_words(metric: Metric) -> str:
    """``few-shot finetuning, examples the gate never saw``."""
    return f"{PROTOCOLS.get(metric[1], metric[1])}, {ROLES.get(metric[0], metric[0])}"


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * value:.1f}".replace("-", "−")


def signed(value: float) -> str:
    """A difference of fractions in points, with its sign."""
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "±0.0" if text in ("+0.0", "−0.0") else text


def span(score: Score, *, sign: bool = False) -> str:
    """An interval in words."""
    show = signed if sign else percent
    return f"{show(score.low)} to {show(score.high)}"


def nats(value: float) -> str:
    """A difference of log-likelihoods in nats, with its sign."""
    text = f"{value:+.3f}".replace("-", "−")
    return "±0.000" if text in ("+0.000", "−0.000") else text


def decimal(value: float | None, digits: int = 2) -> str:
    """A plain number, "" for none."""
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``2 rows``, ``10,000 rows``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters, with the middle left out: both ends of a repository's name tell it apart."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - limit // 3 - 1]}…{text[-(limit // 3) :]}"


def day(at: datetime) -> str:
    """The date in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d")


def moment(at: datetime) -> str:
    """Date and time in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def ago(at: datetime, now: datetime) -> str:
    """How long since, in one unit."""
    minutes = max(0, int((now - at).total_seconds() // 60))
    for unit, length in (("day", 1440), ("hour", 60), ("minute", 1)):
        if minutes >= length:
            return f"{count(minutes // length, unit)} ago"
    return "less than a minute ago"


def full_name(attempt: Attempt) -> str:
    """``gen-3``, or the date of an attempt that has no number."""
    return attempt.name if attempt.generation is not None else f"rejected attempt of {day(attempt.created_at)}"

"""The Hub's names of licences, in classes, and which of two covers a work made of both. Engineering, no legal advice.

P permissive · C copyleft · NC non-commercial · ND no derivatives · R use-restricted · V a vendor's · U unknown. It is
stricter than lawyers may be: pairs that are not here need somebody who has read both texts.
"""

from __future__ import annotations

import re
from typing import Literal

PERMISSIVE = (
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "cc0-1.0", "cc-by-2.0",
    "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "unlicense", "wtfpl", "zlib", "odc-by", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "ms-pl", "postgresql", "ncsa", "artistic-2.0", "afl-3.0", "ecl-2.0", "bsl-1.0", "pddl",
    "etalab-2.0", "openmdw-1.0",
)  # fmt: skip

Class = Literal["P", "C", "NC", "ND", "R", "V", "U"]
CLASSES: dict[Class, re.Pattern[str]] = {
    "ND": re.compile(r"cc-by-(nc-)?nd-[\d.]+"),
    "NC": re.compile(r"cc-by-nc(-sa)?-[\d.]+|fair-noncommercial-research-license|apple-amlr|intel-research|h-research"),
    "C": re.compile(
        r"[al]?gpl(-[\d.]+)?|lgpl-lr|mpl-2\.0|epl-[12]\.0|eupl-1\.[12]|osl-3\.0|cc-by-sa-[\d.]+|cdla-sharing-1\.0|"
        r"odbl|gfdl"
    ),
    "R": re.compile(
        r"openrail(\+\+)?|creativeml-openrail-m|bigscience-(openrail-m|bloom-rail-1\.0)|bigcode-openrail-m"
    ),
    "V": re.compile(r"llama[\d.]+|gemma|grok2-community|deepfloyd-if-license"),
}
# a work under the first may be part of a work under the second: their own texts, or Creative Commons' chart, say so
INTO: frozenset[tuple[str, str]] = frozenset({
    ("lgpl-3.0", "gpl-3.0"), ("lgpl-3.0", "agpl-3.0"), ("gpl-3.0", "agpl-3.0"), ("lgpl-2.1", "gpl-2.0"),
    ("mpl-2.0", "gpl-3.0"), ("mpl-2.0", "lgpl-3.0"), ("mpl-2.0", "agpl-3.0"),
    ("cc-by-nc-4.0", "cc-by-nc-sa-4.0"), ("cc-by-nc-3.0", "cc-by-nc-4.0"), ("cc-by-nc-3.0", "cc-by-nc-sa-4.0"),
})  # fmt: skip
# permissive, and yet not to be part of a work under these, say those who wrote them (GPL 2 may mean "or later" or not)
APART: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (frozenset({"ms-pl", "afl-3.0"}), frozenset({"gpl", "lgpl", "gpl-2.0", "lgpl-2.1", "gpl-3.0", "lgpl-3.0",
                                                 "agpl-3.0"})),
    (frozenset({"apache-2.0", "ecl-2.0"}), frozenset({"gpl", "lgpl", "gpl-2.0", "lgpl-2.1"})),
)  # fmt: skip
FORBIDDEN: frozenset[Class] = frozenset({"ND", "U"})
# what the licences of Llama 3 and later ask of what is made with it; that of Llama 2 asks for neither
LLAMA, LLAMA_NAME, LLAMA_NOTICE = re.compile(r"llama(3[\d.]*|4)"), "Llama", "Built with Llama"


def class_of(name: str | None) -> Class:
    """The class of a licence by its name on the Hub: ``class_of("llama3.1")`` is ``"V"``; None and strange names U."""
    plain = (name or "").strip().lower()
    if plain in PERMISSIVE:
        return "P"
    return next((letter for letter, pattern in CLASSES.items() if pattern.fullmatch(plain)), "U")


def join(first: str, second: str) -> str | None:
    """The licence of a work made of both, or None: ``join("mit", "llama3.1")`` is ``"llama3.1"``.

    Of two permissive ones the first (both notices have to be kept). None for ND and U, and for two strict ones of which
    neither is known to take the other in.
    """
    one, two = first.strip().lower(), second.strip().lower()
    pair = {one, two}
    if {class_of(one), class_of(two)} & FORBIDDEN or any(pair & a and pair & b for a, b in APART):
        return None
    if one == two or class_of(two) == "P" or (two, one) in INTO:
        return one
    return two if class_of(one) == "P" or (one, two) in INTO else None


def naming_fault(license: str | None, repo: str) -> str | None:
    """What a vendor's licence asks of a derived model's name and `repo` lacks, or None."""
    if not notice(license) or repo.partition("/")[2].lower().startswith(LLAMA_NAME.lower()):
        return None
    return f"the licence {license} asks that the name of what is made with it begins with {LLAMA_NAME}; {repo} does not"


def notice(license: str | None) -> str | None:
    """The words that a vendor's licence wants shown with a model, or None."""
    return LLAMA_NOTICE if LLAMA.fullmatch((license or "").strip().lower()) else None

"""Rules of faults as they are written: which requests, how often, what. Read and checked here, chosen in `faults`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPO = "/api/{kind}/*/*"
ROUTES: dict[str, tuple[str, ...]] = {
    "any": ("* /**",),
    "whoami": ("GET /api/whoami-v2",),
    "create": ("POST /api/repos/create",),
    "list": ("GET /api/{kind}",),
    "info": (f"GET {REPO}", f"GET {REPO}/revision/*"),
    "refs": (f"GET {REPO}/refs",),
    "history": (f"GET {REPO}/commits/*",),
    "tree": (f"GET {REPO}/tree/**", f"POST {REPO}/paths-info/*"),
    "tag": (f"POST|DELETE {REPO}/tag/*",),
    "branch": (f"POST|DELETE {REPO}/branch/*",),
    "preupload": (f"POST {REPO}/preupload/*",),
    "commit": (f"POST {REPO}/commit/*",),
    "lfs": ("POST /**.git/info/lfs/objects/*", "PUT /lfs-storage/*", "PUT|POST /lfs-parts/*"),
    "xet": (f"GET {REPO}/xet-*-token/*", "* /cas/**"),
    "resolve": ("GET|HEAD /*/*/resolve/**", "GET|HEAD /{kind}/*/*/resolve/**"),
    "discussions": (f"GET|POST {REPO}/discussions**",),
}
LATE = ("list", "info", "refs", "history", "tree", "resolve")  # what a fault can answer from the past
SETTINGS: dict[str, dict[str, float | None]] = {  # kind → what it can be told, and what it does untold
    **{str(status): {} for status in range(500, 600)},
    "429": {"reset": None, "retry_after": None},
    "412": {},
    "timeout": {"seconds": 30.0},
    "drop": {},
    "slow": {"bytes_per_s": 1000.0},
    "cut": {"bytes": None},
    "stale": {"seconds": 10.0},
    "tag-lag": {"seconds": 10.0},
}
ALIVE_AFTER = ("timeout", "drop", *map(str, range(500, 600)))  # kinds that can follow a request that was carried out
METHODS = re.compile(r"\*|(?:GET|HEAD|POST|PUT|PATCH|DELETE)(?:\|(?:GET|HEAD|POST|PUT|PATCH|DELETE))*")
COMMON = ("route", "kind", "when", "rate", "after", "times")
BOUNDS: tuple[tuple[str, Any, float], ...] = (  # key, type, least value
    ("rate", (int, float), 0),
    ("after", int, 0),
    ("times", int, 0),
    ("seconds", (int, float), 0),
    ("bytes", int, 0),
    ("bytes_per_s", (int, float), 1),
    ("reset", int, 0),
    ("retry_after", int, 0),
)
Spec = Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True)
class Rule:
    """Requests of `route` are hit by `kind` with probability `rate`: not the first `after`, then at most `times`.

    `when` "after" carries the request out before the fault; only the answer is lost. `seconds`, `bytes`, … belong to
    some kinds (`SETTINGS`).
    """

    route: str
    kind: str
    when: str = "before"
    rate: float = 1.0
    after: int = 0
    times: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    bytes_per_s: float | None = None
    reset: int | None = None
    retry_after: int | None = None

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule is about this request; a HEAD has no body that could be slow or cut."""
        if method == "HEAD" and self.kind in ("slow", "cut"):
            return False
        return any(pattern.fullmatch(f"{method} {path}") for pattern in _patterns(self.route))


def read(spec: Spec) -> tuple[int, tuple[Rule, ...]]:
    """(seed, rules) of a file, of what is in one, or of rules alone. Raises ValueError naming all that is wrong."""
    if spec is None:
        return 0, ()
    where = "The faults"
    if isinstance(spec, Path):
        import yaml

        where = str(spec)
        try:
            spec = yaml.safe_load(spec.read_text(encoding="utf-8"))  # JSON is YAML too
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{where} cannot be read as YAML or JSON: {error}") from None
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        spec = {"rules": spec}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("rules"), Sequence):
        raise ValueError(f"{where}: expected a list of rules, or a mapping with `rules` and perhaps `seed`.")
    wrong = [f"unknown key {key!r}; known are rules, seed" for key in spec if key not in ("rules", "seed")]
    seed = spec.get("seed", 0)
    if type(seed) is not int:
        wrong.append(f"seed must be a whole number, not {seed!r}")
    rules = []
    for place, rule in enumerate(spec["rules"]):
        found = _faults_of(rule)
        wrong += [f"rule {place}: {words}" for words in found]
        if not found:
            rules.append(Rule(**SETTINGS[str(rule["kind"])] | rule | {"kind": str(rule["kind"])}))
    if wrong:
        raise ValueError(f"{where}: " + "; ".join(wrong))
    return seed, tuple(rules)


def _faults_of(rule: Any) -> list[str]:
    """What is wrong with a rule as it was written."""
    if not isinstance(rule, Mapping):
        return [f"must be a mapping with `route` and `kind`, not {rule!r}"]
    kind, route, wrong = str(rule.get("kind")), rule.get("route"), []
    if kind not in SETTINGS:
        kinds = ["500 to 599", *(name for name in SETTINGS if not name.startswith("5"))]
        return [f"kind {rule.get('kind')!r} is not one of {', '.join(kinds)}"]
    wrong += [
        f"{kind} takes no {key!r}; it takes {', '.join([*COMMON, *SETTINGS[kind]])}"
        for key in rule
        if key not in COMMON and key not in SETTINGS[kind]
    ]
    for key, type_, least in BOUNDS:
        value = rule.get(key)
        if value is not None and not (isinstance(value, type_) and not isinstance(value, bool) and value >= least):
            wrong.append(f"{key} must be a number of at least {least}, not {value!r}")
    if isinstance(rule.get("rate"), float | int) and rule["rate"] > 1:
        wrong.append(f"rate is a probability, not {rule['rate']!r}")
    if rule.get("when", "before") not in ("before", "after"):
        wrong.append(f"when must be before or after, not {rule['when']!r}")
    if rule.get("when") == "after" and kind not in ALIVE_AFTER:
        wrong.append(f"{kind} cannot come after the request was carried out; drop, timeout and 5xx can")
    if not _is_route(route):
        names = ", ".join(ROUTES)
        return [*wrong, f"route {route!r} is neither one of {names} nor like 'GET|HEAD /api/models/*/*/tree/**'"]
    allowed = {"412": ("commit",), "tag-lag": ("list",), "stale": LATE}.get(kind)
    if allowed and route not in allowed:
        wrong.append(f"{kind} is for {', '.join(allowed)}, not for {route}")
    return wrong


def _is_route(route: Any) -> bool:
    if not isinstance(route, str):
        return False
    methods, _, path = route.partition(" ")
    return route in ROUTES or bool(METHODS.fullmatch(methods) and path.startswith("/"))


@cache
def _patterns(route: str) -> tuple[re.Pattern[str], ...]:
    return tuple(map(_compile, ROUTES.get(route, (route,))))


def _compile(pattern: str) -> re.Pattern[str]:
    """``*`` stands for anything within a part of the path, ``**`` for anything, ``{kind}`` for the three kinds."""
    methods, _, path = pattern.partition(" ")
    words = {"**": ".*", "*": "[^/]*", "{kind}": "(?:models|datasets|spaces)"}
    body = "".join(words.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*|\{kind\})", path))
    return re.compile(f"(?:{'[A-Z]+' if methods == '*' else methods}) {body}", re.DOTALL)

"""The parameters of a mergekit configuration: of the whole merge and of every model, plain numbers and switches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Formula:
    """A method of ours with its options and the contributions' weights."""

    method: str
    options: dict[str, Any]
    weights: tuple[float, ...]


@dataclass
class Asked:
    """The parameters of a configuration while it is read; `faults` and `notes` are gathered on the way."""

    shared: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    entries: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        """Something that is not covered."""
        self.faults.append(text)

    def note(self, text: str) -> None:
        """Something that is another way here."""
        self.notes.append(text)

    def only(self, *known: str) -> None:
        """Say which parameters the method does not have."""
        given = {key for parameters in (self.shared, self.base, *(p for _, p in self.entries)) for key in parameters}
        for key in sorted(given - {*known, "int8_mask"}):
            self.note(f"the method has no parameter {key[:60]!r}, in mergekit neither: it is left out")

    def number(self, name: str, default: float) -> float:
        """A parameter of the whole merge."""
        return self.scalar(self.shared.get(name, default), name, default)

    def flag(self, name: str, default: bool) -> bool:
        """A switch of the whole merge."""
        value = self._plain(self.shared.get(name, default), name)
        if value is not None and str(value).lower() not in ("true", "false", "1", "0"):
            self.fault(f"{name}: {str(value)[:60]!r} is neither true nor false")
        return str(value).lower() in ("true", "1")

    def each(self, name: str, default: float | None = None) -> list[float]:
        """A parameter of every contribution; the whole merge's is theirs where they have none."""
        found = []
        for model, parameters in self.entries:
            value = parameters.get(name, self.shared.get(name, default))
            if value is None:
                self.fault(f"{name} of {model} is missing; mergekit asks for it too")
            found.append(self.scalar(value, f"{name} of {model}", 1.0))
        return found

    def same(self, name: str, default: float) -> float:
        """A parameter that mergekit has for every contribution, and we for all together."""
        found = self.each(name, default)
        if len(set(found)) > 1:
            self.fault(f"{name} differs between models ({', '.join(f'{v:g}' for v in found)}): here it is one for all")
        return found[0]

    def scalar(self, value: Any, where: str, default: float) -> float:
        """A finite number, or `default` with a fault."""
        value = self._plain(value, where)
        try:
            number = default if value is None else float(value if not isinstance(value, bool) else "a switch")
        except (TypeError, ValueError, OverflowError):
            self.fault(f"{where}: {str(value)[:60]!r} is not a number")
            return default
        if not math.isfinite(number):
            self.fault(f"{where}: {number} is not finite")
        return number if math.isfinite(number) else default

    def _plain(self, value: Any, where: str) -> Any:
        """A value without filter: a scalar, or the first entry of a list of conditions if it applies to all tensors."""
        if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("filter") in (None, "*"):
            value = value[0]
        if isinstance(value, dict) and value.get("filter") in (None, "*"):
            value = value.get("value")
        if isinstance(value, (list, dict)):
            kind = (
                "gradient over the layers"
                if isinstance(value, list) and value and not isinstance(value[0], dict)
                else "filter"
            )
            self.fault(f"{where}: a {kind} is not covered, one value for all tensors is")
            return None
        return value

"""Puts the dashboard into the wheel as hub_fusion/dashboard.

hatchling can say this in pyproject.toml, but then editable installs fail (``sources``) or hide the package
(``force-include``); a checkout finds the dashboard in spaces/ anyway.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WithDashboard(BuildHookInterface[Any]):
    """Adds spaces/dashboard to wheels that are not editable."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is built; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["spaces/dashboard"] = "hub_fusion/dashboard"

"""One simulation from beginning to end, or from where it was killed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from hub_fusion.errors import RecipeError
from hub_fusion.events import Say
from hub_fusion.simulate.controls import make_controls
from hub_fusion.simulate.ensemble import measure_ensembles
from hub_fusion.simulate.ledger import Ledger
from hub_fusion.simulate.loop import Run, grow
from hub_fusion.simulate.paths import measure_paths
from hub_fusion.simulate.report import report
from hub_fusion.simulate.scoring import measure_all
from hub_fusion.simulate.settings import Simulation
from hub_fusion.weights.compute import Compute

DECISIVE = {"root", "seen", "contributors", "seed", "training", "merge"}
PARTS = ("loop", "controls", "measure", "paths")


def run_simulation(
    simulation: Simulation, out: Path, compute: Compute, *, only: Collection[str] = (), say: Say = lambda _: None
) -> dict[str, Any]:
    """Grow, make the controls, measure; or `only` some of these parts. Gives what is known by then, see `report`.

    Parts may run in processes of their own, `measure` again and again while the loop grows. What decides the weights
    may not change between runs into one folder; more generations, measurements and controls may be asked for.
    Raises RecipeError, WeightsError, MergeError.
    """
    if unknown := sorted(set(only) - set(PARTS)):
        raise RecipeError(f"a simulation has the parts {', '.join(PARTS)}, not {', '.join(unknown)}")
    ledger = Ledger(out)
    _check_unchanged(simulation, ledger)
    run = Run(simulation, out, ledger, compute, say)
    if not only or "loop" in only:
        grow(run)
    if not only or "controls" in only:
        make_controls(run)
    if (not only or "measure" in only) and (absent := measure_all(run) + measure_ensembles(run)):
        say(f"{absent} measurements wait for models that do not exist yet")
    if not only or "paths" in only:
        measure_paths(run)
    return report(simulation, ledger)


def _check_unchanged(simulation: Simulation, ledger: Ledger) -> None:
    """The first line of a ledger says what decides the weights; RecipeError if this simulation says otherwise."""
    decisive = simulation.model_dump(mode="json", include=DECISIVE)
    said = next((line["settings"] for line in ledger.lines if line["step"] == "settings"), None)
    if said is None:
        ledger.write(step="settings", settings=decisive)
    elif _today(simulation, said) != decisive:
        changed = sorted(k for k in decisive if decisive[k] != said.get(k))
        raise RecipeError(
            f"{ledger.folder} holds a simulation with another {', '.join(changed)}: "
            f"{[said.get(k) for k in changed]}, now {[decisive[k] for k in changed]}; choose another --out"
        )


def _today(simulation: Simulation, said: dict[str, Any]) -> dict[str, Any]:
    """What an older ledger said, with today's defaults for settings that did not exist when it was begun."""
    whole = simulation.model_dump(mode="json") | said
    return Simulation.model_validate(whole).model_dump(mode="json", include=DECISIVE)

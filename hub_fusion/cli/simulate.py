"""The command that simulates a loop before anybody is asked to take part."""

from __future__ import annotations

from pathlib import Path

import typer

from hub_fusion.cli.output import Json, open_compute, print_json, print_table, quiet_bars, say


def simulate(
    settings: Path = typer.Argument(help="What to simulate: a YAML file (see examples/cold_fusion)."),
    out: Path = typer.Option(..., "--out", help="Where generations, finetunes and scores go."),
    only: list[str] = typer.Option([], "--only", help="Carry out this part alone: loop, controls, measure or paths."),
    json: bool = Json,
) -> None:  # fmt: skip
    """Collaborative descent with simulated contributors; run it again to go on where it stopped."""
    from hub_fusion.simulate.run import run_simulation
    from hub_fusion.simulate.settings import Simulation

    quiet_bars()
    found = run_simulation(Simulation.load(settings), out, open_compute(), only=set(only), say=say)
    if json:
        return print_json(found)
    cells = [[str(r["model"]), str(r["against"]), str(r["protocol"]), str(r["role"]), f"{r['accuracy']:.3f}",
              f"{r['mean']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"] for r in found["changes"]]  # fmt: skip
    print_table(f"{out}: best by the gate tasks is {found['best'] or 'not known yet'}",
                ["model", "against", "protocol", "tasks", "accuracy", "change"], cells)  # fmt: skip
    for barriers in (b for b in found["barriers"] if b["rho"] is not None):
        interval = "" if barriers["low"] is None else f" [{barriers['low']:+.2f}, {barriers['high']:+.2f}]"
        say(f"barriers of the paths from {barriers['path']} and accuracy on the {barriers['role']} tasks: "
            f"rank correlation {barriers['rho']:+.2f}{interval}, n = {barriers['n']}")  # fmt: skip


COMMANDS = [simulate]

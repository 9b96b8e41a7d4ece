"""The dashboard's command: space serve."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import typer

from hub_fusion.cli.output import Endpoint, Json, open_hub, print_json, say, visible

PACKAGE = Path(__file__).resolve().parents[1]
app = typer.Typer(no_args_is_help=True, help="The dashboard: what a base has become, in the browser.")


@app.command()
def serve(
    base: str = typer.Argument(..., help="The base's repository on the Hub."),
    endpoint: str | None = Endpoint,
    port: int = typer.Option(7860, "--port", help="TCP port on this machine; 0 takes a free one."),
) -> None:
    """Serve the dashboard of a base on this machine until interrupted. It only reads.

    The token in HF_TOKEN is kept from it; for a private base, HUB_FUSION_READ_TOKEN holds one that may read.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ModuleNotFoundError("No module named 'gradio'", name="gradio")
    folder = dashboard()
    port = port or free_port()
    secrets = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in secrets}
    environment |= {"HUB_FUSION_BASE": base, "GRADIO_SERVER_PORT": str(port), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    if endpoint:
        environment["HF_ENDPOINT"] = endpoint
    say(f"The dashboard of {base} starts on http://127.0.0.1:{port}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment) as child:
        try:
            code = child.wait()
        finally:
            child.terminate()
    raise typer.Exit(code if code >= 0 else 1)


@app.command()
def deploy(
    base: str = typer.Argument(..., help="The base's repository on the Hub."),
    space: str | None = typer.Option(None, "--space", help="Where it goes.  [default: BASE-dashboard]"),
    private: bool = typer.Option(False, "--private", help="Only you see it; for a private base this is needed."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be done and write nothing."),
    endpoint: str | None = Endpoint,
    json: bool = Json,
) -> None:
    """Put the dashboard of a base on the Hub as a Space, with the records as they are now. Asks nothing.

    The Space gets no token and writes nothing. Run again, it renews code and records; with nothing new it does nothing.
    """
    from dataclasses import asdict

    from hub_fusion.publish.space import deploy as put

    name = space or f"{base}-dashboard"
    done = put(open_hub(endpoint), base, name, dashboard(), private=private, dry_run=dry_run)
    if json:
        return print_json(asdict(done) | {"dry_run": dry_run})
    would = "would be " if dry_run else ""
    seen = "private" if done.private else "public"
    print(visible(f"{done.url}  ({seen}{f', {would}created' if done.created else ''})"))
    print(f"{would}written: {len(done.changed)} files, removed: {len(done.removed)}; generations: {done.generations}")
    for variable, value in done.variables.items():
        print(visible(f"{would}set: {variable}={value}"))
    if done.needs_read_token:
        say(f"{base} is private: the Space needs a secret HUB_FUSION_READ_TOKEN, which may only read it")


def dashboard() -> Path:
    """The folder of the Space: inside the package in an installed wheel, in spaces/ in a checkout."""
    return next(p for p in (PACKAGE / "dashboard", PACKAGE.parent / "spaces" / "dashboard") if p.is_dir())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

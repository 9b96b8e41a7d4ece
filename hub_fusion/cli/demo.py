"""The demo's command."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer

from hub_fusion.cli.output import Json, fail, open_compute, print_json, print_table, quiet_bars, say


def demo(
    generations: int = typer.Option(7, "--generations", min=1, max=50, help="Generations to publish after gen-0."),
    root: Path | None = typer.Option(None, "--root", help="Keep the local Hub's storage here.  [default: thrown away]"),
    keep_serving: bool = typer.Option(False, "--keep-serving", help="Serve the Hub until interrupted."),
    endpoint: str | None = typer.Option(None, "--endpoint", help="Another Hub (token: HF_TOKEN); makes private repos."),
    clean: bool = typer.Option(False, "--clean", help="With --endpoint: delete the demo's repositories and stop."),
    json: bool = Json,
) -> None:  # fmt: skip
    """The whole loop on this machine: seven contributors and real handwritten digits, in about two minutes."""
    from hub_fusion.demo import run as play

    if clean and not endpoint:
        raise typer.BadParameter("--clean goes with --endpoint; a local Hub is a folder to be deleted")
    quiet_bars()
    with ExitStack() as stack:
        folder = root or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-fusion-demo-")))
        folder.mkdir(parents=True, exist_ok=True)
        work = folder / "demo"
        work.mkdir(exist_ok=True)
        if endpoint:
            stage = play.remote_stage(endpoint, work / "cache")
            if clean:
                play.clean(stage)
                return say(f"deleted {stage.base} and {len(stage.repos)} contributions")
        else:
            from hub_fusion.local_hub import serve

            hub = stack.enter_context(serve(folder))
            say(f"a Hub in {folder} serves at {hub.url}")
            stage = play.local_stage(hub.url, folder, work / "cache")
        found, arrived = play.run_demo(stage, open_compute(), generations=generations, work=work, say=say)
        if json:
            print_json(found)
        else:
            show(found, folder if root else None)
        if keep_serving and not endpoint:
            say(f"serving {folder} at {found['endpoint']} until interrupted")
            while True:
                time.sleep(3600)
    if not arrived:
        fail(f"gen-{generations} was not reached in {2 * generations} attempts; the gate rejected the others", 3)


def show(found: dict[str, Any], root: Path | None) -> None:
    """The demo's result for people."""

    def score(scores: dict[str, Any], protocol: str) -> str:
        s = scores.get(protocol)
        return f"{s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" if s else "–"

    rows = [[g["tag"], score(g["scores"], "fewshot"), score(g["scores"], "probe"), str(len(g["contributions"])),
             str(len(g["refusals"]))] for g in found["generations"]]  # fmt: skip
    names = {"long_finetune": "best long finetune", "random_deltas": "random deltas"}
    rows += [[names[name], score(scores, "fewshot"), score(scores, "probe"), "", ""]
             for name, scores in found["controls"].items()]  # fmt: skip
    columns = ["", "few-shot (30 examples)", "linear probe", "fused", "refused"]
    print_table(f"{found['base']}: accuracy on digits nobody trained on", columns, rows)
    last = found["generations"][-1]
    if last["refusals"]:
        print_table(f"refused in {last['tag']}", ["repository", "code", "why", "fix"],
                    [[r["repo"], r["code"], r["reason"], r["fix"]] for r in last["refusals"]])  # fmt: skip
    say(f"{len(found['generations']) - 1} generations in {found['seconds']:.0f} s.")
    if root is None and found["endpoint"].startswith("http://127.0.0.1"):
        return say("To keep them: hub-fusion demo --root my-hub")
    if root is not None:
        say(f"Serve them:  hub-fusion hub serve --root {root} --port 8600")
    address = "http://127.0.0.1:8600" if root is not None else found["endpoint"]
    say(f"Load one:    HF_ENDPOINT={address} python -c 'from transformers import AutoModelForImageClassification as M; "
        f'print(M.from_pretrained("{found["base"]}", revision="{last["tag"]}", num_labels=3))\'')  # fmt: skip
    say(f"Look at all: hub-fusion lineage {found['base']} --endpoint {address}")
    reads = "" if root is not None else "HUB_FUSION_READ_TOKEN=hf_… "  # on another Hub the demo's base is private
    say(f"In browser:  {reads}hub-fusion space serve {found['base']} --endpoint {address}")


COMMANDS = [demo]

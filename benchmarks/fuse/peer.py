"""mergekit, the peer: an environment of its own, a configuration, a run.

It is LGPL and no dependency of the project, so it is installed at the first benchmark that wants it, with torch and all
else as constraints.txt pins them. It computes in bf16 here, as its own examples do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import Run, fresh, run

VERSION = "0.1.5"
ROOT = Path(__file__).resolve().parents[2]


def add_options(options: ArgumentParser) -> None:
    """Where mergekit is."""
    options.add_argument("--mergekit-venv", type=Path, default=ROOT / ".venv-mergekit", help="made if it is not there")


def mergekit_program(venv: Path) -> Path:
    """``mergekit-yaml`` of an environment, which is made if it is not there. Exits if it is of another version."""
    program = venv / "bin" / "mergekit-yaml"
    if not program.exists():
        print(f"installing mergekit {VERSION} into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [venv / "bin" / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
        subprocess.run([*pip, f"mergekit=={VERSION}", "torch"], check=True)
    if not list(venv.glob(f"lib/python*/site-packages/mergekit-{VERSION}.dist-info")):
        raise SystemExit(f"{venv} has another mergekit than {VERSION}, with which the goals were set: give another one")
    return program


def write_config(path: Path, method: str, each: Mapping[str, float], base: Path, finetunes: Sequence[Path]) -> Path:
    """A configuration, in the part of YAML that is JSON; `each` are the parameters of every finetune."""
    models = [{"model": str(finetune), "parameters": dict(each)} for finetune in finetunes]
    config: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16", "models": models}
    if method != "linear":
        config["base_model"] = str(base)
    path.write_text(json.dumps(config, indent=1))
    return path


def run_mergekit(program: Path, config: Path, out: Path) -> Run:
    """Its defaults; there is no tokenizer to copy and no Hub to ask."""
    return run([program, config, fresh(out), "--no-copy-tokenizer", "--quiet"], HF_HUB_OFFLINE="1")

"""What a machine is and how long it took, of which records tell; and where it keeps what can be made again."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DECISIVE = (
    "hub-fusion", "torch", "numpy", "numba", "transformers", "peft", "accelerate", "safetensors", "scikit-learn",
    "huggingface_hub",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what decides the bytes and the scores."""
    found = {"python": platform.python_version()}
    for name in DECISIVE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str, processes: int) -> dict[str, Any]:
    """The kind of machine: equal bytes are promised on the same kind of device."""
    found = {"device": device, "processes": processes, "machine": platform.machine(), "system": platform.system()}
    try:
        import torch
    except ModuleNotFoundError:
        return found
    cuda = device.startswith("cuda")
    return found | {"name": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()}


def cache_home() -> Path:
    """The folder of all that is ours and may be deleted: in ``XDG_CACHE_HOME``, or else in ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "hub_fusion"


class Clock:
    """Wall time by stage, in seconds: ``with clock("fuse"): …``. `also` is entered for every stage too."""

    def __init__(self, also: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()) -> None:
        self.seconds: dict[str, float] = {}
        self.also = also

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        with self.also(stage):
            yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - began, 3)

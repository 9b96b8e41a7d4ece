"""Commands in this process: the entry point as a shell would call it, without a second of imports each time."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from loop.world import World

from hub_fusion.cli import main

OFFLINE = ("init", "methods")


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON value."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Call = Callable[..., Done]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """``call("status", "acme/base", stdin=…)``: runs ``hub-fusion`` in `tmp_path`, with caches in it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HUB_FUSION_ONE_PROCESS", "1")  # what a worker prints would not be captured
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, stdin: str = "", world: World | None = None) -> Done:
        if world:
            monkeypatch.setenv("HF_TOKEN", world.tokens["acme"])
            if "--endpoint" not in arguments and arguments[0] not in OFFLINE:
                arguments = (*arguments, "--endpoint", world.hub.url)
        monkeypatch.setattr(sys, "argv", ["hub-fusion", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        code = exit.value.code
        assert code is None or isinstance(code, int)
        return Done(code or 0, *capsys.readouterr())

    return run

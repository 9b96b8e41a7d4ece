"""What all commands share: words to stderr, data to stdout, and how to reach recipe, Hub and devices."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO

import typer

from hub_fusion.events import Event
from hub_fusion.provenance import cache_home

if TYPE_CHECKING:
    from hub_fusion.hub import Hub
    from hub_fusion.recipe import Recipe
    from hub_fusion.records import Record
    from hub_fusion.weights.compute import Compute

Endpoint = typer.Option(None, "--endpoint", help="The Hub's URL.  [default: HF_ENDPOINT, else huggingface.co]")
Json = typer.Option(False, "--json", help="Machine-readable output on stdout.")
RecipeFile = typer.Option(Path("recipe.yaml"), "--recipe", "-r", help="The recipe; hub-fusion init writes one.")
Settings = typer.Option([], "--set", help="Override a recipe key: round.min_contributions=3 (repeatable).")
Work = typer.Option(None, "--work", help="Folder for downloads and candidates.  [default: the cache]")


LogFormat = typer.Option(
    "text", "--log-format", help="How to say on stderr what happens: text, or json, one object a line."
)


class JsonLines(io.TextIOBase):
    """A stderr that makes an event of every line that libraries, warnings and tracebacks write."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.rest = out, ""

    def write(self, text: str) -> int:
        """Whole lines go out; what is left waits for its end."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            self.event(Event("note", line))
        return len(text)

    def event(self, event: Event) -> None:
        """One object on one line."""
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event.name, "text": str(event)}
        self.out.write(json.dumps(line | event.facts, default=str) + "\n")
        self.out.flush()


def log_as(log_format: Literal["text", "json"]) -> None:
    """What goes to stderr from now on. Call it before other libraries are imported: they take stderr as it is then."""
    if log_format == "json" and not isinstance(sys.stderr, JsonLines):
        sys.stderr = JsonLines(sys.stderr)


def say(text: str) -> None:
    """What happens, on stderr: a line for people, or as JSON with the event's name, time and values."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    if isinstance(sys.stderr, JsonLines):
        sys.stderr.event(text if isinstance(text, Event) else Event("note", text))
    else:
        print(visible(text), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """The text with all control characters written out: a stranger's file name must not steer the terminal."""
    return "".join(ch if ch.isprintable() or ch == "\n" else ascii(ch)[1:-1] for ch in text)


def fail(text: str, code: int) -> NoReturn:
    """Say what is wrong and leave with an exit code."""
    say(Event("error", f"Error: {text}" if code != 130 else text, code=code))
    raise SystemExit(code)


def print_json(value: Any) -> None:
    """One JSON value on one line of stdout."""
    _print_json(json.dumps(value, ensure_ascii=False))


def print_lines(records: Iterable[Record]) -> None:
    """Records as JSON lines on stdout: what the next stage reads."""
    for record in records:
        _print_json(record.to_json())


def _print_json(text: str) -> None:
    """What cannot be printed occurs inside of strings only: the same JSON with it escaped is fit for any terminal."""
    print("".join(ch if ch.isprintable() else json.dumps(ch)[1:-1] for ch in text), flush=True)


def read_lines(path: str) -> list[str]:
    """The lines of a file, or of standard input for ``-``."""
    from hub_fusion.errors import RecordError

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return text.split("\n")  # and not splitlines: JSON strings may hold U+2028 and its like
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read {path}: {error}") from None


def print_table(title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
    """A table for people on stdout; strangers' text is printed as it is, never as markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("".join(ch for ch in cell if ch.isprintable())) for cell in row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def open_hub(endpoint: str | None) -> Hub:
    """The Hub that the user means."""
    from hub_fusion.hub import Hub

    quiet_bars()
    return Hub(endpoint)


def quiet_bars() -> None:
    """No progress bars of libraries where nobody is watching."""
    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()


def open_recipe(path: Path, settings: list[str]) -> Recipe:
    """The recipe with ``--set`` applied."""
    from hub_fusion.recipe import Recipe

    return Recipe.load(path, overrides=parse_settings(settings))


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``["a.b=3"]`` → ``{"a.b": 3}``; values are YAML."""
    import yaml

    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise typer.BadParameter(f"--set {setting!r}: the value is not YAML: {error}") from None
        if not equals or not key:
            raise typer.BadParameter(f"--set takes KEY=VALUE, not {setting!r}")
    return found


def open_compute() -> Compute:
    """Devices and processes; imports torch, which takes a second or two."""
    from hub_fusion.weights.compute import Compute

    return Compute()


@contextmanager
def computing() -> Iterator[Compute]:
    """The same in the main process, until it is done; its peers serve it meanwhile, and leave the command here."""
    compute = open_compute()
    if not compute.is_main:
        compute.serve()
        raise typer.Exit
    try:
        yield compute
    finally:
        compute.close()


def work_folder(given: Path | None, base: str) -> Path:
    """Where a base's downloads and candidates go."""
    if given is not None:
        return given
    return cache_home() / base.replace("/", "--")


def byte_bar(what: str) -> Callable[[int, int], None] | None:
    """A bar for (bytes done, bytes in all) on stderr, anew for every piece of work; None where nobody is watching."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    bars: list[Any] = []

    def advance(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, desc=what, unit="B", unit_scale=True, file=sys.stderr))
        bars[0].update(done - bars[0].n)
        if done >= total:
            bars.pop().close()

    return advance

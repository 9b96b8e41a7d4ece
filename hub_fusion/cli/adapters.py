"""The command that fuses adapters into one adapter: fuse-adapters."""

from __future__ import annotations

from pathlib import Path

import typer

from hub_fusion.cli.output import Endpoint, Json, open_hub, print_json, say, visible


def fuse_adapters(
    adapters: list[str] = typer.Argument(..., help="PEFT adapters of one base, folders or repositories[@revision]."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the result."),
    method: str | None = typer.Option(
        None, "--method", "-m", help="cat (exact), svd (a given rank) or average (of A and B).  [default: cat]"
    ),
    rank: int | None = typer.Option(None, "--rank", help="Of svd.  [default: the largest of the adapters']"),
    weights: str | None = typer.Option(None, "--weights", help="Relative weights: 1,2,1."),
    base: str | None = typer.Option(None, "--base", help="The base that the result names.  [default: what they name]"),
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Fuse adapters of a frozen base into one adapter, without reading the base."""
    from hub_fusion.weights import adapter_fuse

    if method not in (None, *adapter_fuse.METHODS):
        raise typer.BadParameter(f"--method is one of {', '.join(adapter_fuse.METHODS)}, not {method!r}")
    try:
        shares = [float(w) for w in weights.split(",")] if weights else None
    except ValueError:
        raise typer.BadParameter(f"--weights takes numbers like 1,2,1, not {weights!r}") from None
    chosen = next((known for known in adapter_fuse.METHODS if known == method), None)
    report = adapter_fuse.fuse_adapters(adapters, out, method=chosen, rank=rank, weights=shares, base=base,
                                        hub=open_hub(endpoint))  # fmt: skip
    if json:
        return print_json({"out": str(report.out), "kind": report.kind, "method": report.method, "rank": report.rank,
                           "modules": report.modules, "error": report.error, "worst": report.worst,
                           "files": report.files, "bytes": report.bytes_written, "dropped": list(report.dropped),
                           "seconds": round(report.seconds, 3)})  # fmt: skip
    cost = f"; {report.error:.2%} of the mean change is lost" if report.error else ""
    where = f", most in {report.worst[0]} ({report.worst[1]:.2%})" if report.worst else ""
    ranks = f", rank {report.rank}" if report.rank else ""
    say(f"fused {len(adapters)} adapters by {report.method}: {report.modules} modules{ranks}, "
        f"{report.bytes_written:,} bytes, in {report.seconds:.1f} s to {report.out}{cost}{where}")  # fmt: skip
    for file, digest in report.files.items():
        print(visible(f"{digest}  {file}"))


COMMANDS = [fuse_adapters]

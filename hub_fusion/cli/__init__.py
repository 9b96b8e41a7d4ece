"""The command line: commands by family, each of which parses, calls one function and prints.

Data goes to stdout, words to stderr. Exit codes: 0 done or nothing to do, 1 error, 2 usage, 3 refused (by the gate,
or a contribution by `check`), 4 the Hub is unreachable, 130 interrupted.
"""

from __future__ import annotations

import typer

from hub_fusion.cli import (
    adapters,
    again,
    contributor,
    demo,
    deploy,
    hub,
    loop,
    maintainer,
    merge,
    rank,
    reevaluate,
    simulate,
    space,
    withdraw,
)  # fmt: skip
from hub_fusion.cli.output import fail

app = typer.Typer(
    name="hub-fusion", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Recycle community finetunes into better base models on the Hugging Face Hub.",
)  # fmt: skip
for family in (
    contributor,
    loop,
    maintainer,
    rank,
    merge,
    adapters,
    again,
    reevaluate,
    withdraw,
    deploy,
    simulate,
    demo,
):
    for command in family.COMMANDS:
        app.command()(command)
app.add_typer(hub.app, name="hub")
app.add_typer(space.app, name="space")


@app.callback(invoke_without_command=True)
def version_option(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Recycle community finetunes into better base models on the Hugging Face Hub."""
    if version:
        from hub_fusion import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of ``hub-fusion`` and ``hf-fusion``: turns hub_fusion's errors into sentences and exit codes."""
    from hub_fusion.errors import HubFusionError, HubUnreachable

    try:
        app(standalone_mode=True)
    except HubUnreachable as error:
        fail(str(error), 4)
    except HubFusionError as error:
        fail(str(error), 1)
    except ModuleNotFoundError as error:
        hub_needs = ("starlette", "uvicorn", "lz4", "python_multipart")
        extra = "space" if error.name == "gradio" else "hub" if error.name in hub_needs else "fuse"
        fail(f"{error.name} is not installed, and this command needs it: pip install 'hub-fusion[{extra}]'", 1)
    except OSError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)

"""Serves one dashboard for every line of standard input, each on a port of its own, in this one process.

A line is ``{"base": …, "endpoint": …, "snapshot": …, "port": …}``; for each the address is
printed once it answers. Each is what app.py makes of it; a dozen processes would import gradio a dozen times.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SPACE = Path(__file__).parents[2] / "spaces" / "dashboard"


def main() -> None:
    """Until standard input ends."""
    sys.path.insert(0, str(SPACE))
    import app
    from reader import Reader

    for line in sys.stdin:
        asked = json.loads(line)
        reader = Reader(asked["base"], asked["endpoint"], snapshot=Path(asked["snapshot"]))
        demo = app.serve(reader, server_port=asked["port"], prevent_thread_lock=True, quiet=True)
        print(demo.local_url, flush=True)


if __name__ == "__main__":
    main()

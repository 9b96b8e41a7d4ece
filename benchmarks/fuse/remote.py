"""Fusing repositories against merely downloading them: the mean of a base and four finetunes, from a local Hub.

    python benchmarks/fuse/remote.py --size small
    python benchmarks/fuse/remote.py --work DIR --save         # 379M parameters: 3.8 GB to fetch

A Hub on this machine, in a process of its own, serves both. The download is snapshot_download of the same five
repositories, one after the other, into an empty cache. Each program has empty caches, temporary and working folders,
which are watched: how many bytes lie there at most, and what is left. Whether the fused bytes are those of a fuse of
the same folders is checked. Goals: at most 1.25 times the download's seconds, and nothing on disk but the result.
Not covered: a network. Server and client share the cores, and nothing is slow but they.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from filecmp import cmp
from pathlib import Path

from common import (
    MIB,
    SIZES,
    Run,
    alternately,
    fresh,
    fuse_command,
    make_models,
    median_fuse_s,
    median_s,
    parser,
    peak_mib,
    report,
    run,
    size_of,
    weight_files,
    work_folder,
)

FINETUNES, ACCOUNT = 4, "acme"
WATCH_S = 0.1
CLIENTS_OWN = (".agent_harnesses.json",)  # 40 bytes that huggingface_hub notes for itself, whatever it is asked
DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
for repo in sys.argv[1:]:
    snapshot_download(repo)
"""
UPLOAD = """
import sys
from huggingface_hub import HfApi
for repo, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    HfApi().create_repo(repo)
    HfApi().upload_folder(repo_id=repo, folder_path=folder)
"""


class Box:
    """A home for a program: caches, temporary and working folder, empty at its start and watched while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most_bytes = 0  # over all runs
        self.left: dict[str, int] = {}  # file → bytes, after the last run

    def run(self, command: Sequence[str | Path], url: str, token: str | None = None) -> Run:
        """Run a program in the emptied box."""
        home, temporary, here = (fresh(self.folder) / name for name in ("home", "tmp", "cwd"))
        places = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_XET_CACHE": home / "xet",
                  "XDG_CACHE_HOME": home / "cache", "TMPDIR": temporary}  # fmt: skip
        for folder in (home, temporary, here):
            folder.mkdir(parents=True)
        os.sync()  # what the last program wrote is not for this one to wait for
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,))
        watcher.start()
        try:
            account = {"HF_TOKEN": token} if token else {}
            environment = {name: str(folder) for name, folder in places.items()} | account
            return run(command, cwd=here, HF_ENDPOINT=url, **environment)
        finally:
            over.set()
            watcher.join()
            self.left = self._files()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(WATCH_S):
            self.most_bytes = max(self.most_bytes, sum(self._files().values()))

    def _files(self) -> dict[str, int]:
        found = {}
        for path in self.folder.rglob("*"):
            with suppress(OSError):  # gone since it was listed
                if path.is_file() and not path.is_symlink() and path.name not in CLIENTS_OWN:
                    found[str(path.relative_to(self.folder))] = path.stat().st_size
        return found


def main() -> None:
    """Two tables, and what was left if anything was."""
    given = parser(__doc__).parse_args()
    shape = SIZES[given.size]
    with work_folder(given.work) as work:
        place = work / given.size
        base, finetunes = make_models(place, FINETUNES, shape)
        models = {f"{ACCOUNT}/{folder.name}": folder for folder in (base, *finetunes)}
        repos, out, local = list(models), place / "out", place / "out-local"
        boxes = {name: Box(place / f"box-{name}") for name in ("download", "fuse")}
        with local_hub(work / f"hub-{given.size}", models) as url:
            command = fuse_command(repos[0], repos[1:], out, "-m", "mean", "--endpoint", url)

            def download() -> Run:
                return boxes["download"].run([sys.executable, "-c", DOWNLOAD, *repos], url)

            def fuse() -> Run:
                fresh(out)
                return boxes["fuse"].run(command, url)

            runs = alternately(given.runs, {"download": download, "fuse": fuse})
        run(fuse_command(base, finetunes, fresh(local), "-m", "mean"))
        same = all(cmp(file, out / file.name, shallow=False) for file in weight_files([local]))
        left = boxes["fuse"].left | {f"{p.name} in the result": p.stat().st_size for p in out.iterdir()
                                     if not (local / p.name).exists()}  # fmt: skip
        rows = [{
            "program": name, "seconds": median_s(done), "times as long": median_s(done) / median_s(runs["download"]),
            "goal": "≤ 1.25" if name == "fuse" else None,
            "fuse alone s": median_fuse_s(done) if name == "fuse" else None, "private MiB": peak_mib(done),
            "most on disk MiB": boxes[name].most_bytes / MIB, "left on disk MiB": sum(boxes[name].left.values()) / MIB,
        } for name, done in runs.items()]  # fmt: skip
        for folder in (out, local, *(box.folder for box in boxes.values())):
            fresh(folder)
        report("remote", given, {
            f"{shape.describe(FINETUNES)}, {size_of(list(models.values())) / 1e9:.3g} GB from a Hub on this machine; "
            "on disk is what lies there besides the result": rows,
            "Result": [{"same bytes as from folders": same, "nothing else left": not left, "files left": len(left)}],
        })  # fmt: skip
        for name, size in sorted(left.items(), key=lambda item: -item[1])[:5]:
            print(f"left: {name}, {size:,} bytes")


@contextmanager
def local_hub(root: Path, models: dict[str, Path]) -> Iterator[str]:
    """The URL of a running Hub that has these models; they are uploaded if its folder is new."""
    from hub_fusion.local_hub import add_user

    filled = root / "filled"
    if not filled.exists():
        fresh(root)
    token = add_user(root, ACCOUNT)
    command = [sys.executable, "-m", "hub_fusion", "hub", "serve", "--root", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        url = server.stdout.readline().strip()
        try:
            if not filled.exists():
                pairs = [str(part) for pair in models.items() for part in pair]
                Box(root / "upload").run([sys.executable, "-c", UPLOAD, *pairs], url, token)
                fresh(root / "upload")
                filled.touch()
            yield url
        finally:
            server.terminate()


if __name__ == "__main__":
    main()

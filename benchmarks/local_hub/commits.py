"""Many clients push to one branch at once: nothing is lost, and how long that takes.

    python benchmarks/local_hub/commits.py [--size small] [--save]

Claim: 16 processes, each with a client of its own, make 20 commits of 5 MB on one branch and read each back; the only
error is 412 (every second commit names its parent and is made again when that is stale), every byte is verified, and
fsck is clean afterwards. Printed: commits per second, the median and slowest commit, how many were 412, server CPU.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Server, parser, report

SIZES = {"small": (4, 3, 1_000_000), "full": (16, 20, 5_000_000)}  # clients, commits of each, bytes of each

WORK = """
import hashlib, json, os, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
api = HfApi(endpoint=sys.argv[1], token=sys.argv[2])
me, commits, size = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
seconds, stale = [], 0
for n in range(commits):
    content, path = os.urandom(size), f"{me}/{n}.bin"
    began = time.perf_counter()
    while True:
        parent = api.model_info("bench/m").sha if n % 2 else None
        try:
            add = [CommitOperationAdd(path, content)]
            oid = api.create_commit("bench/m", add, commit_message=path, parent_commit=parent).oid
            break
        except HfHubHTTPError as error:
            if error.response.status_code != 412:
                raise
            stale += 1
    seconds.append(time.perf_counter() - began)
    found = api.hf_hub_download("bench/m", path, revision=oid, cache_dir=sys.argv[6])
    assert Path(found).read_bytes() == content
print(json.dumps({"seconds": seconds, "stale": stale}))
"""


def main() -> None:
    from hub_fusion.local_hub.fsck import check

    options = parser(__doc__).parse_args()
    clients, commits, size = SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="bench-hub-") as scratch:
        with Server(Path(scratch) / "hub") as server:
            server.api.create_repo("bench/m")
            quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
            began, workers = time.perf_counter(), []
            for n in range(clients):
                home = f"{scratch}/home-{n}"
                workers.append(subprocess.Popen(
                    [sys.executable, "-c", WORK, server.url, server.token, f"c{n}", str(commits), str(size), home],
                    env={**os.environ, **quiet, "HF_HOME": home}, stdout=subprocess.PIPE, text=True))  # fmt: skip
            outputs = [worker.communicate()[0] for worker in workers]
            took, cpu = time.perf_counter() - began, server.cpu_s()
            if any(worker.returncode for worker in workers):
                raise SystemExit("a client failed: its error is above")
            results = [json.loads(output) for output in outputs]
            made = len(server.api.list_repo_commits("bench/m")) - 1
            files = len(server.api.list_repo_files("bench/m")) - 1
        found = check(Path(scratch) / "hub")
    seconds = [one for result in results for one in result["seconds"]]
    row = {
        "clients": clients,
        "commits": made,
        "of": clients * commits,
        "files": files,
        "412": sum(result["stale"] for result in results),
        "commits/s": made / took,
        "median s": statistics.median(seconds),
        "slowest s": max(seconds),
        "server CPU s": cpu,
        "fsck": "clean" if found.clean else f"{len(found.faults)} faults",
    }
    report("commits", options, {f"{size / 1e6:.0f} MB a commit": [row]})
    if made != clients * commits or files != made or not found.clean:
        raise SystemExit("the claim does not hold")


if __name__ == "__main__":
    main()

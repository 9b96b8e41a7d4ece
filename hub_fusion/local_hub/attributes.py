"""Which files are large (.gitattributes) and which are left out (.gitignore): pattern matching on paths.

The parts of the two formats that repositories of models use: shell patterns, ``**``, a leading ``/``, a trailing
``/`` and, for .gitignore, ``!``. The last pattern that matches decides.
"""

import functools
import re

_LARGE = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz
*.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar
*.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*
"""
LARGE = _LARGE.split()
DEFAULT = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE).encode()
MAX_REGULAR_BYTES = 10 * 2**20
MAX_PATTERNS = 2000


def is_large(attributes: str, path: str, size: int, sample: bytes) -> bool:
    """Whether a file goes to LFS: by pattern, by size, or because it is not text."""
    large = False
    for line in attributes.splitlines()[:MAX_PATTERNS]:
        words = line.split()
        if len(words) < 2 or words[0].startswith("#"):
            continue
        for word in words[1:]:
            if word == "filter=lfs" and matches(words[0], path):
                large = True
            elif word in ("-filter", "!filter") and matches(words[0], path):
                large = False
    return large or size > MAX_REGULAR_BYTES or b"\0" in sample


def is_ignored(gitignore: str, path: str) -> bool:
    """Whether .gitignore rules leave this path out."""
    ignored = False
    for line in gitignore.splitlines()[:MAX_PATTERNS]:
        pattern = line.rstrip()
        if not pattern or pattern.startswith("#"):
            continue
        wanted = not pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        folders = [path[: match.start()] for match in re.finditer("/", path)]
        candidates = folders if pattern.endswith("/") else [*folders, path]
        if any(matches(pattern.rstrip("/"), candidate) for candidate in candidates):
            ignored = wanted
    return ignored


def matches(pattern: str, path: str) -> bool:
    """Git's rule: a pattern without a slash is for the name, one with a slash for the path from the top."""
    if "/" not in pattern:
        path = path.rpartition("/")[2]
    try:
        return _compiled(pattern.removeprefix("/")).fullmatch(path) is not None
    except re.error:
        return False


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            at += len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            out += "[^/]*"
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            chars = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out += f"[{'^' + chars[1:] if chars[0] in '!^' else chars}]"
            at = end + 1
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    return re.compile(out, re.DOTALL)

"""What a pull request changes, as git would print it, and how its changes join those made to its target meanwhile.

Files compare by content hash; nothing is read from disk but the text files that differ, up to a size.
"""

import difflib

from hub_fusion.local_hub.blobs import BlobStore
from hub_fusion.local_hub.trees import Entry, Tree, lfs_pointer

MAX_TEXT_BYTES = 256 * 2**10
MAX_DIFF_BYTES = 2 * 2**20
NOTHING = "0" * 40


def changed(before: Tree, after: Tree) -> list[str]:
    """The paths that differ, sorted."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def merge(base: Tree, ours: Tree, theirs: Tree) -> tuple[Tree, list[str]]:
    """(`ours` with what `theirs` changed since `base`, the paths that both changed differently)."""
    merged, conflicts = dict(ours), []
    for path in changed(base, theirs):
        if ours.get(path) not in (base.get(path), theirs.get(path)):
            conflicts.append(path)
        elif path in theirs:
            merged[path] = theirs[path]
        else:
            merged.pop(path, None)
    return merged, conflicts


def git_diff(blobs: BlobStore, before: Tree, after: Tree) -> str:
    """``git diff`` of two trees, cut off after `MAX_DIFF_BYTES`. Large files show as their LFS pointers."""
    pieces, size = [], 0
    for path in changed(before, after):
        piece = _file_diff(blobs, path, before.get(path), after.get(path))
        size += len(piece)
        if size > MAX_DIFF_BYTES:
            break
        pieces.append(piece)
    return "".join(pieces)


def _file_diff(blobs: BlobStore, path: str, old: Entry | None, new: Entry | None) -> str:
    lines = [f"diff --git a/{path} b/{path}"]
    if old is None:
        lines.append("new file mode 100644")
    if new is None:
        lines.append("deleted file mode 100644")
    mode = " 100644" if old and new else ""
    lines.append(f"index {old.oid if old else NOTHING}..{new.oid if new else NOTHING}{mode}")
    names = (f"a/{path}" if old else "/dev/null", f"b/{path}" if new else "/dev/null")
    texts = [_text(blobs, entry) for entry in (old, new)]
    if texts[0] is None or texts[1] is None:
        lines.append(f"Binary files {names[0]} and {names[1]} differ")
        return "\n".join(lines) + "\n"
    body = difflib.unified_diff(_lines(texts[0]), _lines(texts[1]), *names)
    shown = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in body]
    shown[:2] = [f"--- {names[0]}\n", f"+++ {names[1]}\n"][: len(shown)]
    return "\n".join(lines) + "\n" + "".join(shown)


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _text(blobs: BlobStore, entry: Entry | None) -> str | None:
    """The text git compares; None if it would call the file binary."""
    if entry is None:
        return ""
    if entry.lfs:
        return lfs_pointer(entry.blob, entry.size).decode()
    if entry.size > MAX_TEXT_BYTES:
        return None
    content = blobs.read(entry.blob, MAX_TEXT_BYTES)
    try:
        return None if b"\0" in content else content.decode("utf-8")
    except UnicodeDecodeError:
        return None

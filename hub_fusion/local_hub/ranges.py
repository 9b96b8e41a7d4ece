"""The Range header: one plain range of bytes, as all clients of the Hub send."""

import re

from hub_fusion.local_hub.errors import HubError

ONE_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")


def parse_range(asked: str, size: int) -> tuple[int, int, int]:
    """(start, end, status) of a Range header; 416 outside the file, the whole file if it is not one plain range."""
    match = ONE_RANGE.fullmatch(asked)
    if match is None or match.groups() == ("", ""):
        return 0, size, 200
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < int(first):
            return 0, size, 200
    if start >= end:
        raise HubError(416, f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"})
    return start, end, 206

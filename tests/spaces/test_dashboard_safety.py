"""What the dashboard answers to those who do not use a browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from headers import HEADERS

Shown = Callable[[str], str]


def ask(url: str, body: Any = None) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode(errors="replace")


def call(url: str, function: str, argument: Any, component: Any = None) -> tuple[int, dict[str, str], str]:
    """Call a function of the page's component as its script does."""
    if component is None:
        config = json.loads(ask(url + "/config")[2])
        component = next(c["id"] for c in config["components"] if c["type"] == "html")
    body = {"component_id": component, "fn_name": function, "data": argument, "session_hash": "x"}
    return ask(f"{url}/gradio_api/component_server/", body)


@pytest.mark.parametrize("path", ["/", "/config", "/theme.css", "/gradio_api/info", "/nowhere"])
def test_every_answer_forbids_other_places(shown: Shown, path: str) -> None:
    """The browser may ask nobody but this server, and only the Hub may put the page into a frame."""
    _, headers, _ = ask(shown("golden") + path)
    for name, value in HEADERS.items():
        assert headers.get(name) == value
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"].replace("https://huggingface.co https://*.hf.space", "")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=app.py", "/gradio_api/file=../app.py", "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=snapshot/fusion/index.json", "/file=app.py", "/monitoring", "/gradio_api/file=http://127.0.0.1:9/x",
        "/gradio_api/proxy=http://127.0.0.1:9/x", "/static/../app.py", "/assets/../../app.py",
        "/gradio_api/stream/x/1/2/playlist.m3u8",
    ],
)  # fmt: skip
def test_no_file_is_given_away(shown: Shown, path: str) -> None:
    """Neither code nor system files nor what lies elsewhere."""
    status, _, text = ask(shown("golden") + path)
    assert status in (400, 401, 403, 404, 405, 422), (status, text[:200])
    assert "root:" not in text
    assert "import gradio" not in text


def test_nothing_can_be_uploaded(shown: Shown) -> None:
    """More than a byte is refused."""
    head = 'Content-Disposition: form-data; name="files"; filename="a.html"'
    body = f"--x\r\n{head}\r\n\r\n{'a' * 5000}\r\n--x--\r\n".encode()
    kind = {"content-type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{shown('golden')}/gradio_api/upload", body, kind)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code in (400, 403, 404, 413, 422)


@pytest.mark.parametrize(
    "argument",
    [None, 5, [], {}, ["?show=status"], "?show=" + "x" * 100_000, "?gen=gen-9&" * 5000, "?from=99999999999999999999",
     "?from=-1", "?gen=\u0000", {"a": [1] * 1000}, "?q=" + "%F0%9F%A7%AC" * 500, "?sort=../x&metric=__class__"],
)  # fmt: skip
def test_any_argument_gives_a_page(shown: Shown, argument: Any) -> None:
    """The function that draws takes whatever is sent and gives the page or a refusal; never a failure of the server."""
    url = shown("golden")
    status, _, text = call(url, "show", argument)
    assert status in (200, 422), (status, text[:300])
    if status == 200:
        assert 'id="dashboard"' in json.loads(text)
    status, _, _ = call(url, "save", argument)
    assert status in (200, 422)


@pytest.mark.parametrize("function", ["__init__", "postprocess", "upload", "", "open", "html"])
def test_no_other_function_can_be_called(shown: Shown, function: str) -> None:
    """Only those that the page needs."""
    assert call(shown("golden"), function, "x")[0] in (400, 403, 404, 422)


def test_no_endpoint_is_open(shown: Shown) -> None:
    """What callers find listed is nothing."""
    assert json.loads(ask(shown("golden") + "/gradio_api/info")[2]) == {"named_endpoints": {}, "unnamed_endpoints": {}}

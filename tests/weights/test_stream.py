"""Repositories are fused without being downloaded: the same bytes, nothing on disk, and the Hub's hashes compared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from hub_fusion.errors import HubUnreachable, WeightsError
from hub_fusion.hub import Hub
from hub_fusion.local_hub import LocalHub, add_user, serve
from hub_fusion.weights import stream, tensors
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.fuse import describe, fuse
from hub_fusion.weights.local import fuse_models, plan_local
from hub_fusion.weights.remote import Spool

from .tiny import model, save_folder, saved, started_from, trained


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path]]:
    """A local Hub with a base, a sharded finetune, a whole one and an adapter; and the same as folders."""
    folder = tmp_path_factory.mktemp("stream")
    token = add_user(folder / "hub", "acme")
    base = saved(model("BertForMaskedLM", hidden_size=32, intermediate_size=64, vocab_size=500), folder / "base")
    trained(started_from("BertForMaskedLM", base)).save_pretrained(folder / "a", max_shard_size="40KB")
    saved(trained(started_from("BertForSequenceClassification", base), seed=2), folder / "b")
    adapted = get_peft_model(started_from("BertModel", base), LoraConfig(r=2, init_lora_weights=False))
    adapted.save_pretrained(folder / "c")
    for name in ("vocab.txt", "source.spm", "bpe.codes", "prophetnet.tokenizer"):
        (base / name).write_text("{}")
    with serve(folder / "hub") as running:
        api = HfApi(running.url, token)
        for name in ("base", "a", "b", "c"):
            api.create_repo(f"acme/{name}", private=True)
            api.upload_folder(repo_id=f"acme/{name}", folder_path=folder / name, ignore_patterns="README.md")
        api.upload_file(repo_id="acme/base", path_in_repo="adapter_config.json", path_or_fileobj=b"{}")  # left out
        yield Hub(running.url, token, folder / "cache"), folder


NAMES = ["a", "b", "c"]


@pytest.mark.parametrize("method", ["mean", "dare_ties", "ties", "model_stock"])
@pytest.mark.parametrize("chunk", [1000, 8 * 2**20])
def test_streaming_gives_the_bytes_of_folders_and_leaves_nothing(
    world: tuple[Hub, Path], tmp_path: Path, method: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private repositories, shards, heads and adapters; methods that read twice use a folder that goes away."""
    hub, folder = world
    monkeypatch.setattr(stream, "CHUNK", chunk)
    monkeypatch.setattr(stream, "GAP", min(stream.GAP, chunk))
    repos = [f"acme/{name}" for name in NAMES]
    remote = fuse_models("acme/base", repos, tmp_path / "remote", method=method, hub=hub)
    keys = [s.key for s in plan_local("acme/base", repos, tmp_path / "x", hub=hub).sources]
    assert [key.partition("@")[0] for key in keys] == repos
    if "dare" not in method:  # whose noise goes by the contribution's name
        local = fuse_models(folder / "base", [folder / n for n in NAMES], tmp_path / "local", method=method)
        assert remote.files == local.files
        assert {p.name for p in (tmp_path / "remote").iterdir()} == {p.name for p in (tmp_path / "local").iterdir()}
    assert not (folder / "cache").exists()
    assert fuse_models("acme/base", repos, tmp_path / "again", method=method, hub=hub).files == remote.files


def test_a_dry_run_reads_headers_only(world: tuple[Hub, Path], tmp_path: Path) -> None:
    """Also for a method that would download."""
    hub, _ = world
    facts = describe(plan_local("acme/base", ["acme/a"], tmp_path / "out", method="ties", hub=hub))
    assert facts["sources"][0]["bytes"] > 0
    assert not (tmp_path / "out").exists()


def test_cache_keeps_downloads(world: tuple[Hub, Path], tmp_path: Path) -> None:
    """For people who fuse the same repositories again and again."""
    hub, folder = world
    cached = Hub(hub.endpoint, hub.token, tmp_path / "cache")
    kept = fuse_models("acme/base", ["acme/a"], tmp_path / "out", hub=cached, cache=True)
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    assert kept.files == fuse_models(folder / "base", [folder / "a"], tmp_path / "local").files


def test_other_bytes_than_the_hub_promises_are_refused(
    world: tuple[Hub, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is read whole is hashed on the way; nothing is left of the result."""
    hub, folder = world
    sha = hub.files("acme/b", "main")["model.safetensors"].sha256
    blob = next(p for p in (folder / "hub").rglob("*") if p.is_file() and sha.endswith(p.name) and len(p.name) > 32)
    good = blob.read_bytes()
    bad = bytearray(good)
    bad[-200] ^= 1  # of the classifier or the last layer: a finite number
    blob.chmod(0o644)
    blob.write_bytes(bad)
    try:
        with pytest.raises(WeightsError, match=r"acme/b@\w+/model.safetensors does not have the sha256"):
            fuse_models("acme/base", ["acme/b"], tmp_path / "out", hub=hub)
    finally:
        blob.write_bytes(good)
    assert not list((tmp_path / "out").glob("*.safetensors*"))


@pytest.mark.parametrize("small", [0, 32 * 2**20])
def test_adapters_are_compared_with_the_hubs_sha256_too(
    world: tuple[Hub, Path], tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their factors are needed in another order than they lie in; a file too large for that is named in a note."""
    hub, folder = world
    monkeypatch.setattr(stream, "SMALL", small)
    monkeypatch.setattr(stream, "CHUNK", 1000)
    good = fuse_models("acme/base", ["acme/c"], tmp_path / "good", hub=hub)
    assert any("adapter_model" in note for note in good.notes) is (small == 0)
    sha = hub.files("acme/c", "main")["adapter_model.safetensors"].sha256
    assert sha is not None
    blob = next(p for p in (folder / "hub").rglob("*") if p.is_file() and sha.endswith(p.name) and len(p.name) > 32)
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    try:
        if small:
            with pytest.raises(WeightsError, match=r"acme/c@\w+/adapter_model.safetensors does not have the sha256"):
                fuse_models("acme/base", ["acme/c"], tmp_path / "out", hub=hub)
        else:
            assert fuse_models("acme/base", ["acme/c"], tmp_path / "out", hub=hub).files != good.files
    finally:
        blob.write_bytes(whole)


@pytest.mark.parametrize("method", ["mean", "ties"])
def test_a_hub_that_goes_away_costs_what_was_under_way(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is back the same call goes on where it stopped, in the middle of a stream or of a download."""
    monkeypatch.setattr(stream, "CHUNK", 4000)
    monkeypatch.setattr(stream, "AHEAD", 60_000)
    monkeypatch.setattr(stream, "SMALL", 0)
    monkeypatch.setattr(tensors, "LEAST", 1000)
    monkeypatch.setattr(tensors, "MOST", 1000)
    token = add_user(tmp_path / "hub", "acme")
    base = saved(model("BertModel", hidden_size=64, intermediate_size=256, vocab_size=2000), tmp_path / "base")
    saved(trained(started_from("BertModel", base)), tmp_path / "a")
    running = serve(tmp_path / "hub")
    api = HfApi(running.url, token)
    for name in ("base", "a"):
        api.create_repo(f"acme/{name}")
        api.upload_folder(repo_id=f"acme/{name}", folder_path=tmp_path / name, ignore_patterns="README.md")
    hub, port = Hub(running.url, token, tmp_path / "cache"), int(running.url.rpartition(":")[2])
    out, compute = tmp_path / "out", Compute()
    plan = plan_local("acme/base", ["acme/a"], out, method=method, hub=hub)
    stopped = False

    def progress(done: int, total: int) -> None:
        nonlocal stopped
        if done > total // 3 and not stopped:
            stopped = True
            running.stop()

    with monkeypatch.context() as until_then, pytest.raises(HubUnreachable):
        until_then.setattr("hub_fusion.hub.calls.RETRIES", 1)
        if method == "ties":  # which downloads first: the Hub is away after one of the two
            until_then.setattr(Spool, "fetch", stopping_after(1, running))
        fuse(plan, compute, progress)
    assert list(out.glob("*.partial" if method == "mean" else ".spool/*/*.safetensors"))
    with serve(tmp_path / "hub", port=port):
        report = fuse(plan, compute)
        assert report.files == fuse_models(base, [tmp_path / "a"], tmp_path / "local", method=method).files
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "local").iterdir()}
    if method == "mean":
        assert report.bytes_resumed >= report.bytes_written // 4


def stopping_after(count: int, running: LocalHub) -> Callable[..., Path]:
    """The spool's download, after so many of which the Hub is gone."""
    fetch, left = Spool.fetch, count

    def counted(self: Spool, *arguments: Any) -> Path:
        nonlocal left
        if not left:
            running.stop()
        left -= 1
        return fetch(self, *arguments)

    return counted


def test_what_is_needed_earlier_than_expected_is_fetched_at_once(world: tuple[Hub, Path], tmp_path: Path) -> None:
    """Threads may run ahead of the plan; the last chunk first must not wait for ever."""
    from concurrent.futures import ThreadPoolExecutor

    hub, _ = world
    place = plan_local("acme/base", ["acme/b"], tmp_path / "x", hub=hub).sources[0].folder
    checkpoint = place.open()  # type: ignore[union-attr]
    store = checkpoint.store
    specs = sorted(checkpoint.values(), key=lambda s: s.start)
    ranges = [(s.file, s.start, s.start + s.size_bytes) for s in specs]
    with ThreadPoolExecutor(1) as pool:
        store.expect(ranges, 3 * 2**16, pool)  # type: ignore[attr-defined]
        found: dict[str, bytes] = {}

        def read(reverse: bool) -> None:
            for s in sorted(specs, key=lambda s: s.start, reverse=reverse)[: len(specs) // 2]:
                out = bytearray(s.size_bytes)
                store.read_into(s.file, s.start, memoryview(out))
                found[s.name] = bytes(out)

        threads = [threading.Thread(target=read, args=(r,), daemon=True) for r in (False, True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    local = world[1] / "b" / "model.safetensors"
    raw = local.read_bytes()
    assert all(data == raw[checkpoint[n].start : checkpoint[n].start + len(data)] for n, data in found.items())


def test_the_residual_of_a_streamed_base_is_streamed_too(world: tuple[Hub, Path], tmp_path: Path) -> None:
    """The same bytes, weights and residual, as of folders; what the Hub says of its files binds the two."""
    hub, folder = world
    half = saved(started_from("BertForMaskedLM", folder / "base").bfloat16(), tmp_path / "half")
    first, finetune = tmp_path / "first", folder / "b"
    fuse_models(half, [finetune], first, residual=True)
    hub.api.create_repo("acme/half", private=True)
    hub.api.upload_folder(repo_id="acme/half", folder_path=first)
    for method in ("mean", "ties"):
        local, remote = tmp_path / f"local-{method}", tmp_path / f"remote-{method}"
        expected = fuse_models(first, [finetune], local, method=method, residual=True)
        found = fuse_models("acme/half", [finetune], remote, method=method, residual=True, hub=hub)
        assert found.files == expected.files
        (lost,) = found.residual
        assert (remote / lost).read_bytes() == (local / lost).read_bytes()
    (first / lost).unlink()
    assert fuse_models(first, [finetune], tmp_path / "without", method="ties").files != found.files


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_statistics_come_with_the_repositories_that_bring_them(
    world: tuple[Hub, Path], tmp_path: Path, method: str, cache: bool
) -> None:
    """Downloaded, beside the output or into the cache, as they are read more than once; planning reads headers."""
    hub, _ = world
    api, random = HfApi(hub.endpoint, hub.token), torch.Generator().manual_seed(0)
    names = ["base", "f0", "f1"]
    for name in names:
        place = save_folder(tmp_path / name, {"body.w": torch.randn(6, 5, generator=random)})
        if name != "base":
            (place / "fusion").mkdir()
            x = torch.randn(9, 5, generator=random)
            save_file({"fisher/body.w": torch.rand(6, 5, generator=random), "activations/body.w": x.T @ x / 9},
                      place / "fusion" / "statistics.safetensors")  # fmt: skip
        api.create_repo(f"acme/{method}-{cache}-{name}", private=True)
        api.upload_folder(repo_id=f"acme/{method}-{cache}-{name}", folder_path=place)
    base, *finetunes = [f"acme/{method}-{cache}-{name}" for name in names]
    expected = fuse_models(tmp_path / "base", [tmp_path / "f0", tmp_path / "f1"], tmp_path / "here", method=method)
    if not cache:
        describe(plan_local(base, finetunes, tmp_path / "there", method=method, hub=hub))
        assert not (tmp_path / "there").exists()
    own = Hub(hub.endpoint, hub.token, tmp_path / "cache")
    found = fuse_models(base, finetunes, tmp_path / "there", method=method, hub=own, cache=cache)
    assert found.files == expected.files
    assert {p.name for p in (tmp_path / "there").iterdir()} == {p.name for p in (tmp_path / "here").iterdir()}
    with pytest.raises(WeightsError, match=f"{method} needs .* statistics .* {base}@"):
        fuse_models(base, [*finetunes, base], tmp_path / "other", method=method, hub=own, cache=cache)

"""Statistics of real models on real batches: what they are, by plain computation, and under which names they lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    T5Config,
    T5ForSequenceClassification,
    ViTConfig,
)

from hub_fusion.contribute.open_model import Opened, open_model, plain_names
from hub_fusion.contribute.statistics import Settings, collect_statistics, write_statistics
from hub_fusion.contribute.task_batches import task_batches
from hub_fusion.errors import HubFusionError, RecipeError, WeightsError
from hub_fusion.evaluate.models import quiet
from hub_fusion.hub import Hub
from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse
from hub_fusion.weights.reading import Reader
from hub_fusion.weights.statistics import Statistics, faults

SMALL = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
VIT: dict[str, Any] = {k: v for k, v in SMALL.items() if k != "vocab_size"}
TEXT = {
    "bert": BertConfig(**SMALL, max_position_embeddings=16, num_labels=3),
    "gpt2": GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=2, n_head=2, num_labels=3, pad_token_id=0),
    "llama": LlamaConfig(**SMALL, num_key_value_heads=1, num_labels=3, pad_token_id=0),
}


def saved(folder: Path, kind: str = "vit", seed: int = 0) -> Path:
    """A finetune with its classifier of three labels."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "vit":
            config = ViTConfig(**VIT, image_size=8, patch_size=4, num_channels=1, num_labels=3)
            model = AutoModelForImageClassification.from_config(config)
        else:
            model = AutoModelForSequenceClassification.from_config(TEXT[kind])
        for p in model.parameters():
            p.data += 0.2 * torch.randn(p.shape)
        model.save_pretrained(folder)
    return folder


def task(folder: Path, rows: int = 12, labels: int = 3) -> Path:
    """Images, for vision transformers."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    pixels = random.normal(size=(rows, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "train.npz", pixel_values=pixels, label=np.arange(rows) % labels)
    return folder


def texts(padding: int = 4) -> dict[str, torch.Tensor]:
    """Three texts of other lengths, padded on the right; `padding` is what stands there."""
    ids = torch.randint(5, 40, (3, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4])
    return {"input_ids": ids * mask + padding * (1 - mask), "attention_mask": mask}


def collect(opened: Opened, out: Path, batch: dict[str, torch.Tensor], **settings: Any) -> dict[str, torch.Tensor]:
    """What is written of one batch; the file is sound."""
    write_statistics(opened, lambda: iter([batch]), 3, Settings(**settings), out)
    found = Statistics.open(out)
    assert found is not None
    assert faults(found, Reader().whole, ("fisher", "activations"), 1e-6) is None
    return load_file(out / "fusion" / "statistics.safetensors")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_gram_matrices_are_the_mean_over_tokens_that_are_not_padding(tmp_path: Path, kind: str) -> None:
    """Those of the texts one by one, without any padding, give the same, whatever stands in the padding."""
    opened = open_model(saved(tmp_path / "m", kind), Hub("http://127.0.0.1:1"))
    both = [collect(opened, tmp_path / "o", texts(p)) for p in (4, 9)]
    sums: dict[str, torch.Tensor] = {}
    single = texts()
    for row, length in enumerate((6, 4, 2)):
        one = {"input_ids": single["input_ids"][row : row + 1, :length], "attention_mask": torch.ones(1, length).long()}
        for name, g in collect(opened, tmp_path / "o", one).items():
            sums[name] = sums.get(name, torch.zeros(g.shape)) + g * length
    pooled = [n for n in sums if "pooler" in n]  # one vector for each text
    assert sums.keys() == both[0].keys()
    for name in sums.keys() - set(pooled):
        torch.testing.assert_close(both[0][name], sums[name] / 12, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both[0][name], both[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "stored", "covered"), [("bert", 9, 13), ("gpt2", 8, 8), ("llama", 8, 14)])
def test_layers_with_the_same_inputs_are_stored_once(tmp_path: Path, kind: str, stored: int, covered: int) -> None:
    """Queries, keys and values; gate and up. Names are those on disk, the classifier is nobody else's."""
    opened = open_model(saved(tmp_path / "m", kind), Hub("http://127.0.0.1:1"))
    tensors = collect(opened, tmp_path / "m", texts())
    found = Statistics.open(tmp_path / "m")
    assert found is not None
    assert len(tensors) == stored
    assert len(tensors) + len(found.shared) == covered
    disk = set(Checkpoint.open(tmp_path / "m"))
    assert {n.partition("/")[2] for n in tensors} | set(found.shared) <= disk
    assert found.about["covers"].startswith(f"{covered} of {covered} linear layers")
    assert found.about["tokens"] == "12"


def test_regmean_of_collected_statistics_is_least_squares_on_the_contributors_inputs(tmp_path: Path) -> None:
    """The closed form, of torch's own linear layers: W minimises Σᵢ ‖Xᵢ·W − Xᵢ·Wᵢ‖²/nᵢ, here by lstsq on the inputs."""
    base = saved(tmp_path / "base")
    folders = [saved(tmp_path / f"m{i}", seed=1 + i) for i in range(2)]
    name, left, right = "vit.layers.0.mlp.fc1.weight", [], []
    images = task(tmp_path / "task", rows=40)
    for folder in folders:
        collect_statistics(folder, images, batch_size=7)
        opened = open_model(folder, Hub("http://127.0.0.1:1"))
        memory = next(m for m, disk in opened.names.items() if disk == linear_name(folder, "intermediate"))
        inputs: list[torch.Tensor] = []
        module = opened.model.get_submodule(memory.removesuffix(".weight"))
        module.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0].detach()))
        batches, _ = task_batches(opened, images, 40, 7, 16, 0)
        for batch in batches():
            opened.model(**batch)
        x = torch.cat([part.reshape(-1, part.shape[-1]) for part in inputs]).double()
        x = x / len(x) ** 0.5
        left.append(x)
        right.append(x @ load_file(folder / "model.safetensors")[linear_name(folder, "intermediate")].double().T)
    expected = torch.linalg.lstsq(torch.cat(left), torch.cat(right)).solution.T
    name = linear_name(base, "intermediate")
    sources = tuple(Source(f.name, f, base) for f in folders)
    options = {"alpha": 1.0, "ridge": 0.0, "normalise": "none"}
    fuse(FusePlan(base, tmp_path / "out", sources, "regmean", options), Compute())
    fused = load_file(tmp_path / "out" / "model.safetensors")[name]
    torch.testing.assert_close(fused.double(), expected, rtol=1e-3, atol=1e-4)
    mean = sum(load_file(f / "model.safetensors")[name] for f in folders) / 2
    assert float((fused - mean).abs().max()) > 0.01


def linear_name(folder: Path, part: str) -> str:
    """The first layer's weight whose name on disk has this in it, or the newer word for it."""
    words = {"intermediate": ("intermediate.dense.weight", "fc1.weight")}[part]
    return next(n for n in sorted(Checkpoint.open(folder)) if n.endswith(words))


@pytest.mark.parametrize("memory_bytes", [10**9, 3000])
def test_fisher_is_the_exact_expectation_over_the_labels(tmp_path: Path, memory_bytes: int) -> None:
    """By brute force: every example, every label, every gradient; and in as many passes as memory wants."""
    folder = saved(tmp_path / "m")
    done = collect_statistics(
        folder, task(tmp_path / "t", rows=5), kind="fisher", batch_size=2, memory_bytes=memory_bytes
    )
    opened = open_model(folder, Hub("http://127.0.0.1:1"))
    parameters = dict(opened.model.named_parameters())
    expected = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in parameters.items()}
    pixels = torch.from_numpy(np.load(tmp_path / "t" / "train.npz")["pixel_values"])
    for image in pixels:
        for label in range(3):
            opened.model.zero_grad()
            log = opened.model(pixel_values=image[None]).logits[0].log_softmax(0)
            log[label].backward()
            for n, p in parameters.items():
                expected[n] += float(log[label].detach().exp()) * p.grad.double() ** 2 / 5
    tensors = load_file(done.file)
    assert len(tensors) == len([n for n in parameters if "classifier" not in n])
    for memory, disk in opened.names.items():
        if "classifier" not in memory:
            torch.testing.assert_close(tensors[f"fisher/{disk}"].double(), expected[memory], rtol=2**-8, atol=1e-12)
    assert done.about["estimator"] == "exact"


def test_more_labels_than_the_budget_are_sampled_and_said_to_be(tmp_path: Path) -> None:
    """Without bias: many draws come near the exact expectation."""
    folder, images = saved(tmp_path / "m"), task(tmp_path / "t", rows=3)
    exact = load_file(collect_statistics(folder, images, kind="fisher").file)
    done = collect_statistics(folder, images, kind="fisher", labels=2, out=tmp_path / "o")
    assert done.about["estimator"] == "2 sampled labels"
    many: dict[str, torch.Tensor] = {}
    for seed in range(60):
        drawn = collect_statistics(folder, images, kind="fisher", labels=2, seed=seed, out=tmp_path / "o")
        many = {n: many.get(n, 0) + t.double() / 60 for n, t in load_file(drawn.file).items()}
    norm = torch.cat([t.double().reshape(-1) for t in exact.values()]).norm()
    apart = torch.cat([(exact[n].double() - many[n]).reshape(-1) for n in exact]).norm()
    assert apart < 0.2 * norm


def test_a_language_model_samples_a_token_at_every_place(tmp_path: Path) -> None:
    """Tied embeddings are one tensor, under the name they have on disk."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(TEXT["gpt2"]).save_pretrained(tmp_path / "m")
    opened = open_model(tmp_path / "m", Hub("http://127.0.0.1:1"))
    tensors = collect(opened, tmp_path / "m", texts(), kind="both")
    found = Statistics.open(tmp_path / "m")
    assert found is not None
    assert found.about["estimator"] == "one sampled token per place"
    assert {n for n in tensors if n.startswith("fisher/")} == {f"fisher/{n}" for n in Checkpoint.open(tmp_path / "m")}


def test_encoder_decoders_that_classify_are_covered(tmp_path: Path) -> None:
    """T5: keys and values of the cross attention share the encoder's output."""
    config = T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, num_labels=3,
                      decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)  # fmt: skip
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5ForSequenceClassification(config).save_pretrained(tmp_path / "m")
    opened = open_model(tmp_path / "m", Hub("http://127.0.0.1:1"))
    ids = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    tensors = collect(opened, tmp_path / "m", batch, kind="both")
    found = Statistics.open(tmp_path / "m")
    assert found is not None
    assert any("EncDecAttention.v" in n for n in found.shared)
    assert any("EncDecAttention.k" in n for n in tensors)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_short_form_keeps_the_diagonal_and_the_largest_part(tmp_path: Path, rank: int) -> None:
    """What is left out is off the diagonal and no larger than the next eigenvalue, but for rounding to 16 bits."""
    folder, images = saved(tmp_path / "m"), task(tmp_path / "t", rows=30)
    whole = load_file(collect_statistics(folder, images).file)
    short = collect_statistics(folder, images, rank=rank, out=tmp_path / "o")
    found = Statistics.open(tmp_path / "o")
    assert found is not None
    for full, gram in whole.items():
        name = full.partition("/")[2]
        read = torch.from_numpy(found.gram(name, Reader().whole, by_trace=False))
        torch.testing.assert_close(read.diagonal(), gram.diagonal(), rtol=1e-2, atol=1e-4)
        values = torch.linalg.eigvalsh(gram.double())
        rest = float(values[-rank - 1]) if rank < len(values) else 0.0
        assert float(torch.linalg.matrix_norm((read - gram).double(), 2)) < 2 * rest + 0.02 * float(values[-1])
    sizes = [collect_statistics(folder, images, rank=r, dry_run=True).bytes for r in (rank, None)]
    assert sizes[0] < sizes[1] if rank == 1 else sizes[0] <= sizes[1]
    assert short.about["rank"] == str(rank)


def test_an_adapter_is_merged_and_named_as_its_base(tmp_path: Path) -> None:
    """The base has no classifier and another class; what the engine looks for are the base's names."""
    base = saved(tmp_path / "base")
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False,
                            modules_to_save=["classifier"])  # fmt: skip
        peft = get_peft_model(AutoModelForImageClassification.from_pretrained(base), config)
        peft.save_pretrained(tmp_path / "a")
    images = task(tmp_path / "t")
    done = collect_statistics(tmp_path / "a", images, kind="both", batch_size=12)
    with quiet():
        merged = peft.merge_and_unload().eval()
    own = Opened(merged, plain_names(merged, Checkpoint.open(base)), base)
    pixels = torch.from_numpy(np.load(images / "train.npz")["pixel_values"])
    expected = collect(own, tmp_path / "o", {"pixel_values": pixels}, kind="both")
    found = load_file(done.file)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-6)
    sources = (Source("a", tmp_path / "a", base, "adapter"),)
    fuse(FusePlan(base, tmp_path / "out", sources, "regmean"), Compute())
    fuse(FusePlan(base, tmp_path / "out2", sources, "mean"), Compute())
    one, other = (load_file(tmp_path / o / "model.safetensors") for o in ("out", "out2"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)  # of one contribution, itself


def test_layers_can_be_left_out_and_a_dry_run_tells_the_bytes(tmp_path: Path) -> None:
    folder, images = saved(tmp_path / "m"), task(tmp_path / "t")
    some = "*layer*.0.*"
    told = collect_statistics(folder, images, kind="both", layers=[some], dry_run=True, memory_bytes=1000)
    assert not told.file.exists()
    done = collect_statistics(folder, images, kind="both", layers=[some], memory_bytes=1000)
    assert (told.passes, told.tensors, told.memory_bytes) == (done.passes, done.tensors, done.memory_bytes)
    assert told.passes > 1
    assert 0 < done.bytes - told.bytes < 10_000  # the header
    assert all(".0." in n for n in load_file(done.file))
    again = collect_statistics(folder, images, kind="both", layers=[some], out=tmp_path / "o")
    assert load_file(again.file).keys() == load_file(done.file).keys()
    assert all(torch.equal(t, load_file(done.file)[n]) for n, t in load_file(again.file).items())


BAD: dict[str, tuple[dict[str, Any], type[HubFusionError], str]] = {
    "no such kind": ({"kind": "hessian"}, HubFusionError, "gram, fisher or both"),
    "no rank": ({"rank": 0}, HubFusionError, "rank is between"),
    "no layer": ({"layers": ["x"]}, HubFusionError, "none of the model's tensors matches x"),
    "no examples": ({"examples": 0}, RecipeError, "at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_said(tmp_path: Path, case: str) -> None:
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        collect_statistics(saved(tmp_path / "m"), task(tmp_path / "t"), **options)


def test_a_task_that_is_not_the_models_is_said(tmp_path: Path) -> None:
    """More labels than the head has; label names in another order; a model without its head; no task, no model."""
    folder = saved(tmp_path / "m")
    with pytest.raises(RecipeError, match="label 4 occurs, the model knows 0 to 2"):
        collect_statistics(folder, task(tmp_path / "t", labels=5))
    with pytest.raises(RecipeError, match="needs one train file"):
        collect_statistics(folder, tmp_path)
    with pytest.raises(WeightsError, match="not a folder"):
        collect_statistics(tmp_path / "none", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["ViTForMaskedImageModeling"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="lacks"):
        collect_statistics(folder, task(tmp_path / "t"))


def test_batches_that_differ_from_pass_to_pass_are_not_what_task_batches_gives(tmp_path: Path) -> None:
    """Every pass over the layers sees the same examples in the same order."""
    opened = open_model(saved(tmp_path / "m"), Hub("http://127.0.0.1:1"))
    batches, count = task_batches(opened, task(tmp_path / "t", rows=30), 10, 4, 16, 7)

    def flat() -> Iterator[torch.Tensor]:
        return (batch["pixel_values"] for batch in batches())

    assert count == 10
    assert torch.equal(torch.cat(list(flat())), torch.cat(list(flat())))


def test_the_command_writes_them_and_tells_what_it_took(tmp_path: Path) -> None:
    """As JSON for scripts; a wrong task is a sentence and exit code 1."""
    folder, images = saved(tmp_path / "m"), task(tmp_path / "t")
    command = ["-m", "hub_fusion", "statistics", str(folder), "--task", str(images), "--rank", "2", "--json"]
    told, done = (
        json.loads(subprocess.run([sys.executable, *command, *more], capture_output=True, check=True).stdout)
        for more in (["--dry-run"], [])
    )
    assert told["tensors"] == done["tensors"] == len(load_file(done["file"]))
    assert (done["rank"], done["examples"], done["kinds"]) == ("2", "12", "activations")
    bad = subprocess.run([sys.executable, *command, "--kind", "hessian"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "gram, fisher or both" in bad.stderr
    assert "Traceback" not in bad.stderr

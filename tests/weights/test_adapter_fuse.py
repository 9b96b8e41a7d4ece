"""One adapter from many: PEFT loads it, and what it does to the base is what its method says."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion import fuse_adapters
from hub_fusion.errors import HubFusionError, MergeError, WeightsError
from hub_fusion.weights.adapter_factors import Pair, average, cat, svd
from hub_fusion.weights.adapter_fuse import Part, combine

from .tiny import model, saved, started_from, trained

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def adapter(base: Path, folder: Path, seed: int, kind: str = "BertModel", make: Any = None, **options: Any) -> Path:
    """An adapter of `base` with noise on all that is trained."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says what it mends
        torch.manual_seed(seed)
        settings = make() if make else LoraConfig(**{"r": 2, "target_modules": ["query"]} | options)
        peft = get_peft_model(started_from(kind, base), settings)
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in peft.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=source), alpha=0.3)
        peft.save_pretrained(folder)
    return folder


def merged(base: Path, folder: Path, kind: str = "BertModel") -> dict[str, torch.Tensor]:
    """The weights of the base with the adapter merged by PEFT, which must find every tensor it expects."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = PeftModel.from_pretrained(started_from(kind, base), folder)
    ours = {name.removeprefix("base_model.model.") for name in load_file(folder / WEIGHTS)
            if "lora_" in name or "ia3_" in name}  # fmt: skip
    theirs = {name.replace(".default", "").removeprefix("base_model.model.") for name in peft.state_dict()
              if "lora_" in name or "ia3_" in name}  # fmt: skip
    assert ours == theirs
    state: dict[str, torch.Tensor] = peft.merge_and_unload().state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def check_mean(base: Path, folders: list[Path], weights: list[float], out: Path, kind: str, limit: float) -> None:
    """The result changes the base by the weighted mean of what the adapters do."""
    origin = {name: tensor.clone() for name, tensor in started_from(kind, base).state_dict().items()}
    changes = [merged(base, folder, kind) for folder in folders]
    for name, tensor in merged(base, out, kind).items():
        if not tensor.is_floating_point():
            continue
        mean = sum(w * (c[name].double() - origin[name].double()) for w, c in zip(weights, changes, strict=True))
        torch.testing.assert_close((tensor - origin[name]).double(), mean / sum(weights), rtol=0, atol=limit,
                                   msg=lambda text, n=name: f"{n}: {text}")  # fmt: skip


MIXED: dict[str, tuple[str, list[dict[str, Any]]]] = {  # trained class, LoRA's options of each adapter
    "alike": ("BertModel", [{}, {}, {}]),
    "ranks, scalings and modules": (
        "BertModel",
        [{"r": 3, "lora_alpha": 5}, {"target_modules": ["value"], "use_rslora": True},
         {"target_modules": ["query", "value"], "rank_pattern": {"layer.1.attention.self.query": 4},
          "alpha_pattern": {"value": 3}}],
    ),
    "embeddings": ("BertModel", [{"target_modules": ["word_embeddings", "query"]}, {"r": 3}]),
    "GPT-2": ("GPT2LMHeadModel", [{"target_modules": ["c_attn"]}, {"target_modules": ["c_attn", "c_fc"], "r": 5}]),
    "convolutions": ("ViTModel", [{"target_modules": ["projection"]}, {"target_modules": ["projection"], "r": 1}]),
    "an output layer": (
        "LlamaForCausalLM", [{"target_modules": ["lm_head", "q_proj"]}, {"target_modules": ["v_proj"]}],
    ),
    "task heads": ("BertForSequenceClassification", [{"task_type": "SEQ_CLS"}, {"modules_to_save": ["classifier"]}]),
}  # fmt: skip


@pytest.mark.parametrize("method", ["cat", "svd"])
@pytest.mark.parametrize("case", MIXED)
def test_the_result_is_the_mean_change(tmp_path: Path, case: str, method: Any) -> None:
    """cat always, svd where the rank is enough for all; whatever the ranks, and with modules that some leave alone."""
    kind, options = MIXED[case]
    base = saved(trained(model(kind)), tmp_path / "base")
    folders = [adapter(base, tmp_path / f"a{i}", i, kind, **given) for i, given in enumerate(options)]
    weights = [float(1 + i) for i in range(len(folders))]
    rank = 64 if method == "svd" else None
    report = fuse_adapters(folders, tmp_path / "out", method=method, rank=rank, weights=weights)
    assert report.error < 1e-7
    assert report.files[WEIGHTS]
    heads = {"task heads": {"classifier"}}.get(case, set())
    assert set(report.dropped) == heads
    if heads:
        for folder in folders:  # PEFT cannot load a head it did not save; the comparison is about the body
            strip_heads(folder)
    check_mean(base, folders, weights, tmp_path / "out", kind, 2e-6)


def strip_heads(folder: Path) -> None:
    tensors = {n: t for n, t in load_file(folder / WEIGHTS).items() if "classifier" not in n}
    save_file(tensors, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text()) | {"modules_to_save": None, "task_type": None}
    (folder / CONFIG).write_text(json.dumps(config))


def test_ia3_is_the_mean_of_deviations_from_one(tmp_path: Path) -> None:
    """An adapter that leaves a module alone has 1 there."""
    from peft import IA3Config

    base = saved(trained(model("BertModel")), tmp_path / "base")
    folders = [
        adapter(base, tmp_path / "a", 1, make=lambda: IA3Config(
            target_modules=["key", "layer.0.output.dense"], feedforward_modules=["layer.0.output.dense"])),
        adapter(base, tmp_path / "b", 2, make=lambda: IA3Config(target_modules=["key"], feedforward_modules=[])),
    ]  # fmt: skip
    report = fuse_adapters(list(map(str, folders)), str(tmp_path / "out"), weights=[3, 1])
    assert (report.kind, report.method, report.error) == ("IA3", "average", 0.0)
    check_mean(base, folders, [3, 1], tmp_path / "out", "BertModel", 1e-6)
    with pytest.raises(MergeError, match="no factors"):
        fuse_adapters(folders, tmp_path / "again", method="svd")


def test_average_multiplies_the_means_of_the_factors(tmp_path: Path) -> None:
    """Poly-μ, and the report says how far the cross terms carry it from the mean change."""
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / name, i, lora_alpha=6) for i, name in enumerate("ab")]
    report = fuse_adapters(folders, tmp_path / "out", method="average")
    first, second = (load_file(folder / WEIGHTS) for folder in folders)
    result = load_file(tmp_path / "out" / WEIGHTS)
    for name, tensor in result.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    change = mean = 0.0
    for name in [n for n in result if "lora_A" in n]:
        pair = name.replace("lora_A", "lora_B")
        exact = (first[pair] @ first[name] + second[pair] @ second[name]).double() / 2
        change += float(((result[pair] @ result[name]).double() - exact).square().sum())
        mean += float(exact.square().sum())
    assert report.error == pytest.approx((change / mean) ** 0.5, rel=1e-5)
    merged(base, tmp_path / "out")
    adapter(base, tmp_path / "c", 3, r=4)
    with pytest.raises(MergeError, match="same modules, ranks and scalings"):
        fuse_adapters([*folders, tmp_path / "c"], tmp_path / "out", method="average")


def test_copies_of_an_adapter_fuse_to_that_adapter(tmp_path: Path) -> None:
    """By every method; svd needs no more rank than the one has."""
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / name, 7) for name in "abc"]
    for method in ("cat", "svd", "average"):
        report = fuse_adapters(folders, tmp_path / method, method=method)  # type: ignore[arg-type]
        assert report.error < 1e-6
        check_mean(base, folders[:1], [1], tmp_path / method, "BertModel", 1e-6)


def test_svd_reports_what_a_smaller_rank_costs(tmp_path: Path) -> None:
    """Eckart–Young: the tail of the singular values of the dense mean, which is made only here."""
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / name, i) for i, name in enumerate("abc")]
    report = fuse_adapters(folders, tmp_path / "out", method="svd", rank=2)
    kept, tail = 0.0, 0.0
    files = [load_file(folder / WEIGHTS) for folder in folders]
    for name in [n for n in files[0] if "lora_A" in n]:
        pair = name.replace("lora_A", "lora_B")
        sizes = torch.linalg.svdvals(sum(4 * f[pair].double() @ f[name].double() for f in files) / 3)
        kept, tail = kept + float(sizes[:2].square().sum()), tail + float(sizes[2:].square().sum())
    assert report.error == pytest.approx((tail / (kept + tail)) ** 0.5, rel=1e-6)
    assert report.worst is not None
    assert report.worst[1] >= report.error > 0.1
    assert report.rank == 2


def test_the_order_of_the_adapters_changes_no_byte(tmp_path: Path) -> None:
    """Nor does where they are, or a second time."""
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / name, i, r=1 + i) for i, name in enumerate("abc")]
    for method in ("cat", "svd"):
        once = fuse_adapters(folders, tmp_path / "once", method=method, weights=[1, 2, 3])  # type: ignore[arg-type]
        again = fuse_adapters(folders[::-1], tmp_path / "again", method=method, weights=[3, 2, 1])  # type: ignore[arg-type]
        assert once.files == again.files
        assert (tmp_path / "once" / CONFIG).read_bytes() == (tmp_path / "again" / CONFIG).read_bytes()


def test_a_result_can_be_fused_again(tmp_path: Path) -> None:
    """Its own patterns are read back: ranks that differ by module, scalings of one."""
    base = saved(model("BertModel"), tmp_path / "base")
    first = adapter(base, tmp_path / "a", 1, target_modules=["query", "value"], rank_pattern={"value": 5})
    second = adapter(base, tmp_path / "b", 2)
    fuse_adapters([first, second], tmp_path / "ab")
    fuse_adapters([tmp_path / "ab", second], tmp_path / "out")
    check_mean(base, [tmp_path / "ab", second], [1, 1], tmp_path / "out", "BertModel", 1e-6)


def test_coefficients_may_be_negative(tmp_path: Path) -> None:
    """What a generation needs: its own adapter, plus contributions, minus what they started from."""
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / name, i) for i, name in enumerate("ab")]
    parts = [Part("a", folders[0], 1.0), Part("b", folders[1], 0.5), Part("a again", folders[0], -1.0)]
    combine(parts, tmp_path / "out", method="svd", rank=8)
    expected = combine([Part("b", folders[1], 0.5)], tmp_path / "half", method="cat")
    assert expected.error == 0
    left, right = merged(base, tmp_path / "out"), merged(base, tmp_path / "half")
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=1e-6)


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "DoRA": ([{"use_dora": True}, {}], "DoRA"),
    "biases": ([{"bias": "all"}, {}], "trained biases"),
    "biases of factors": ([{"lora_bias": True}, {}], "lora_bias"),
    "saved modules": ([{"modules_to_save": ["intermediate.dense"]}, {}], "a trained copy of"),
    "trainable tokens": ([{"trainable_token_indices": [1]}, {}], "trainable tokens"),
    "ties": ([{"ensure_weight_tying": True}, {}], "ensure_weight_tying"),
    "initialisations that change the base": ([{"init_lora_weights": "pissa"}, {}], "pissa"),
}


def test_factors_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """A magnitude that the configuration does not speak of, half a pair."""
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / name, i) for i, name in enumerate("ab")]
    tensors = load_file(folders[1] / WEIGHTS)
    name = next(iter(tensors)).partition(".lora_")[0]
    save_file(tensors | {f"{name}.lora_magnitude_vector": torch.ones(8)}, folders[1] / WEIGHTS)
    with pytest.raises(WeightsError, match="lora_magnitude_vector beside"):
        fuse_adapters(folders, tmp_path / "out")
    save_file({n: t for n, t in tensors.items() if n != f"{name}.lora_B.weight"}, folders[1] / WEIGHTS)
    with pytest.raises(WeightsError, match="only one of"):
        fuse_adapters(folders, tmp_path / "out")


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_the_weights_of_the_base_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """Nothing is written."""
    options, law = REFUSED[case]
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / f"a{i}", i, **given) for i, given in enumerate(options)]
    with pytest.raises(WeightsError, match=law):
        fuse_adapters(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_of_different_models_are_refused(tmp_path: Path) -> None:
    """Other shapes, other classes of one base, other bases by name, other kinds."""
    from peft import IA3Config

    base = saved(model("BertModel"), tmp_path / "base")
    wide = saved(model("BertModel", hidden_size=16), tmp_path / "wide")
    one = adapter(base, tmp_path / "one", 1)
    with pytest.raises(WeightsError, match="different bases"):
        fuse_adapters([one, adapter(wide, tmp_path / "other", 2)], tmp_path / "out")
    with pytest.raises(WeightsError, match="different classes"):
        task = adapter(base, tmp_path / "task", 2, "BertForSequenceClassification")
        fuse_adapters([one, task], tmp_path / "out")
    with pytest.raises(WeightsError, match="one kind"):
        other = adapter(base, tmp_path / "ia3", 2,
                        make=lambda: IA3Config(target_modules=["key"], feedforward_modules=[]))  # fmt: skip
        fuse_adapters([one, other], tmp_path / "out")
    two = adapter(base, tmp_path / "two", 2)
    for folder, name in ((one, "acme/base"), (two, "acme/other")):
        config = json.loads((folder / CONFIG).read_text()) | {"base_model_name_or_path": name}
        (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="acme/base, acme/other"):
        fuse_adapters([one, two], tmp_path / "out")
    fuse_adapters([one, two], tmp_path / "out", base="acme/base")
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["base_model_name_or_path"] == "acme/base"


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """In an adapter by its name; the old result stays where it is."""
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / name, i) for i, name in enumerate("ab")]
    before = fuse_adapters(folders, tmp_path / "out").files
    tensors = load_file(folders[1] / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("inf")
    save_file(tensors, folders[1] / WEIGHTS)
    for method in ("cat", "svd"):
        with pytest.raises(WeightsError, match=r"/b: tensor .* NaN or infinity"):
            fuse_adapters(folders, tmp_path / "out", method=method)  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [CONFIG, WEIGHTS]
    assert before
    huge = {name: torch.full_like(tensor, 3e38) for name, tensor in load_file(folders[0] / WEIGHTS).items()}
    save_file(huge, folders[0] / WEIGHTS)
    with pytest.raises(WeightsError, match="too large"):
        fuse_adapters(folders[:1], tmp_path / "out")


def prompt(base: Path, folder: Path, *, start: int, seed: int, **options: Any) -> Path:
    """A soft prompt that began at a random point `start` and was trained a little."""
    from peft import PromptTuningConfig, get_peft_model

    made = started_from("GPT2LMHeadModel", base)
    torch.manual_seed(start)
    settings = options.pop("make", None) or PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    peft = get_peft_model(made, settings)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    peft.save_pretrained(folder)
    return folder


def test_prompts_of_one_beginning_are_averaged_and_others_refused(tmp_path: Path) -> None:
    """The mean of prompts that lie in different places does nothing."""
    from peft import PeftModel, PrefixTuningConfig

    base = saved(model("GPT2LMHeadModel"), tmp_path / "base")
    same = [prompt(base, tmp_path / f"p{seed}", start=1, seed=seed) for seed in (2, 3)]
    report = fuse_adapters(same, tmp_path / "out")
    assert (report.kind, report.method, report.modules) == ("PROMPT", "average", 4)
    name = "prompt_embeddings"
    both = [load_file(folder / WEIGHTS)[name] for folder in same]
    torch.testing.assert_close(load_file(tmp_path / "out" / WEIGHTS)[name], (both[0] + both[1]) / 2)
    loaded = PeftModel.from_pretrained(started_from("GPT2LMHeadModel", base), tmp_path / "out")
    assert loaded(torch.arange(5)[None]).logits.isfinite().all()
    other = prompt(base, tmp_path / "other", start=9, seed=2)
    with pytest.raises(WeightsError, match="different beginnings"):
        fuse_adapters([*same, other], tmp_path / "no")
    prefix = [prompt(base, tmp_path / f"x{s}", start=1, seed=s,
                     make=PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)) for s in (2, 3)]  # fmt: skip
    fuse_adapters(prefix, tmp_path / "prefix")
    PeftModel.from_pretrained(started_from("GPT2LMHeadModel", base), tmp_path / "prefix")
    with pytest.raises(WeightsError, match="one shape"):
        fuse_adapters([*same, prefix[0]], tmp_path / "no")
    for folder in (*same, other):
        change(folder, prompt_tuning_init="TEXT", prompt_tuning_init_text="Classify:", tokenizer_name_or_path="gpt2")
    fuse_adapters([*same, other], tmp_path / "text")
    assert "Classify" not in (tmp_path / "text" / CONFIG).read_text()


def change(folder: Path, **values: Any) -> None:
    """Other values in an adapter's configuration."""
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | values))


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"weights": [1]}, "as many weights"),
        ({"weights": [1, -1]}, "not negative"),
        ({"weights": [0, 0]}, "all zero"),
        ({"weights": [1, float("nan")]}, "finite"), ({"method": "ties"}, "cat, average, svd"),
        ({"rank": 3}, "svd"), ({"method": "svd", "rank": 0}, "rank from 1"),
    ],
)  # fmt: skip
def test_bad_questions_get_an_answer(tmp_path: Path, options: dict[str, Any], law: str) -> None:
    """Before anything is opened."""
    with pytest.raises(MergeError, match=law):
        fuse_adapters([tmp_path / "a", tmp_path / "b"], tmp_path / "out", **options)


def test_inputs_are_not_outputs(tmp_path: Path) -> None:
    """And no adapter counts twice."""
    base = saved(model("BertModel"), tmp_path / "base")
    one, two = (adapter(base, tmp_path / name, i) for i, name in enumerate("ab"))
    for out, law in ((one, "is an input"), (one / WEIGHTS, "not a folder")):
        with pytest.raises(WeightsError, match=law):
            fuse_adapters([one, two], out)
    with pytest.raises(HubFusionError, match="named twice"):
        fuse_adapters([one, one], tmp_path / "out")


def test_the_formulas_agree_with_the_dense_mean() -> None:
    """Odd shapes, zero factors, more columns of factors than the matrix has rows."""
    source = np.random.default_rng(0)
    for rows, columns, ranks in ((7, 5, (2, 3, 4)), (1, 9, (1, 1)), (6, 1, (2,)), (3, 3, (0, 2)), (4, 4, (9, 9))):
        pairs = [Pair(source.normal(size=(r, columns)).astype("f4"), source.normal(size=(rows, r)).astype("f4"),
                      0.5 + r, (-1.0) ** i) for i, r in enumerate(ranks)]  # fmt: skip
        dense = sum((p.coefficient * p.scaling) * (p.b.astype("f8") @ p.a.astype("f8")) for p in pairs)
        for fused in (cat(pairs), svd(pairs, 99)):
            np.testing.assert_allclose(fused.scaling * (fused.b @ fused.a), dense, atol=1e-10)
        small = svd(pairs, 1)
        gap = float(np.square(small.b @ small.a - dense).sum())
        assert small.lost == pytest.approx(gap, abs=1e-9)
    nothing = [Pair(np.zeros((2, 3), "f4"), np.zeros((4, 2), "f4"), 1.0, 1.0)] * 2
    for fused in (cat(nothing), svd(nothing, 1), average(nothing)):
        assert not (fused.b @ fused.a).any()
        assert fused.lost == 0


def test_sixty_four_adapters_need_the_memory_of_one_module(tmp_path: Path) -> None:
    """64 of rank 16 are a rank of 1024: far less than 64 files, and no dense matrix."""
    source = np.random.default_rng(0)
    names = [f"base_model.model.layers.{i}.q_proj.lora_{part}.weight" for i in range(6) for part in "AB"]
    for number in range(64):
        folder = tmp_path / f"a{number:02}"
        folder.mkdir()
        tensors = {name: torch.from_numpy(source.normal(size=(16, 512) if "_A" in name else (512, 16)).astype("f4"))
                   for name in names}  # fmt: skip
        save_file(tensors, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 16}))
    folders = [tmp_path / f"a{number:02}" for number in range(64)]
    for method, rank in (("cat", None), ("svd", 16)):
        tracemalloc.start()
        report = fuse_adapters(folders, tmp_path / method, method=method, rank=rank)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.modules == 6
        assert peak < 60e6  # all factors are 25 MB in float32; side by side one module is 8 MB in float64
    assert report.rank == 16


def test_fusing_adapters_needs_no_torch(tmp_path: Path) -> None:
    """numpy alone, bfloat16 included, as on a small machine beside a 7B base."""
    base = saved(model("BertModel"), tmp_path / "base")
    folders = [adapter(base, tmp_path / name, i) for i, name in enumerate("ab")]
    for folder in folders:
        save_file({n: t.bfloat16() for n, t in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    script = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path; from hub_fusion import fuse_adapters\n"
        f"print(fuse_adapters({[str(f) for f in folders]!r}, Path({str(tmp_path / 'out')!r})).files)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert WEIGHTS in done.stdout, done.stderr
    check_mean(base, folders, [1, 1], tmp_path / "out", "BertModel", 1e-6)


def test_the_command_prints_hashes_and_the_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data to stdout, words to stderr."""
    from typer.testing import CliRunner

    from hub_fusion.cli import app

    base = saved(model("BertModel"), tmp_path / "base")
    folders = [str(adapter(base, tmp_path / name, i)) for i, name in enumerate("ab")]
    common = ["fuse-adapters", *folders, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*common, "--method", "svd", "--rank", "1", "--weights", "1,3"])
    assert done.exit_code == 0, done.output
    assert WEIGHTS in done.stdout
    assert "of the mean change is lost" in done.stderr
    done = CliRunner().invoke(app, [*common, "--json"])
    facts = json.loads(done.stdout)
    assert (facts["method"], facts["rank"], facts["error"], facts["kind"]) == ("cat", 4, 0.0, "LORA")
    for wrong in (["--method", "ties"], ["--weights", "one,two"]):
        assert CliRunner().invoke(app, [*common, *wrong]).exit_code == 2


MOE = {  # stored as one tensor for each expert, and as stacks that lie by inputs, square ones among them
    "Qwen3MoeForCausalLM": {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "head_dim": 4},
    "GptOssForCausalLM": {"num_local_experts": 3, "head_dim": 4, "intermediate_size": 8},
}  # fmt: skip
BOTH = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def mixture(kind: str, folder: Path) -> Path:
    """A mixture of experts."""
    import transformers

    sizes = {"vocab_size": 40, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    torch.manual_seed(0)
    settings = getattr(transformers, kind.replace("ForCausalLM", "Config"))(**sizes | MOE[kind])
    return saved(getattr(transformers, kind)(settings), folder)


@pytest.mark.parametrize("method", ["cat", "svd"])
@pytest.mark.parametrize("kind", MOE)
def test_adapters_of_experts_become_one_that_peft_merges_to_their_mean(tmp_path: Path, kind: str, method: Any) -> None:
    """Of other ranks and scalings, with ordinary modules and without; expert by expert."""
    base = mixture(kind, tmp_path / "base")
    given = [
        {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj"]},
        {"r": 3, "target_modules": [], "use_rslora": True},
    ]
    folders = [adapter(base, tmp_path / f"a{i}", i, kind, target_parameters=list(BOTH), **options)
               for i, options in enumerate(given)]  # fmt: skip
    report = fuse_adapters(folders, tmp_path / "out", method=method, rank=5 if method == "svd" else None,
                           weights=[1.0, 3.0])  # fmt: skip
    assert report.error < 1e-6 and report.rank == 5
    check_mean(base, folders, [1.0, 3.0], tmp_path / "out", kind, 2e-6)
    lossy = fuse_adapters(folders, tmp_path / "less", method="svd", rank=1)
    assert 0 < lossy.error < 1 and lossy.worst and "experts" in lossy.worst[0]
    alike = [
        adapter(base, tmp_path / f"b{i}", i, kind, target_modules=[], target_parameters=list(BOTH)) for i in (5, 6)
    ]
    assert fuse_adapters([alike[0]], tmp_path / "same", method="average").error < 1e-6
    check_mean(base, alike[:1], [1.0], tmp_path / "same", kind, 2e-6)


def test_adapters_of_experts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Other parameters are nested otherwise by PEFT; a rank that is not the factors' leaves the experts open."""
    kind = "Qwen3MoeForCausalLM"
    base = mixture(kind, tmp_path / "base")
    both, one = (adapter(base, tmp_path / f"a{n}", n, kind, target_modules=[], target_parameters=list(BOTH[:n]))
                 for n in (2, 1))  # fmt: skip
    with pytest.raises(WeightsError, match="different target_parameters"):
        fuse_adapters([both, one], tmp_path / "out")
    settings = json.loads((one / CONFIG).read_text())
    for rank, law in ((4, "no whole number of experts"), (None, "no whole number"), (1, "3 experts|6 experts")):
        (one / CONFIG).write_text(json.dumps(settings | {"r": rank}))
        twin = adapter(base, tmp_path / f"twin-{rank}", 9, kind, target_modules=[], target_parameters=[BOTH[0]])
        with pytest.raises(WeightsError, match=law):
            fuse_adapters([one, twin], tmp_path / "out")

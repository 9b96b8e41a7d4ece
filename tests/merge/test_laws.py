"""Laws that every registered merge method keeps, whatever its formula."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion import merge
from hub_fusion.errors import MergeError
from hub_fusion.merge import find_method, merge_method, merge_methods

from .method_harness import run

METHODS = sorted(merge_methods())
SHAPES = [(), (0,), (1,), (7, 5), (3, 1, 2)]
# of n copies of one delta these give that delta
AVERAGES = {
    "mean", "median", "trimmed_mean", "geometric_median", "model_stock", "karcher", "sce", "fisher", "regmean",
}  # fmt: skip
ITERATED = ("geometric_median", "karcher", "wudi")
DECOMPOSED = ("tsv_m", "iso_c", "iso_cts", "subspace_boosting", "knots", "core_space", "regmean")
TOLERANCE = dict.fromkeys((*ITERATED, *DECOMPOSED), 1e-4)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("ties", {"within": "model"}),
    ("ties", {"votes": "frequency", "divisor": "count"}),
    ("dare_ties", {"rescale": "norm", "divisor": "none", "density": 0.5}),
    ("dare", {"rescale": "norm", "density": 0.5}),
    ("della", {"rescale": "norm"}),
    ("breadcrumbs", {"within": "tensor"}),
    ("sce", {"select": 0.5}),
    ("fisher", {"floor": 0.0}),
    ("regmean", {"alpha": 1.0}),
    ("wudi", {"others": "base", "iterations": 20}),
    ("iso_cts", {"common": 0.0}),
    ("iso_cts", {"common": 0.5}),
    ("subspace_boosting", {"inner": "ties"}),
    ("knots", {"inner": "mean"}),
    ("core_space", {"inner": "mean"}),
]
every_method = pytest.mark.parametrize("name", METHODS)
every_variant = pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in METHODS), *VARIANTS],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()) or "default",
)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
seeds = st.integers(0, 2**31)
counts = st.integers(1, 6)


def case(shape: tuple[int, ...], n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random deltas (n, *shape), of sizes from 1e-6 to 1e6, and weights that add up to 1."""
    source = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-6, 7, (n,), generator=source)
    deltas = torch.randn(n, *shape, generator=source) * sizes.reshape(n, *[1] * len(shape))
    weights = torch.rand(n, generator=source) + 0.01
    return deltas, weights / weights.sum()


@every_variant
@every_shape
def test_zero_deltas_merge_to_zero(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Contributions that changed nothing must not move the base."""
    merged = run(name, torch.zeros(4, *shape), torch.full((4,), 0.25), **options)
    assert merged.shape == shape
    assert not merged.any()


@every_variant
@every_shape
@settings(max_examples=12, deadline=None)
@given(n=counts, seed=seeds)
def test_shape_and_dtype_are_kept_and_finite_stays_finite(
    name: str, options: dict[str, Any], shape: tuple[int, ...], n: int, seed: int
) -> None:
    """The engine adds the result to the base's rows in place: it must have their shape, and no NaN may be born."""
    deltas, weights = case(shape, n, seed)
    merged = run(name, deltas, weights, **options)
    assert (merged.shape, merged.dtype, merged.device) == (shape, torch.float32, deltas.device)
    assert merged.isfinite().all()


@every_variant
@every_shape
@settings(max_examples=12, deadline=None)
@given(n=counts, seed=seeds)
def test_same_input_gives_same_output_and_is_not_changed(
    name: str, options: dict[str, Any], shape: tuple[int, ...], n: int, seed: int
) -> None:
    """No hidden state and no randomness of its own; the inputs still belong to the engine."""
    deltas, weights = case(shape, n, seed)
    before = deltas.clone(), weights.clone()
    first = run(name, deltas, weights, **options).clone()
    assert torch.equal(run(name, deltas, weights, **options), first)
    assert torch.equal(deltas, before[0])
    assert torch.equal(weights, before[1])


@every_variant
@every_shape
@settings(max_examples=12, deadline=None)
@given(n=counts, seed=seeds)
def test_order_of_contributions_does_not_matter(
    name: str, options: dict[str, Any], shape: tuple[int, ...], n: int, seed: int
) -> None:
    """Up to the rounding of a sum; the engine's canonical order makes it exact (tests/weights/test_fuse.py)."""
    deltas, weights = case(shape, n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    names = [str(int(i)) for i in order]
    merged = run(name, deltas, weights, **options)
    size = float(torch.cat([deltas.reshape(-1), merged.reshape(-1)]).abs().max()) if deltas.numel() else 0.0
    torch.testing.assert_close(
        run(name, deltas[order], weights[order], names, **options),
        merged,
        rtol=0,
        atol=n * TOLERANCE.get(name, 2**-23) * size,
    )


@every_variant
@settings(max_examples=12, deadline=None)
@given(seed=seeds, shape=st.sampled_from([(2, 3), (1, 4), (4, 1), (3, 2, 2)]))
def test_many_contributions_of_low_rank_stay_finite(
    name: str, options: dict[str, Any], seed: int, shape: tuple[int, ...]
) -> None:
    """More contributions than rows; of rank 1, 0 where nothing changed, and two the same: no NaN is born from these."""
    random = torch.Generator().manual_seed(seed)
    deltas = torch.randn(9, *shape[:1], *[1] * (len(shape) - 1), generator=random) * torch.ones(shape)
    deltas[3], deltas[5] = 0, deltas[4]
    merged = run(name, deltas, torch.full((9,), 1 / 9), **options)
    assert merged.shape == shape
    assert merged.isfinite().all()


@pytest.mark.parametrize("name", sorted(AVERAGES & set(METHODS)))
@every_shape
@settings(max_examples=20, deadline=None)
@given(n=counts, seed=seeds)
def test_copies_of_a_delta_merge_to_that_delta(name: str, shape: tuple[int, ...], n: int, seed: int) -> None:
    """n + 1 roundings: the products, and the sums of weights that add up to 1 within n · 2⁻²⁴."""
    deltas, weights = case(shape, n, seed)
    copies = deltas[:1].expand(n, *shape).contiguous()
    torch.testing.assert_close(run(name, copies, weights), deltas[0], rtol=max((2 * n + 1) * 2**-24, 1e-6), atol=0)


def test_mean_gives_the_example_of_its_docstring() -> None:
    """Σ wᵢ·δᵢ, by hand: ½·[2, 0] + ½·[4, 2] = [3, 1], and ¼ against ¾ gives [3½, 1½]."""
    deltas = torch.tensor([[2.0, 0.0], [4.0, 2.0]])
    assert run("mean", deltas, torch.tensor([0.5, 0.5])).tolist() == [3.0, 1.0]
    assert run("mean", deltas, torch.tensor([0.25, 0.75])).tolist() == [3.5, 1.5]


def test_unknown_method_lists_the_known_ones() -> None:
    """A typing error must be mended from the message alone."""
    with pytest.raises(MergeError, match=f"'meen'; there are {', '.join(METHODS)}"):
        find_method("meen")


@every_method
def test_unknown_option_is_refused_by_every_method(name: str) -> None:
    """A misspelt option that is ignored would silently give another merge."""
    with pytest.raises(MergeError, match="no option 'colour'"):
        find_method(name).bind({"colour": 1})


@every_method
def test_every_method_says_what_it_computes_and_where_it_comes_from(name: str) -> None:
    """hub-fusion methods, the card and the recipe's documentation are made of this."""
    method = find_method(name)
    assert method.formula.__doc__
    assert method.title
    assert re.match(r"https://", method.source)


@every_method
def test_fixed_choices_are_told_in_the_error(name: str) -> None:
    """A choice that is not there would silently be the other one."""
    method = find_method(name)
    for option, values in method.choices.items():
        assert method.options[option] == values[0], "the default comes first"
        with pytest.raises(
            MergeError, match=re.escape(f"option {option!r} of {name!r} is one of {', '.join(values)}, ")
        ):
            method.bind({option: "colour"})


@every_method
def test_options_and_inputs_are_explained(name: str) -> None:
    """What a recipe can set is named in the docstring of the method, or of the one it refers to."""
    method = find_method(name)
    text = method.formula.__doc__ or ""
    text += "".join(f"{find_method(n).formula.__doc__}" for n in METHODS if f"`{n}`" in text)
    unexplained = [o for o in method.options if o not in text and o != "iterations"]
    assert not unexplained


def test_needs_follow_the_options() -> None:
    """The engine reads ``method.whole`` of the bound method, and passes over a tensor once where it may."""
    assert not find_method("dare").bind({}).method.whole
    assert find_method("dare").bind({"rescale": "norm"}).method.whole
    assert {n for n in METHODS if not find_method(n).one_pass} == {
        "geometric_median", "karcher", "model_stock", "sce", "ties",
    }  # fmt: skip
    assert {n for n in METHODS if find_method(n).signed} == {"task_arithmetic"}


def test_other_names_of_a_method_find_it() -> None:
    """SLERP is the Karcher mean of two; the list names each method once."""
    assert find_method("slerp").name == "karcher"
    assert find_method("dare_linear").name == "dare"
    assert not {"slerp", "dare_linear", "linear"} & set(METHODS)


@pytest.fixture
def trimmed() -> Iterator[SimpleNamespace]:
    """A method with options of every kind, registered for one test."""

    @merge_method("Trimmed", source="https://example.org", judged="seen-task")
    def trimmed(
        deltas: torch.Tensor, weights: torch.Tensor, *, density: float = 0.2, rounds: int = 3, signs: bool = True,
        by: str = "rank", order: Literal["up", "down"] = "up",
    ) -> torch.Tensor:  # fmt: skip
        return deltas[0] * density

    yield SimpleNamespace(method=find_method("trimmed"))
    del merge._METHODS["trimmed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"densty": 0.1}, "did you mean 'density'"),
        ({"zzz": 0.1}, "it has by, density, order, rounds, signs"),
        ({"density": "0.1"}, "like 0.2, not '0.1'"),
        ({"density": True}, "like 0.2, not True"),
        ({"density": None}, "like 0.2, not None"),
        ({"density": float("nan")}, "like 0.2, not nan"),
        ({"rounds": 2.5}, "like 3, not 2.5"),
        ({"signs": 1}, "like True, not 1"),
        ({"by": 7}, "like 'rank', not 7"),
        ({"by": ["rank"]}, "like 'rank', not"),
        ({"order": "left"}, "one of up, down, not 'left'"),
        ({"order": 7}, "one of up, down, not 7"),
        ({"density": 1.5}, "between 0 and 1, not 1.5"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_merged(
    trimmed: SimpleNamespace, options: dict[str, Any], message: str
) -> None:
    """The signature is the schema: its names and the types of its defaults."""
    with pytest.raises(MergeError, match=re.escape(message)):
        trimmed.method.bind(options)


@pytest.mark.parametrize("options", [{"density": 1}, {"density": 0.5, "rounds": 2}, {"signs": False, "by": "size"}])
def test_options_like_their_defaults_are_taken(trimmed: SimpleNamespace, options: dict[str, Any]) -> None:
    """A whole number is a fine fraction."""
    merged = trimmed.method.bind(options)(torch.ones(1, 2), torch.ones(1))
    assert merged.tolist() == pytest.approx([options.get("density", 0.2)] * 2)

"""What `hub-fusion methods` says about a method is what its declaration says."""

from __future__ import annotations

from hub_fusion.cli.merge import explain
from hub_fusion.merge import find_method, merge_methods


def test_every_method_is_explained() -> None:
    """Name, source, what it was judged by, options with their defaults, needs: a line each."""
    for method in merge_methods().values():
        lines = explain(method)
        assert lines[:2] == [f"{method.title} ({', '.join((method.name, *method.aliases))})", method.source]
        assert any(line.startswith(f"judged: {method.judged} (") for line in lines)
        options = next(line for line in lines if line.startswith("options: "))
        assert all(f"{name}={value}" in options for name, value in method.options.items())
        needs = next(line for line in lines if line.startswith("needs: "))
        assert ("one pass" in needs) == method.one_pass
        assert all(name in needs for name in method.inputs)


def test_choices_statistics_and_signs_are_told() -> None:
    """Those a user cannot guess."""
    assert "within=tensor (tensor | model)" in "\n".join(explain(find_method("ties")))
    assert "fisher: statistics that every contribution brings; tensors without get the mean" in explain(
        find_method("fisher")
    )
    assert "negative weights subtract" in explain(find_method("task_arithmetic"))
    assert "with some options whole tensors in memory" in "\n".join(explain(find_method("dare")))
    assert explain(find_method("slerp")) == explain(find_method("karcher"))

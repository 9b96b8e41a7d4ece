"""Headers of weights without the weights."""

import json

import pytest
from huggingface_hub.errors import NotASafetensorsRepoError

from ..conftest import safetensors

INDEX = {"metadata": {"total_size": 80}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}


def test_headers_come_by_range(api, repo, push) -> None:
    """Names, shapes and dtypes; the info route has the counts."""
    push(repo, {"model.safetensors": safetensors(rows=3)})
    assert api.get_safetensors_metadata(repo).parameter_count == {"F32": 12}
    assert api.parse_safetensors_file_metadata(repo, "model.safetensors").tensors["w"].shape == [3, 4]
    assert api.model_info(repo).safetensors.total == 12


def test_a_sharded_model_has_the_headers_of_all_its_shards(api, repo, push) -> None:
    """One by one at any revision, or all in one answer from main."""
    shards = {"m-1.safetensors": safetensors(name="a"), "m-2.safetensors": safetensors(name="b", rows=3)}
    push(repo, {"model.safetensors.index.json": json.dumps(INDEX).encode(), **shards})
    api.create_tag(repo, tag="v1")
    found = api.get_safetensors_metadata(repo, revision="v1")
    assert found.sharded and found.weight_map == INDEX["weight_map"] and found.parameter_count == {"F32": 20}
    together = api.get_sharded_safetensors_metadata(repo, filename="model.safetensors.index.json")
    assert together.weight_map == INDEX["weight_map"] and together.parameter_count == {"F32": 20}
    assert api.model_info(repo).safetensors.total == 20


def test_what_has_no_weights_says_so(api, repo) -> None:
    """With the client's own error, which it makes of two missing files."""
    with pytest.raises(NotASafetensorsRepoError):
        api.get_safetensors_metadata(repo)

"""The point of it all: transformers loads a tagged generation from this Hub with HF_ENDPOINT alone."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPT = """
import warnings; warnings.simplefilter("ignore")
import os
from transformers import AutoConfig, BertConfig, BertModel
from huggingface_hub import HfApi
repo, token = "{repo}", "{token}"
model = BertModel(BertConfig(
    hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=32))
model.push_to_hub(repo, token=token, commit_message="gen 1")
HfApi(token=token).create_tag(repo, tag="gen-1")
first = model.embeddings.word_embeddings.weight.detach().clone()
model.embeddings.word_embeddings.weight.data += 1
model.push_to_hub(repo, token=token, commit_message="gen 2")
for revision, offset in (("gen-1", 0), ("main", 1)):
    loaded = BertModel.from_pretrained(repo, revision=revision)
    assert (loaded.embeddings.word_embeddings.weight == first + offset).all()
    print(AutoConfig.from_pretrained(repo, revision=revision).model_type)
"""


def test_a_tagged_model_is_pushed_and_loaded_again(python, alice, repo) -> None:
    """Two generations, told apart by their tag; pushing goes through Xet because the client says so."""
    assert python(SCRIPT.format(repo=repo, token=alice.token)).splitlines()[-2:] == ["bert", "bert"]
    info = alice.model_info(repo, revision="gen-1")
    assert info.safetensors.total > 0 and "bert" in info.tags

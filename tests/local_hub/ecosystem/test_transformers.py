"""transformers, its Trainer and PEFT push to a local Hub and load from it."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

MODEL = """
import warnings; warnings.simplefilter("ignore")
import torch
from huggingface_hub import HfApi
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, pipeline
Model = BertForSequenceClassification
api, repo = HfApi(), "{repo}"
words = Tokenizer(models.WordLevel({{"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=32)
model = Model(config)
def bias(found):
    return round(float(found.classifier.bias[0]))
model.classifier.bias.data.fill_(1)
"""

REVISIONS = """
for part in (model, tokenizer, config):
    part.push_to_hub(repo, private=True)
api.create_tag(repo, tag="v1")
api.create_branch(repo, branch="dev")
first = api.model_info(repo).sha
model.classifier.bias.data.fill_(2)
model.push_to_hub(repo, revision="dev", commit_message="on a branch")
model.classifier.bias.data.fill_(3)
model.push_to_hub(repo, create_pr=True)
model.classifier.bias.data.fill_(4)
model.push_to_hub(repo)
print([bias(Model.from_pretrained(repo, revision=r)) for r in ("v1", first, "dev", "refs/pr/1", "main")])
print(AutoTokenizer.from_pretrained(repo, revision="v1")("a b").input_ids)
print(pipeline("text-classification", model=repo)("a b")[0]["label"] in ("LABEL_0", "LABEL_1"))
print(api.list_repo_commits(repo, revision="dev")[0].title, api.get_discussion_details(repo, 1).is_pull_request)
"""

SHARDS = """
model.push_to_hub(repo, max_shard_size="2KB")
print(sum(name.endswith(".safetensors") for name in api.list_repo_files(repo)) > 1)
loaded = Model.from_pretrained(repo)
print(all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values())))
print(api.model_info(repo).safetensors.total == sum(p.numel() for p in model.parameters()))
"""

ERRORS = """
for name, options in (("alice/none", {{}}), (repo, {{"revision": "none"}}), (repo, {{"token": False}})):
    try:
        Model.from_pretrained(name, **options)
    except OSError as error:
        print(str(error).split(" (")[0].splitlines()[0][:60])
"""

TRAIN = """
from transformers import Trainer, TrainingArguments
model.push_to_hub(repo)
args = TrainingArguments("out", push_to_hub=True, hub_model_id=repo + "-trained", max_steps=2, save_steps=1,
                         report_to=[], hub_strategy="every_save", hub_private_repo=True, use_cpu=True)
base = Model.from_pretrained(repo)
data = [{{"input_ids": [2, 3], "labels": 0}}] * 4
trainer = Trainer(base, args, train_dataset=data, processing_class=tokenizer)
trainer.train()
trainer.push_to_hub(dataset_tags="x/y", tags=["t"])
info = api.model_info(repo + "-trained")
print({{"base_model:finetune:" + repo, "generated_from_trainer", "dataset:x/y", "t"}} <= set(info.tags), info.private)
print([found.id for found in api.list_models(filter="base_model:finetune:" + repo)] == [info.id])
print(Model.from_pretrained(info.id).num_labels)
"""

ADAPTER = """
from peft import LoraConfig, PeftModel, get_peft_model
model.push_to_hub(repo)
adapter = get_peft_model(Model.from_pretrained(repo), LoraConfig(r=2, target_modules=["query"]))
name = repo + "-adapter"
adapter.push_to_hub(name, private=True)
api.create_tag(name, tag="v1")
for key, value in adapter.named_parameters():
    if "lora_B" in key:
        value.data.fill_(1)
adapter.push_to_hub(name)
for revision in ("v1", "main"):
    found = PeftModel.from_pretrained(Model.from_pretrained(repo), name, revision=revision)
    print(max(float(value.detach().abs().max()) for key, value in found.named_parameters() if "lora_B" in key))
direct = Model.from_pretrained(name)
print(type(direct).__name__, api.model_info(name).config["peft"]["base_model_name_or_path"] == repo)
"""


def test_models_tokenizers_and_configs_are_pushed_and_loaded_at_any_revision(script, repo) -> None:
    """A private repository; a tag, a commit, a branch, a pull request, main."""
    assert script(MODEL.format(repo=repo + "-t") + REVISIONS)[-4:] == [
        "[1, 1, 2, 3, 4]",
        "[2, 3]",
        "True",
        "on a branch True",
    ]


def test_shards_make_one_model_again(script, repo) -> None:
    """With the number of parameters that the Hub shows."""
    assert script(MODEL.format(repo=repo) + SHARDS)[-3:] == ["True"] * 3


def test_what_is_missing_is_said_in_the_librarys_words(script, alice, repo) -> None:
    """Not a repository, not a revision, not visible: each is an OSError that says which."""
    alice.update_repo_settings(repo, visibility="private")
    missing = "alice/none is not a local folder and is not a valid model identifier"
    hidden = f"{repo} is not a local folder and is not a valid model identifier"
    assert script((MODEL + ERRORS).format(repo=repo)) == [
        missing[:60],
        ["none is not a valid git identifier", "branch name, tag name or"][0],
        hidden[:60],
    ]


def test_the_trainer_pushes_while_it_trains_and_names_its_base(script, repo) -> None:
    """So that whoever looks for finetunes of the base finds the model."""
    assert script((MODEL + TRAIN).format(repo=repo))[-3:] == ["True True", "True", "2"]


def test_adapters_are_pushed_and_loaded_at_a_revision(script, repo) -> None:
    """By PEFT, and by transformers, which goes from the adapter to its base by itself."""
    assert script((MODEL + ADAPTER).format(repo=repo))[-3:] == ["0.0", "1.0", "BertForSequenceClassification True"]

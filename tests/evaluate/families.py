"""Tiny language models of each family with random weights, and the tokenizers that such models have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub_fusion.evaluate.models import quiet

from .conftest import WORDS, make_bert

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
FAMILIES = ("bert", "gpt2", "llama", "t5", "bart")
KIND = {"bert": "masked", "gpt2": "causal", "llama": "causal", "t5": "seq2seq", "bart": "seq2seq"}
FRAME = {"gpt2": "$A", "llama": "<s> $A", "t5": "$A </s>", "bart": "<s> $A </s>"}  # what the tokenizer adds


def make_family(name: str, folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint with its language-model head; GPT-2's tokenizer has no padding, Llama's has one the model lacks."""
    import torch

    if name == "bert":
        return make_bert(folder, seed=seed)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _model(name).save_pretrained(folder)
        _tokenizer(name).save_pretrained(folder)
    return folder


def _model(name: str) -> Any:
    import transformers as t

    size, ends = len(TOKENS), {"bos_token_id": 1, "eos_token_id": 2}
    if name == "gpt2":
        return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=32, **ends))
    if name == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(
            vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=32, pad_token_id=None, **ends))  # fmt: skip
    if name == "t5":
        return t.T5ForConditionalGeneration(t.T5Config(
            vocab_size=size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
            pad_token_id=0, eos_token_id=2))  # fmt: skip
    return t.BartForConditionalGeneration(t.BartConfig(
        vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, pad_token_id=0,
        decoder_start_token_id=2, forced_eos_token_id=None, **ends))  # fmt: skip


def _tokenizer(name: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(TOKENS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frame = FRAME[name]
    words.post_processor = processors.TemplateProcessing(
        single=frame, pair=frame.replace("$A", "$A $B:1"), special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    padding = {} if name == "gpt2" else {"pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **padding
    )

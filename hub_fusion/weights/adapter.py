"""PEFT adapters on disk → the exact change of each of the base's tensors: the names that other modules use.

adapter_config.py reads what strangers configured, adapter_modules.py and adapter_plan.py say from headers which tensors
change, adapter_change.py computes rows of the changes, adapter_fuse.py fuses adapters into one adapter.
"""

from hub_fusion.weights.adapter_change import Change, load_change
from hub_fusion.weights.adapter_config import AdapterConfig, LoraConfig, read_lora_config
from hub_fusion.weights.adapter_plan import MemoryNames, Target, plan_adapter

__all__ = ["AdapterConfig", "Change", "LoraConfig", "MemoryNames", "Target", "load_change", "plan_adapter",
           "read_lora_config"]  # fmt: skip

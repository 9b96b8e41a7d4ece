"""hub_fusion: recycle community finetunes into better base models on the Hugging Face Hub."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ContributeCallback": "hub_fusion.contribute.callback",
    "check_contribution": "hub_fusion.contribute.check",
    "collect_statistics": "hub_fusion.contribute.statistics",
    "fuse_adapters": "hub_fusion.weights.adapter_fuse",
    "fuse_models": "hub_fusion.weights.local",
    "load_head": "hub_fusion.evaluate.head_model",
    "publish_contribution": "hub_fusion.contribute.upload",
    "read_lineage": "hub_fusion.publish.lineage",
    "run_generation": "hub_fusion.generation",
    "Hub": "hub_fusion.hub",
    "Recipe": "hub_fusion.recipe",
}
__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used: importing hub_fusion imports neither torch nor transformers."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hub_fusion' has no attribute {name!r}; it has {', '.join(sorted(_PUBLIC))}")
    return getattr(import_module(_PUBLIC[name]), name)

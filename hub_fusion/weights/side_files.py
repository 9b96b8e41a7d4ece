"""What lies beside a base's weights and belongs beside the fused ones: configuration, tokenizer, processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.weights.adapter_config import CONFIG
from hub_fusion.weights.checkpoint import TORCH_NAMES

if TYPE_CHECKING:
    from hub_fusion.weights.places import Place

STALE = (".bin", ".h5", ".msgpack", ".pt", ".pth", ".ckpt", ".onnx", ".gguf", ".ot", ".safetensors",
         ".safetensors.index.json", ".bin.index.json", CONFIG)  # fmt: skip


def copy_side_files(base: Place, out: Path, dtype: str | None = None) -> None:
    """Configuration, tokenizer and processor files of the base; no weights of any format, no adapter, card or code.

    The configuration says `dtype` (safetensors' name), if one is given.
    """
    if not isinstance(base, Path):
        base.fetch_side_files(out)
    else:
        for path in sorted(base.iterdir()):
            skip = (
                path.name.startswith(".") or path.name == "README.md" or path.name.endswith((*STALE, ".py", ".partial"))
            )
            if path.is_file() and not skip:
                shutil.copyfile(path, out / path.name)
    if dtype:
        _say_dtype(out / "config.json", TORCH_NAMES[dtype])


def _say_dtype(config: Path, dtype: str) -> None:
    """Let the configuration name another dtype where it names one, which from_pretrained goes by."""
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # nothing that anybody could load
    told = _saying(data, dtype)
    if told != data:
        config.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _saying(data: Any, dtype: str) -> Any:
    if not isinstance(data, dict):
        return data
    return {k: dtype if k in ("dtype", "torch_dtype") and isinstance(v, str) else _saying(v, dtype)
            for k, v in data.items()}  # fmt: skip

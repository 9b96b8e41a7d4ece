"""Images in files → examples: folders ``train/LABEL/*.png``, and how their bytes become what a model takes.

An image stays as its file's bytes until a batch needs it: decoded here, then resized and normalised by the model's own
``preprocessor_config.json``. Formats are PNG, JPEG, WebP and BMP, sizes at most `MOST_PIXELS`: headers are looked at
before anything is decoded. Needs Pillow. Not covered: animations (the first picture counts).
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.errors import RecipeError, WeightsError
from hub_fusion.evaluate.task_files import MOST_FILE_BYTES, Examples, check_rows

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 25_000_000
MOST_SIDE = 4096  # of what a model takes
Array = np.ndarray[Any, Any]


def read_folder(folder: Path) -> Examples:
    """The images in ``folder/LABEL/``; their labels are words. Raises ValueError that names a file."""
    found: list[tuple[str, str, bytes]] = []
    size = 0
    for label in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if not label.is_dir():
            raise ValueError(f"{label.name} lies beside the folders of the labels; put it into one, or remove it")
        for file in sorted(path for path in label.iterdir() if not path.name.startswith(".")):
            name = f"{label.name}/{file.name}"
            if file.suffix.lower() not in SUFFIXES or not file.is_file():
                raise ValueError(f"{name} is none of {', '.join(SUFFIXES)}; convert or remove it")
            if not file.resolve().is_relative_to(folder.parent.resolve()):
                raise ValueError(f"{name} is a link that leaves the task's folder; put the image there")
            size += file.stat().st_size
            check_rows(len(found) + 1)
            if size > MOST_FILE_BYTES:
                raise ValueError(f"its images have more than {MOST_FILE_BYTES} bytes; a part of them tells as much")
            content = file.read_bytes()
            check_image(content, name)
            found.append((label.name, hashlib.sha256(content).hexdigest(), content))
    found.sort(key=lambda image: image[:2])  # by content: names say nothing, and may change
    labels = np.array([label for label, _, _ in found], dtype=object)
    return Examples(as_inputs(content for _, _, content in found), labels)


def as_inputs(images: Iterable[bytes]) -> Array:
    """(n, 1) of bytes."""
    rows = list(images)
    inputs = np.empty((len(rows), 1), dtype=object)
    inputs[:, 0] = rows
    return inputs


def check_image(content: bytes, name: str) -> None:
    """Raise ValueError unless the header is that of an image that may be decoded. Decodes nothing."""
    with _open(content, name):
        pass


def image_encoder(folder: Path, task: str, channels: int) -> Callable[[Array], dict[str, torch.Tensor]]:
    """From images' bytes to ``pixel_values`` float32 (n, channels, height, width), as the model in `folder` expects.

    Raises RecipeError where the model does not say how, WeightsError where what it says cannot be used.
    """
    from transformers import AutoImageProcessor

    from hub_fusion.evaluate.models import SAFE, quiet

    if not (folder / "preprocessor_config.json").is_file():
        raise RecipeError(f"task {task!r} has images in files, and {folder} has no preprocessor_config.json, which "
                          "says how they become pixel_values: publish that of the base's image processor "
                          "(save_pretrained), or write the task as .npz")  # fmt: skip
    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **SAFE)
        sides = [side for side in dict(processor.size or {}).values() if side is not None]
        if any(not 0 < side <= MOST_SIDE for side in sides):
            raise ValueError(f"size is {processor.size}, at most {MOST_SIDE} are taken")
    except Exception as error:  # the configuration may be anything
        raise WeightsError(f"{folder}/preprocessor_config.json cannot be used: {str(error)[:300]}") from None

    def encode(inputs: Array) -> dict[str, torch.Tensor]:
        images = [_decode(content, task, channels) for content in inputs[:, 0]]
        try:
            with quiet():
                return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"].float()}
        except (ValueError, TypeError, RuntimeError) as error:
            raise WeightsError(f"{folder}/preprocessor_config.json does not fit images of {channels} channels: "
                               f"{str(error)[:300]}") from None  # fmt: skip

    return encode


def _decode(content: bytes, task: str, channels: int) -> Image:
    from PIL import ImageOps

    name = f"task {task!r}: the image with sha256 {hashlib.sha256(content).hexdigest()[:16]}…"
    try:
        with _open(content, name) as image:
            return ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise RecipeError(f"{name} cannot be decoded: {error}; replace it") from None


def _open(content: bytes, name: str) -> Image:
    try:
        from PIL import Image as Images
    except ImportError:
        raise RecipeError(f"{name}: images in files need Pillow: install 'hub-fusion[tasks]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of sizes that are an attack
            image = Images.open(io.BytesIO(content), formats=FORMATS)
    except Exception as error:  # a malformed header can fail in any way
        told = "" if isinstance(error, Images.UnidentifiedImageError) else f" ({error})"
        raise ValueError(f"{name} is no {', '.join(FORMATS)} image{told}; convert or remove it") from None
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{name} has {image.width} × {image.height} pixels, more than {MOST_PIXELS}; make it smaller")
    return image

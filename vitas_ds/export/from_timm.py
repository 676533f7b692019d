"""Import vision transformers of timm with their weights: the same logits, preprocessing and origin. Needs timm."""
# P prefix tokens, D embed_dim

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitas_ds.arch.spec import SubnetSpec, check_spec
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Facts, Preprocess
from vitas_ds.export.timm_architecture import spec_of
from vitas_ds.export.weights import check_names, read_weights
from vitas_ds.models.layers import init_weights
from vitas_ds.models.positions import resize_positions
from vitas_ds.models.shapes import check_shapes, shapes_of
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import file_digest

TOKENS = ("cls_token", "dist_token", "reg_token")


@dataclass(frozen=True)
class Imported:
    """A network of timm, and what its model card says.

    Attributes:
        model: The network in evaluation mode.
        preprocess: Its preprocessing in timm.
        facts: Rows of the card.
        license: License of the weights; "unknown" if the name does not say which weights they are.
    """

    model: VisionTransformer
    preprocess: Preprocess
    facts: Facts
    license: str


def import_timm(
    name: str, path: Path | None, num_classes: int | None = None, image_size: int | None = None
) -> Imported:
    """Build the network ``name`` of timm with the weights of a file.

    Args:
        name: Name of the network in timm, optionally with the tag of its weights: ``deit_small_patch16_224.fb_in1k``.
        path: State dict as ``.safetensors`` or of ``torch.save``. None: download the weights through timm.
        num_classes: Replace the classifier by a new one of this many classes.
        image_size: Interpolate the position embedding for images of this size.

    Raises:
        UserError: timm has no such network, this project cannot represent it, or the file does not fit it.
    """
    reference, tensors, facts = _download(name) if path is None else _read(name, path)
    spec = spec_of(reference, name)
    if path is not None:
        tensors = _fitting(tensors, reference, f"{path}: not the weights of timm:{name}")
    if num_classes is None and "head.weight" not in tensors:
        raise UserError(f"{path or f'timm:{name}'}: has no classifier; give the number of classes with --classes")
    model = convert(reference, tensors, spec)
    if num_classes is not None or image_size is not None:
        model = adapt(model, num_classes, image_size)
        facts |= {} if num_classes is None else {"classifier": f"new, of {num_classes} classes, not trained"}
        facts |= {} if image_size is None else {"image size of the weights": spec.image_size}
    settings: dict[str, Any] = dict(getattr(reference, "pretrained_cfg", None) or {})
    known = path is None or "." in name
    license = str(settings.get("license") or "unknown") if known else "unknown"
    return Imported(model, _preprocess(settings, model.spec.image_size, name), facts, license)


def _read(name: str, path: Path) -> tuple[nn.Module, dict[str, Tensor], Facts]:
    """Return the network of timm without weights, the tensors of the file, and where they come from."""
    tensors, key = read_weights(path)
    classes = len(tensors["head.weight"]) if "head.weight" in tensors else 0
    facts: Facts = {
        "architecture": f"timm:{name}",
        "weights": f"{path.name}{f', averaged ({key})' if 'ema' in key else ''}",
        "SHA-256 of the file": file_digest(path),
    }
    return create(name, classes, "avg" if _has_fc_norm(tensors) else None), tensors, facts


def _download(name: str) -> tuple[nn.Module, dict[str, Tensor], Facts]:
    reference = create(name, None, pretrained=True)
    return reference, reference.state_dict(), {"architecture": f"timm:{name}", "weights": "downloaded by timm"}


def create(name: str, num_classes: int | None, pool: str | None = None, pretrained: bool = False) -> nn.Module:
    """Create a network of timm; without ``pretrained``, only its modules and shapes, on the device ``meta``.

    Args:
        name: Name of the network.
        num_classes: Number of classes; 0: no classifier, None: that of timm.
        pool: Pooling; None: that of timm.
        pretrained: Download its weights through timm.

    Raises:
        UserError: timm has no such network, or its weights cannot be downloaded.
    """
    import timm

    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), 1)
        hint = f"; the closest one is {close[0]}" if close else ""
        raise UserError(f"--net timm:{name}: timm {timm.__version__} has no such network{hint}")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    options |= {} if pool is None else {"global_pool": pool}
    try:
        with torch.device("cpu" if pretrained else "meta"):
            return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # of the hub or of timm: many types
        task = "downloaded" if pretrained else "built"
        raise UserError(f"timm:{name}: cannot be {task} ({' '.join(str(error).split())[:200]})") from None


def _has_fc_norm(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the classifier reads the mean of the patches: the final norm follows it, under another name."""
    return "fc_norm.weight" in tensors and "norm.weight" not in tensors


def _fitting(tensors: dict[str, Tensor], reference: nn.Module, where: str) -> dict[str, Tensor]:
    """Return the tensors under timm's names.

    Files of DINOv2 and of DeiT III have other names; timm converts those.

    Raises:
        UserError: Tensors are missing, unexpected or misshapen.
    """
    expected = shapes_of(reference.state_dict())
    if set(tensors) != set(expected) and any(name == "mask_token" or "gamma_" in name for name in tensors):
        tensors = _converted(tensors, reference, expected)
    check_names(where, shapes_of(tensors), expected)
    check_shapes(where, shapes_of(tensors), expected)
    return tensors


def _converted(tensors: dict[str, Tensor], reference: nn.Module, expected: Mapping[str, Any]) -> dict[str, Tensor]:
    from timm.models.vision_transformer import checkpoint_filter_fn

    found, wanted = tensors.get("pos_embed"), expected.get("pos_embed")
    if found is None or wanted is None or found.shape[1] - wanted[1] not in (0, 1):
        return tensors  # timm would interpolate the positions
    return checkpoint_filter_fn(dict(tensors), cast(Any, reference), adapt_layer_scale=True)


def convert(reference: nn.Module, tensors: Mapping[str, Tensor], spec: SubnetSpec | None = None) -> VisionTransformer:
    """Return a network of timm as ours: the same logits, for the dtype of the tensors.

    Args:
        reference: The network; only its modules and shapes are read.
        tensors: Its state dict. Without a classifier, ours is new and not trained.
        spec: Its spec, if the caller has it.

    Raises:
        UserError: The network has something that this project cannot represent.
    """
    spec = spec or spec_of(reference, type(reference).__name__)
    model = VisionTransformer(spec)
    init_weights(model, seed=0)
    model = model.to(tensors["cls_token"].dtype)
    model.load_state_dict(_blank(model) | _our_names(tensors, spec))
    return model.eval()


def _our_names(tensors: Mapping[str, Tensor], spec: SubnetSpec) -> dict[str, Tensor]:
    """Return the tensors of timm under our names: all prefix tokens in one tensor, positions for each of them."""
    found = {name.replace("fc_norm.", "norm."): value for name, value in tensors.items()}
    found["cls_token"] = torch.cat([found.pop(name) for name in TOKENS if name in found], 1)
    positions = found["pos_embed"]
    if positions.shape[1] == spec.num_patches:  # no_embed_class: the prefix tokens have no positions
        none = positions.new_zeros(1, spec.prefix_tokens, spec.embed_dim)
        found["pos_embed"] = torch.cat([none, positions], 1)
    return found


def _blank(model: VisionTransformer) -> dict[str, Tensor]:
    """Return the values of tensors that timm's network may not have: biases of 0, factors of 1, a new classifier."""
    return {
        name: torch.full_like(value, float(name.endswith("gamma"))) if name.endswith(("bias", "gamma")) else value
        for name, value in model.state_dict().items()
    }


def adapt(model: VisionTransformer, num_classes: int | None = None, image_size: int | None = None) -> VisionTransformer:
    """Return a copy of a network with a new classifier, or for another image size.

    Args:
        model: The network.
        num_classes: Classes of the new classifier, whose weights do not depend on anything else; None: keep it.
        image_size: Size of the images; None: keep it. The position embedding is interpolated.

    Raises:
        UserError: The patch size does not divide the image size.
    """
    old = model.spec
    spec = replace(old, num_classes=num_classes or old.num_classes, image_size=image_size or old.image_size)
    check_spec(spec, "--image-size")
    new = VisionTransformer(spec)
    init_weights(new, seed=0)
    tensors = model.state_dict()
    tensors["pos_embed"] = resize_positions(tensors["pos_embed"], spec.num_patches, spec.prefix_tokens)
    if num_classes is not None:
        tensors |= {name: value for name, value in new.state_dict().items() if name.startswith("head")}
    new = new.to(model.pos_embed.dtype)
    new.load_state_dict(tensors)
    return new.train(model.training)


def _preprocess(settings: Mapping[str, Any], image_size: int, name: str) -> Preprocess:
    """Return timm's preprocessing of a network. A difference from ours is a warning."""
    interpolation, mode = settings.get("interpolation", "bicubic"), settings.get("crop_mode") or "center"
    for what, found, ours in (("interpolation", interpolation, "bicubic"), ("crop_mode", mode, "center")):
        if found != ours:
            warnings.warn(f"timm:{name}: timm evaluates it with {what} {found}, this project with {ours}", stacklevel=2)
    resize = math.floor(image_size / float(settings.get("crop_pct") or 0.875))
    usual = Preprocess()
    mean, std = (tuple(settings.get(key) or getattr(usual, key)) for key in ("mean", "std"))
    return Preprocess(resize, mean, std)

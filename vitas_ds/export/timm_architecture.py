"""Which vision transformers of timm this project can represent exactly, and their specs. timm must be installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from vitas_ds.arch.spec import LayerSpec, SubnetSpec, check_spec
from vitas_ds.errors import UserError

MODELS = ("VisionTransformer", "VisionTransformerDistilled")
REASONS = {  # by class: what these networks have and ours do not
    "Eva": "rotary position embeddings", "Beit": "a relative position bias", "SwinTransformer": "windows",
    "SwinTransformerV2": "windows", "VisionTransformerRelPos": "a relative position bias",
    "VisionTransformerSAM": "windows", "Hiera": "windows", "NaFlexVit": "variable image sizes",
    "ParallelScalingBlock": "parallel blocks", "DiffParallelScalingBlock": "parallel blocks",
    "ParallelThingsBlock": "parallel blocks", "ResPostBlock": "norms after the branches",
    "DiffAttention": "differential attention", "AttentionRope": "rotary position embeddings",
    "SwiGLU": "SwiGLU", "SwiGLUPacked": "SwiGLU", "GluMlp": "a gated MLP (SwiGLU)",
    "HybridEmbed": "a convolutional stem",
}  # fmt: skip


def spec_of(model: nn.Module, name: str) -> SubnetSpec:
    """Return the spec of a network of timm.

    Args:
        model: The network; only its modules and shapes are read.
        name: Its name, for error messages.

    Raises:
        UserError: The network has something that this project cannot represent. The message names it.
    """
    m: Any = model
    for reason in _reasons(m):
        raise _unsupported(name, reason)
    norms = {norm.eps for block in m.blocks for norm in (block.norm1, block.norm2)}
    if len(norms) != 1:
        raise _unsupported(name, f"norms with different eps {sorted(norms)}")
    side, patch_size = m.patch_embed.img_size[0], m.patch_embed.patch_size[0]
    spec = SubnetSpec(
        side, patch_size, m.embed_dim, max(m.num_classes, 1), tuple(_layer(block) for block in m.blocks),
        final_norm_eps=_final_norm(m).eps,
        norm_eps=norms.pop(),
        prefix_tokens=m.num_prefix_tokens,
        classifiers=2 if hasattr(m, "head_dist") else 1,
        pool="patches" if m.global_pool == "avg" else "class",
        layer_scale=any(hasattr(block.ls1, "gamma") for block in m.blocks),
    )  # fmt: skip
    check_spec(spec, f"timm:{name}")
    return spec


def _reasons(m: Any) -> Iterator[str]:
    yield from _model_reasons(m)
    for i, block in enumerate(m.blocks):
        yield from (f"{reason} (layer {i})" for reason in _block_reasons(block))
    yield from _head_reasons(m)


def _unsupported(name: str, reason: str) -> UserError:
    return UserError(f"timm:{name}: has {reason}, which is not supported")


def _final_norm(m: Any) -> Any:
    return m.norm if isinstance(m.norm, nn.LayerNorm) else m.fc_norm


def _layer(block: Any) -> LayerSpec:
    attn = block.attn
    layer = LayerSpec(attn.num_heads, attn.qkv.out_features, block.mlp.fc1.out_features)
    usual = abs(attn.scale * layer.head_dim**0.5 - 1) < 1e-12
    return layer if usual else LayerSpec(layer.num_heads, layer.qkv_dim, layer.mlp_dim, float(attn.scale))


def _model_reasons(m: Any) -> Iterator[str]:
    """Yield the unsupported parts of a network, outside of its blocks."""
    kind = type(m).__name__
    if kind not in MODELS:
        yield REASONS.get(kind, f"the architecture {kind}")
        return
    embed = m.patch_embed
    if type(embed).__name__ != "PatchEmbed" or not isinstance(embed.norm, nn.Identity):
        yield REASONS.get(type(embed).__name__, f"a {type(embed).__name__} with a norm or another stem")
        return
    if m.in_chans != 3:
        yield f"{m.in_chans} image channels"
    if len(set(embed.img_size)) > 1 or len(set(embed.patch_size)) > 1:
        yield "images or patches that are not square"
    if m.cls_token is None:
        yield "no class token"
    if m.pos_embed is None:
        yield "no position embedding"
    if not isinstance(m.norm_pre, nn.Identity):
        yield "a norm before the first layer (pre_norm)"


def _head_reasons(m: Any) -> Iterator[str]:
    if m.attn_pool is not None:
        yield "attention pooling"
    elif m.global_pool not in ("token", "avg"):
        yield f"pooling {m.global_pool!r}"
    elif m.global_pool == "avg" and (m.pool_include_prefix or not isinstance(m.fc_norm, nn.LayerNorm)):
        yield "average pooling after the final norm, or of prefix tokens"
    elif not isinstance(_final_norm(m), nn.LayerNorm):
        yield f"a final norm of the kind {type(_final_norm(m)).__name__}"
    elif hasattr(m, "head_dist") and m.reg_token is not None:
        yield "registers beside a distillation token"


def _block_reasons(block: Any) -> Iterator[str]:
    """Yield the unsupported parts of a block."""
    for module, usual in ((block, "Block"), (getattr(block, "attn", None), "Attention"),
                          (getattr(block, "mlp", None), "Mlp")):  # fmt: skip
        kind = type(module).__name__
        if kind != usual and "HeadDimAttention" not in kind:
            yield REASONS.get(kind, f"a {kind} instead of {usual}")
            return
    attn, mlp = block.attn, block.mlp
    if not isinstance(attn.q_norm, nn.Identity):
        yield "qk_norm"
    if not isinstance(getattr(attn, "norm", nn.Identity()), nn.Identity) or not isinstance(mlp.norm, nn.Identity):
        yield "a norm inside of attention or MLP"
    if getattr(attn, "gate", None) is not None:
        yield "gated attention"
    if not isinstance(mlp.fc1, nn.Linear):
        yield "an MLP of convolutions"
    if type(mlp.act).__name__ != "GELU" or getattr(mlp.act, "approximate", "none") != "none":
        yield f"the activation {type(mlp.act).__name__}; the supported one is GELU"
    for norm in (block.norm1, block.norm2):
        if not isinstance(norm, nn.LayerNorm):
            yield f"norms of the kind {type(norm).__name__}"

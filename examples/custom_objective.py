"""Search with an objective of your own: any function that maps a network to a number, higher is better.

Here: many parameters in few layers, within a budget of 600,000 to 1,200,000 multiply-accumulates. In practice the
function may train the network for a minute, or read a table.
"""

import vitas_ds

space = vitas_ds.SearchSpace(
    image_size=32, num_classes=10, patch_sizes=(8, 16), embed_dim=64, depth=6, num_heads=(1, 2, 4),
    qkv_dim=96, mlp_dim=128, ratios=(0.25, 0.5, 0.75, 1.0),
)  # fmt: skip


def score(spec: vitas_ds.SubnetSpec) -> float:
    """Return thousands of parameters per layer."""
    return vitas_ds.spec_params(spec) / 1e3 / max(1, len(spec.active))


result = vitas_ds.search_nets(space, score, macs=(600_000, 1_200_000), population=20, generations=5)
best = result.best
print(f"{len(result.candidates)} networks scored, best {best.value:.2f} with {best.costs['macs']:,} MACs")
for layer in best.spec.active:
    print(f"  {layer.num_heads} heads, qkv_dim {layer.qkv_dim}, mlp_dim {layer.mlp_dim}")

"""Compute the cost of a network: multiply-accumulates and parameters.

python examples/cost.py [SPEC.json]          default: the published DeiT-S
"""

import sys
from pathlib import Path

import vitas_ds

spec = vitas_ds.read_spec(Path(sys.argv[1])) if len(sys.argv) > 1 else vitas_ds.published("deit-s").spec
print(f"{len(spec.active)} layers, patch size {spec.patch_size}, embed_dim {spec.embed_dim}")
print(f"{vitas_ds.spec_macs(spec) / 1e9:.2f} GMACs, {vitas_ds.spec_params(spec) / 1e6:.2f} M parameters")

"""Train the network found by a search, in a plain torch loop.

    python examples/train_loop.py [SPEC.json]          for example runs/quickstart/search/best.json

Replace the random images by your own. Without a file, the network is a small one.
"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import vitas_ds

torch.manual_seed(0)
small = vitas_ds.SubnetSpec(28, 7, 48, 10, (vitas_ds.LayerSpec(2, 96, 96),) * 3)
spec = vitas_ds.read_spec(Path(sys.argv[1])) if len(sys.argv) > 1 else small
net = vitas_ds.VisionTransformer(spec)
images = torch.randn(64, 3, spec.image_size, spec.image_size)
labels = torch.arange(64) % spec.num_classes
adamw = torch.optim.AdamW(net.parameters(), lr=1e-3)
for step in range(20):
    loss = cross_entropy(net(images), labels)
    adamw.zero_grad()
    loss.backward()
    adamw.step()
    if step % 5 == 0 or step == 19:
        print(f"step {step:2}  loss {loss.item():.4f}")

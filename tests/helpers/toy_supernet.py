"""A toy supernet whose steps use different parameters, and its reference: the same training in plain torch."""
# B batch, D width

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitas_ds import config
from vitas_ds.distributed.comm import Ranks, gather
from vitas_ds.engine.engine import Engine
from vitas_ds.engine.precision import autocast
from vitas_ds.models.flat import FlatModule, tensor_places

STEMS, LAYERS, WIDTH, CLASSES = 2, 3, 24, 5
CPU = torch.device("cpu")
Subnet = tuple[int, tuple[int, ...], int]  # stem, layers, number of output channels of each layer


class Toy(nn.Module):
    """Alternative stems, layers that can be skipped and sliced, and a norm and a head that all subnets use."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stems = nn.ModuleList(nn.Linear(8, WIDTH) for _ in range(STEMS))
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)]) for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("scale", torch.tensor([0.5]))

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        stem, layers, width = subnet
        x = self.stems[stem](x)
        for i in layers:
            norm, linear = self.layers[i]
            out = nn.functional.linear(norm(x), linear.weight[:width], linear.bias[:width])
            x = x + self.scale * nn.functional.pad(torch.tanh(out), (0, WIDTH - width))
        return self.head(self.norm(x))

    def units(self) -> dict[str, list[nn.Parameter]]:
        units = {f"stem{i}": list(stem.parameters()) for i, stem in enumerate(self.stems)}
        units |= {f"layer{i}": list(layer.parameters()) for i, layer in enumerate(self.layers)}
        return units | {"head": [*self.norm.parameters(), *self.head.parameters()]}

    def units_used(self, subnet: Subnet) -> set[str]:
        return {f"stem{subnet[0]}", "head"} | {f"layer{i}" for i in subnet[1]}


def flatten(module: nn.Module) -> FlatModule:
    """Return a module with the same tensors in one flat parameter."""
    flat = FlatModule()
    flat.add_flat("flat", {name: tuple(p.shape) for name, p in module.named_parameters()})
    flat.load_state_dict(module.state_dict())
    return flat


class FlatToy(Toy):
    """The same network, with all tensors of a module in one flat parameter."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.stems = nn.ModuleList(map(flatten, self.stems))
        self.layers = nn.ModuleList(map(flatten, self.layers))
        self.norm, self.head = flatten(self.norm), flatten(self.head)

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        stem, layers, width = subnet
        x = call(self.stems[stem], lambda t: nn.functional.linear(x, t["weight"], t["bias"]))
        for i in layers:
            x = x + call(self.layers[i], self._layer, x, width)
        x = call(self.norm, lambda t: nn.functional.layer_norm(x, (WIDTH,), t["weight"], t["bias"]))
        return call(self.head, lambda t: nn.functional.linear(x, t["weight"], t["bias"]))

    def _layer(self, t: dict[str, Tensor], x: Tensor, width: int) -> Tensor:
        x = nn.functional.layer_norm(x, (WIDTH,), t["0.weight"], t["0.bias"])
        out = nn.functional.linear(x, t["1.weight"][:width], t["1.bias"][:width])
        return self.scale * nn.functional.pad(torch.tanh(out), (0, WIDTH - width))


def call(module: FlatModule, function: Callable[..., Tensor], *args: object) -> Tensor:
    """Call a function of the tensors of a module, as its forward pass: ZeRO 3 gathers the parameters for this time."""
    return module(lambda: function({name: place.view() for name, place in module.places().items()}, *args))


@dataclass(frozen=True)
class Case:
    """A training configuration."""

    zero: str = "zero1"
    precision: str = "fp32"
    clip: float = 0.0
    accumulate: int = 1
    subnets: int = 1  # subnets per step; their losses are averaged, with one backward pass for each
    joint: bool = False  # one backward pass of the summed losses instead
    forwards_first: bool = False  # all forward passes before the first backward pass
    ema: float = 0.0
    steps: int = 8
    batch: int = 16
    flat: bool = False  # flat parameters

    def training(self) -> config.Training:
        return config.Training(
            batch_size=self.batch, grad_accum_steps=self.accumulate, clip_grad=self.clip, ema_decay=self.ema, lr=1e-2
        )

    def engine(self) -> config.Engine:
        return config.Engine(zero=self.zero, precision=self.precision)


def subnets_of(step: int, count: int) -> list[Subnet]:
    rng = torch.Generator().manual_seed(1000 + step)
    draw = lambda high: int(torch.randint(high, (), generator=rng))  # noqa: E731
    return [(draw(STEMS), tuple(i for i in range(LAYERS) if draw(2)), (12, 18, WIDTH)[draw(3)]) for _ in range(count)]


def batch_of(step: int, size: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(step)
    return torch.randn(size, 8, generator=rng), torch.randint(CLASSES, (size,), generator=rng)


def lr_of(step: int) -> float:
    return 1e-2 / (1 + step % 3)


def start(case: Case, ranks: Ranks) -> Engine:
    model = FlatToy() if case.flat else Toy()
    return Engine(model, model.units(), case.engine(), case.training(), ranks)


def train(engine: Engine, case: Case, first: int, last: int) -> list[float]:
    """Train steps [first, last). Returns the gradient norm of each."""
    return [train_step(engine, case, step) for step in range(first, last)]


def train_step(engine: Engine, case: Case, step: int) -> float:
    ranks, subnets = engine.ranks, subnets_of(step, case.subnets)
    share = case.batch // ranks.world_size
    batch = (t[ranks.rank * share :][:share].to(ranks.device) for t in batch_of(step, case.batch))
    x, y = (t.chunk(case.accumulate) for t in batch)
    for part in range(case.accumulate):
        losses = (
            nn.functional.cross_entropy(engine(x[part], subnet).float(), y[part]) / (case.accumulate * len(subnets))
            for subnet in subnets
        )
        if case.forwards_first:
            losses = list(losses)
        if case.joint:
            engine.backward(sum(losses))
        else:
            for loss in losses:
                engine.backward(loss)
    used = set().union(*(engine.model.units_used(subnet) for subnet in subnets))
    return engine.step(used, lr_of(step)).norm


def reference(
    case: Case, zero_grads: bool = False, device: torch.device = CPU
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float]]:
    """Train with torch.optim.AdamW on the whole batch. Returns weights, averaged weights and gradient norms.

    AdamW skips a parameter whose gradient is None. ``zero_grads`` replaces None by zeros, which gives other weights.
    """
    model, training, norms = Toy().to(device), case.training(), []
    flat = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": flat, "weight_decay": 0.0}, {"params": [p for p in model.parameters() if p.ndim > 1]}]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=training.betas, weight_decay=training.weight_decay)
    ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(case.steps):
        x, y = (t.to(device) for t in batch_of(step, case.batch))
        subnets = subnets_of(step, case.subnets)
        adamw.zero_grad()
        with autocast(case.precision, device):
            logits = [model(x, subnet) for subnet in subnets]
        sum(nn.functional.cross_entropy(out.float(), y) / len(subnets) for out in logits).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(float(nn.utils.get_total_norm(grads)))
        if case.clip:
            nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if zero_grads and p.grad is None else p.grad
        for group in adamw.param_groups:
            group["lr"] = lr_of(step)
        adamw.step()
        with torch.no_grad():
            for name, p in model.named_parameters():
                ema[name].lerp_(p, 1 - case.ema)
    return {name: p.detach().clone() for name, p in model.named_parameters()}, ema, norms


def unused_names(engine: Engine, case: Case, step: int) -> set[str]:
    """Return the names of the tensors unused in a step."""
    used = set().union(*(engine.model.units_used(subnet) for subnet in subnets_of(step, case.subnets)))
    unit_of = {p: unit for unit, params in engine.model.units().items() for p in params}
    return {name for name, place in tensor_places(engine.model).items() if unit_of[place.parameter] not in used}


class TensorAdamW:
    """torch.optim.AdamW on copies of the named tensors of a network: the reference where parameters are flat."""

    def __init__(self, model: nn.Module, training: config.Training, lr: float) -> None:
        self.places = tensor_places(model)
        self.copies = {name: nn.Parameter(place.view().detach().clone()) for name, place in self.places.items()}
        groups = [
            {"params": [p for p in self.copies.values() if p.ndim > 1], "weight_decay": training.weight_decay},
            {"params": [p for p in self.copies.values() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=lr, betas=training.betas)

    @torch.no_grad()
    def step(self) -> None:
        for name, place in self.places.items():
            grad = place.parameter.grad
            self.copies[name].grad = None if grad is None else place.within(grad)
        self.adamw.step()
        for name, place in self.places.items():
            place.view().copy_(self.copies[name])


def full_state(engine: Engine) -> dict[str, Tensor]:
    """Return the whole state for the next steps: all kinds of tensors, and the step counts."""
    counts = {f"steps/{unit}": torch.tensor(float(n)) for unit, n in engine.optimizer.steps.items()}
    return counts | {f"{kind}/{name}": t for kind in engine.kinds for name, t in gather_tensors(engine, kind).items()}


def gather_tensors(engine: Engine, kind: str = "weight") -> dict[str, Tensor]:
    """Assemble a kind of tensor of all parameters from the parts of all ranks."""
    rows = [
        (p.name, p.source, tensor.detach().view(-1)[p.offset : p.offset + p.length].clone())
        for owner, tensor in engine.tensors(kind).items()
        for p in engine.owned[owner]
    ]
    out = {name: torch.full(shape, torch.nan) for name, shape in engine.shapes.items()}
    for row in gather(rows):
        for name, source, part in row:
            out[name].view(-1)[source : source + part.numel()] = part
    return out


def max_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)

"""Stage export: a net as a folder that ``vitas_ds.load`` reads, for timm, ONNX and torch.export as well."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vitas_ds.config import Config
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import read_folder
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.export import to_onnx
from vitas_ds.export.card import Accuracy, model_card
from vitas_ds.export.folder import (
    Facts,
    Preprocess,
    read_facts,
    read_model,
    read_preprocess,
    weights_digest,
    whole_folder,
    write_files,
)
from vitas_ds.export.to_onnx import Net
from vitas_ds.export.to_timm import build_timm, to_timm, write_timm
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import write_text
from vitas_ds.run.run_dir import RunDir, read_summary, update_summary
from vitas_ds.run.start import find_run, open_run
from vitas_ds.run.tracking import open_tracker

TOPS = "top-1 / top-5"
UNITS = {  # of a search's bounds, for the card
    "macs": "MACs", "vitas_flops": "ViTAS FLOPs", "params": "parameters", "activations": "bytes of activations",
    "latency": "seconds a batch", "throughput": "images a second",
}  # fmt: skip
Found = tuple[dict[str, str], dict[str, Any]]  # lines of the card by file, and numbers for summary.json


def run(config: Config) -> None:
    """Write ``runs/NAME/export/``, with a model card of what was measured."""
    ranks = comm.init("cpu", config.run.timeout)
    folder = find_run(config)
    source = folder.retrain_model if config.export.model == "retrain" else Path(config.export.model)
    if config.export.model == "retrain" and not folder.retrain_weights.exists():
        raise UserError(f"{folder.retrain_model}: is not there yet; run the stage retrain first")
    if ranks.is_main:  # nobody waits for it: to measure int8 may take long
        _export(config, folder, source)


def _export(config: Config, folder: RunDir, source: Path) -> None:
    model, preprocess = read_model(source), read_preprocess(source)
    summary, sha256 = read_summary(folder), weights_digest(source)
    before = summary.get("export", {}).get("made", {}) if folder.export.is_dir() else {}
    if before.get("sha256") == sha256:
        config = _with_earlier(config, before["options"])
    if config.export.onnx:
        to_onnx.require("onnx", "onnxscript", "onnxruntime")
    accuracy = _accuracy(summary, sha256)
    facts = _with_accuracy(_own_facts(config) if config.export.model == "retrain" else read_facts(source), accuracy)
    made = {"sha256": sha256, "options": config.export.model_dump(), "facts": facts}
    if made == before:
        print(f"export: done already, {folder.export}")
        return
    open_run(config, True, stage="export")
    with whole_folder(folder.export) as aside:
        write_files(model, aside, preprocess, facts)
        files, numbers = _timm(model, aside, preprocess) if config.export.timm else ({}, {})
        for more in (_graphs(config, model, aside), _int8(config, model, aside, preprocess)):
            files, numbers = files | more[0], numbers | more[1]
        card = model_card(model.spec, folder.name, facts, accuracy, files, config.export.license)
        write_text(aside / "README.md", card)
    size = folder.export_weights.stat().st_size
    kept = {"dir": str(folder.export), "model": str(source), "bytes": size, "checks": numbers, "made": made}
    update_summary(folder, "export", kept)
    with open_tracker(config, folder, "export", True) as tracker:
        tracker.artifact(f"{folder.name}-model", "model", folder.export)
        tracker.summary(kept)
    print(f"export: {folder.export} ({size / 1e6:.1f} MB{''.join(f', {name}' for name in files)})".replace("`", ""))


def _with_earlier(config: Config, options: dict[str, Any]) -> Config:
    """With the files that an earlier export of the same weights has made: left out, what they cost would be lost."""
    kept = {name: True for name in ("program", "onnx", "int8") if options[name]}
    return config.model_copy(update={"export": config.export.model_copy(update=kept)})


def _own_facts(config: Config) -> Facts:
    """Rows of the card that the run itself can vouch for; a folder's name says enough of where images lie."""
    training, word = config.retrain, config.retrain.spec
    facts: Facts = {"training images": "/".join(Path(config.data.train).parts[-2:])}
    facts["training"] = (
        f"{training.epochs} epochs in batches of {training.batch_size:,}, AdamW, peak learning rate {training.lr:g}"
    )
    if word.startswith("search:"):
        limits = [f"{low:,.10g} to {high:,.10g} {UNITS[name]}" for name, (low, high) in config.search.budget.items()]
        facts["architecture"] = f"found by a search ({word}); budget: {', '.join(limits) or 'none'}"
    else:
        facts["architecture"] = f"given: {Path(word).name}"
    return facts


def _accuracy(summary: dict[str, Any], sha256: str | None) -> Accuracy | None:
    """What the stage evaluate measured, if it was with these very weights."""
    found = summary.get("evaluate", {})
    if "top1" not in found or found.get("sha256") != sha256:
        return None
    return Accuracy("/".join(Path(found["val"]).parts[-2:]), found["images"], found["top1"], found["top5"])


def _with_accuracy(facts: Facts, accuracy: Accuracy | None) -> Facts:
    """``facts`` with a row for the accuracy; those of another folder may have one from an earlier run."""
    known = {name: value for name, value in facts.items() if name != "accuracy"}
    if accuracy is None:
        return known if TOPS in known else known | {"accuracy": "not evaluated"}
    shares = f"{accuracy.top1:.2%} / {accuracy.top5:.2%}"
    return known | {TOPS: f"{shares} of {accuracy.images:,} images", "validation images": accuracy.dataset}


def _timm(model: VisionTransformer, folder: Path, preprocess: Preprocess) -> Found:
    """``timm/`` where timm can express the net."""
    try:
        net = to_timm(model)
    except UserError as error:
        print(f"export: no timm/: {error}")
        return {}, {}
    write_timm(model, folder / "timm", preprocess)
    if find_spec("timm") is None:
        print("export: timm/ is not checked: timm is not installed; pip install -e '.[export]'")
        return {"`timm/`": "for timm 1.0; not checked against it"}, {}
    apart = to_onnx.check(model, build_timm(net), "timm/")
    return {"`timm/`": f"for timm; logits of timm {version('timm')} differ by {apart:.1g}"}, {"timm": {"apart": apart}}


def _graphs(config: Config, model: VisionTransformer, folder: Path) -> Found:
    """``model.pt2`` and ``model.onnx``, checked against PyTorch."""
    lines, numbers = {}, {}
    size = model.spec.image_size
    program = to_onnx.trace(model) if config.export.program or config.export.onnx else None
    if program is not None and config.export.program:
        apart = to_onnx.check(model, to_onnx.write_program(program, folder / "model.pt2"), "model.pt2")
        what = f"`torch.export.load(...).module()`, written by torch {torch.__version__}"
        lines["`model.pt2`"] = f"{what}; logits differ by {apart:.1g} from PyTorch's"
        numbers["program"] = {"apart": apart}
    if program is not None and config.export.onnx:
        net = to_onnx.write_onnx(program, folder / "model.onnx", config.export.opset)
        apart = to_onnx.check(model, net, "model.onnx")
        what = f"float32, opset {config.export.opset}, images [batch, 3, {size}, {size}] to logits"
        lines["`model.onnx`"] = f"{what}; those of onnxruntime {version('onnxruntime')} differ by {apart:.1g}"
        numbers["onnx"] = {"apart": apart, "opset": config.export.opset}
    return lines, numbers


def _int8(config: Config, model: VisionTransformer, folder: Path, preprocess: Preprocess) -> Found:
    """``model_int8.onnx``, its accuracy beside that of the float32 net on the same images."""
    if not config.export.int8:
        return {}, {}
    path = folder / "model_int8.onnx"
    net = to_onnx.quantise(folder / "model.onnx", path)
    apart, _ = to_onnx.difference(model, net)
    numbers = {"apart": apart, "bytes": path.stat().st_size}
    line = f"linear layers in int8, activations quantised as they come; logits differ by {apart:.1g}"
    if not config.data.val:
        print("export: the accuracy of model_int8.onnx is not measured: data.val is empty")
        return {"`model_int8.onnx`": f"{line}; its accuracy is not measured"}, {"int8": numbers}
    measured = _compare(config, model, net, preprocess)
    line += "; top-1 {int8_top1:.2%}, float32 {top1:.2%}, of the same {images:,} images".format(**measured)
    return {"`model_int8.onnx`": line}, {"int8": numbers | measured}


def _compare(config: Config, model: VisionTransformer, net: Net, preprocess: Preprocess) -> dict[str, Any]:
    """Top-1 of the model and of ``net`` on the validation images."""
    images = read_folder(config.data.val)
    if len(images.classes) != model.spec.num_classes or preprocess.classes not in ((), images.classes):
        raise UserError(f"data.val: {config.data.val} has other classes than {config.export.model} was trained on")
    print(f"export: counting model_int8.onnx's hits on {len(images):,} images", flush=True)
    ranks = Ranks(0, 1, 0, torch.device("cpu"))  # rank 0 alone exports
    data, size = preprocess.apply_to(config.data), model.spec.image_size
    hits = {"top1": 0, "int8_top1": 0}
    for batch in eval_batches(images, data, size, config.data.eval_batch_size, ranks):
        with torch.inference_mode():
            for name, one in (("top1", model), ("int8_top1", net)):
                hits[name] += int((one(batch.images).argmax(1) == batch.labels).sum())
    shares = {name: count / len(images) for name, count in hits.items()}
    return {"images": len(images), "val": config.data.val, **shares, "change": shares["int8_top1"] - shares["top1"]}

"""Stage export: write a network as a folder for ``vitas_ds.load``, and for timm, torch.export and ONNX."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vitas_ds.arch.spec import read_spec
from vitas_ds.config import RANDOM_IMAGES, Config
from vitas_ds.config.absolute import with_absolute_paths
from vitas_ds.data.loader import eval_batches
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.elastic.order import REORDERED, read_order
from vitas_ds.elastic.reorder import restore
from vitas_ds.errors import UserError
from vitas_ds.export import hub, to_onnx
from vitas_ds.export.card import LICENSE, Accuracy, model_card, read_license
from vitas_ds.export.digests import is_intact, settings_digest
from vitas_ds.export.folder import (
    Facts,
    Preprocess,
    atomic_folder,
    file_digests,
    read_facts,
    read_model,
    read_preprocess,
    weights_digest,
    write_model_files,
)
from vitas_ds.export.kept import origin_facts
from vitas_ds.export.to_onnx import Forward
from vitas_ds.export.to_timm import add_to_config, build_timm, to_timm, write_timm
from vitas_ds.models.hits import top_hits
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import write_text
from vitas_ds.run.manifest import read_starts
from vitas_ds.run.metrics import clock
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.run.start import find_run, open_run
from vitas_ds.run.summary import read_summary, update_summary, write_result
from vitas_ds.run.tracking import open_tracker
from vitas_ds.search.latency.facts import latency_facts
from vitas_ds.search.selector import ListEntry, Source, find_source, parse_choice
from vitas_ds.stages.common import model_folder, validation_images
from vitas_ds.stages.source_run import supernet_run

TOP1_TOP5 = "top-1 / top-5"
UNITS = {  # of the search budget, for the model card
    "macs": "MACs", "vitas_flops": "ViTAS FLOPs", "params": "parameters", "activations": "bytes of activations",
    "latency": "seconds a batch", "throughput": "images a second",
}  # fmt: skip
Checks = tuple[dict[str, str], dict[str, Any]]  # line of the model card by file, and numbers for summary.json


def run(config: Config, push_to: str | None = None, private: bool = False) -> None:
    """Write ``runs/NAME/export/`` with a model card of all measurements.

    Args:
        config: Configuration of the run.
        push_to: Name of a model on the Hugging Face hub that receives the folder.
        private: Make a new model there private.
    """
    if push_to is not None:
        hub.check_push(push_to)
    elif private:
        warnings.warn("--private: ignored without --push-to-hub NAME", stacklevel=2)
    config = with_absolute_paths(config)  # the export is the same one if the next start is in another folder
    ranks = comm.init("cpu", config.run.timeout)
    run_dir = find_run(config)
    source = model_folder(config.export.model, "export.model", run_dir)
    if ranks.is_main:  # without a barrier: measuring the int8 file may take longer than run.timeout
        _export(config, run_dir, source)
        if push_to is not None:
            print(f"export: {run_dir.export} is now {hub.push(run_dir.export, push_to, private)}")


def _export(config: Config, run_dir: RunDir, source: Path) -> None:
    model, preprocess = _read_original(source), read_preprocess(source)
    summary, sha256 = read_summary(run_dir), weights_digest(source)
    previous = summary.get("export", {}).get("made", {}) if run_dir.export.is_dir() else {}
    if previous.get("sha256") == sha256:
        config = _keep_files(config, previous["options"])
    if config.export.onnx:
        to_onnx.require_packages("onnx", "onnxscript", "onnxruntime")
    accuracy = _accuracy(summary, sha256, settings_digest(source))
    of_run = config.export.model == "retrain"
    facts = _run_facts(config, run_dir) | latency_facts(run_dir, model.spec) if of_run else _source_facts(source)
    facts = _with_accuracy(facts, accuracy) | {"preprocessing": preprocess.describe(model.spec.image_size)}
    made: dict[str, Any] = {"sha256": sha256, "options": config.export.model_dump(), "facts": facts}
    if config.export.int8:  # its accuracy is measured once there are images
        made["int8 images"] = config.data.val or previous.get("int8 images", "")
    if made == previous and is_intact(run_dir.export):
        print(f"export: done already, {run_dir.export}")
        return
    numbers: dict[str, Any] = {"dir": str(run_dir.export), "model": str(source), "made": made}
    files, numbers = _write_folder(
        config, run_dir, model, preprocess, accuracy, _license(config, facts, source), numbers
    )
    update_summary(run_dir, "export", numbers)
    with open_tracker(config, run_dir, "export", True) as tracker:
        tracker.artifact(f"{run_dir.name}-model", "model", run_dir.export)
        tracker.summary(numbers)
    size = numbers["bytes"] / 1e6
    print(f"export: {run_dir.export} ({size:.1f} MB{''.join(f', {name}' for name in files)})".replace("`", ""))


def _read_original(source: Path) -> VisionTransformer:
    """Return the model of a folder, with its units in the order before ``vitas reorder``."""
    model = read_model(source)
    order = read_order(source, model.spec)
    if order is not None:
        restore(model, order)
    return model


def _source_facts(source: Path) -> Facts:
    return {name: value for name, value in read_facts(source).items() if name != REORDERED}


def _write_folder(
    config: Config, run_dir: RunDir, model: VisionTransformer, preprocess: Preprocess, accuracy: Accuracy | None,
    license: str, numbers: dict[str, Any],
) -> Checks:  # fmt: skip
    """Write and check the files, and replace ``export/`` once all are complete. Return lines and headline numbers."""
    facts: Facts = numbers["made"]["facts"]
    open_run(config, True, stage="export")
    with atomic_folder(run_dir.export) as folder:
        write_model_files(model, folder, preprocess, facts)
        files, checks = _timm(model, folder, preprocess) if config.export.timm else ({}, {})
        for more in (_graphs(config, model, folder), _int8(config, model, folder, preprocess)):
            files, checks = files | more[0], checks | more[1]
        digests = file_digests(folder)
        card = model_card(model.spec, run_dir.name, facts, accuracy, files, license, digests)
        write_text(folder / "README.md", card)
        numbers |= {"bytes": (folder / "model.safetensors").stat().st_size, "checks": checks}
        write_result(run_dir, "export", numbers, folder / "README.md")
    return files, numbers


def _keep_files(config: Config, options: dict[str, Any]) -> Config:
    """Add the files that an earlier export of the same weights wrote: the new folder replaces the old one."""
    kept = {name: True for name in ("program", "onnx", "int8") if options[name]}
    return config.model_copy(update={"export": config.export.model_copy(update=kept)})


def _run_facts(config: Config, run_dir: RunDir) -> Facts:
    """Return facts about this run. Only folder names are used: paths of this machine do not belong in a card."""
    training, choice = config.retrain, config.retrain.spec
    facts: Facts = {"training images": RANDOM_IMAGES if config.data.synthetic else _two_names(config.data.train)}
    facts["training"] = (
        f"{training.epochs} epochs in batches of {training.batch_size:,}, AdamW, peak learning rate {training.lr:g}"
        if training.epochs
        else "none: the initial weights"
    )
    facts |= _training_time(run_dir)
    if training.init != "scratch":
        facts["initial weights"] = "those of the supernet" if training.init == "supernet" else _two_names(training.init)
    if training.teacher.model:
        facts["teacher"] = f"{_two_names(training.teacher.model)}, {training.teacher.kind} labels"
    if source := find_source(choice):
        facts["architecture"] = f"found by a search ({source.choice}); budget: {_budget(config, source)}"
    else:
        facts["architecture"] = f"given: {Path(choice).name}"
    return facts | _origin(config, run_dir)


def _origin(config: Config, run_dir: RunDir) -> Facts:
    """Return the origin of the weights of a subnet of a pretrained network, and the parts kept."""
    folder = supernet_run(config).pretrained
    inherited = config.retrain.init == "supernet" and (folder / "spec.json").is_file()
    return origin_facts(folder, read_spec(run_dir.retrain_spec)) if inherited else {}


def _license(config: Config, facts: Facts, source: Path) -> str:
    """Return the license: that of the origin of the weights or of their folder, unless ``export.license`` is set."""
    found = str(facts.get("origin, license") or read_license(source))
    given = config.export.license
    if given == LICENSE and found not in (LICENSE, "unknown"):
        return found  # config.yaml of an older version has the default of that time
    return given or found


def _budget(config: Config, source: Source) -> str:
    """Return the budget within which a network was found; that of another run is in its configuration."""
    run = RunDir(Path(source.run))
    if source.run and not run.config.is_file():
        return "unknown"
    search, found = (read_config(run) if source.run else config).search, parse_choice(source.choice)
    index = found.index if isinstance(found, ListEntry) and found.name == "budget" else len(search.budgets)
    if search.budgets and index >= len(search.budgets):
        return " or ".join(search.budgets)
    section = search.each_budget()[index if search.budgets else 0]
    limits = [f"{low:,.10g} to {high:,.10g} {UNITS[name]}" for name, (low, high) in section.budget.items()]
    return ", ".join(limits) or "none"


def _training_time(run_dir: RunDir) -> Facts:
    """Return the duration of the training and its number of ranks."""
    seconds = read_summary(run_dir).get("retrain", {}).get("seconds")
    starts = [start for start in read_starts(run_dir) if start["stage"] == "retrain"]
    if seconds is None or not starts:
        return {}
    ranks = starts[-1]["world_size"]
    return {"training time": f"{clock(seconds)} on {ranks} rank{'s' if ranks > 1 else ''}"}


def _two_names(path: str) -> str:
    """Return the last two names of a path."""
    return "/".join(Path(path).parts[-2:])


def _accuracy(summary: dict[str, Any], sha256: str | None, settings: str) -> Accuracy | None:
    """Return the result of the stage evaluate if it evaluated exactly this network."""
    evaluated = summary.get("evaluate", {})
    same = evaluated.get("sha256") == sha256 and evaluated.get("settings") in (None, settings)
    if "top1" not in evaluated or not same:
        return None
    dataset = _two_names(evaluated["val"])
    return Accuracy(dataset, evaluated["images"], evaluated["top1"], evaluated["top5"])


def _with_accuracy(facts: Facts, accuracy: Accuracy | None) -> Facts:
    """Return ``facts`` with the accuracy; without one, keep the accuracy that another folder states."""
    others = {name: value for name, value in facts.items() if name != "accuracy"}
    if accuracy is None:
        return others if TOP1_TOP5 in others else others | {"accuracy": "not evaluated"}
    shares = f"{accuracy.top1:.2%} / {accuracy.top5:.2%}"
    return others | {TOP1_TOP5: f"{shares} of {accuracy.images:,} images", "validation images": accuracy.dataset}


def _timm(model: VisionTransformer, folder: Path, preprocess: Preprocess) -> Checks:
    """Write ``timm/`` if timm can represent the network."""
    try:
        net = to_timm(model)
    except UserError as error:
        print(f"export: no timm/: {error}")
        return {}, {}
    write_timm(model, folder / "timm", preprocess)
    direct = add_to_config(net, model, preprocess, folder / "config.json")
    usage = 'for timm, which also reads the folder itself: "local-dir:FOLDER"' if direct else "for timm"
    if find_spec("timm") is None:
        print("export: timm/ is not checked: timm is not installed; pip install -e '.[export]'")
        return {"`timm/`": f"{usage}; not checked against it"}, {}
    apart = to_onnx.check_logits(model, build_timm(net), "timm/")
    return {"`timm/`": f"{usage}; logits of timm {version('timm')} differ by {apart:.1g}"}, {"timm": {"apart": apart}}


def _graphs(config: Config, model: VisionTransformer, folder: Path) -> Checks:
    """Write ``model.pt2`` and ``model.onnx``, and compare them with PyTorch."""
    lines, checks = {}, {}
    size = model.spec.image_size
    program = to_onnx.trace(model) if config.export.program or config.export.onnx else None
    if program is not None and config.export.program:
        apart = to_onnx.check_logits(model, to_onnx.write_program(program, folder / "model.pt2"), "model.pt2")
        usage = f"`torch.export.load(...).module()`, written by torch {torch.__version__}"
        lines["`model.pt2`"] = f"{usage}; logits differ by {apart:.1g} from PyTorch's"
        checks["program"] = {"apart": apart}
    if program is not None and config.export.onnx:
        net = to_onnx.write_onnx(program, folder / "model.onnx", config.export.opset)
        apart = to_onnx.check_logits(model, net, "model.onnx")
        usage = f"float32, opset {config.export.opset}, images [batch, 3, {size}, {size}] to logits"
        lines["`model.onnx`"] = f"{usage}; logits of onnxruntime {version('onnxruntime')} differ by {apart:.1g}"
        checks["onnx"] = {"apart": apart, "opset": config.export.opset}
    return lines, checks


def _int8(config: Config, model: VisionTransformer, folder: Path, preprocess: Preprocess) -> Checks:
    """Write ``model_int8.onnx``, and measure its accuracy and that of the float32 network on the same images."""
    if not config.export.int8:
        return {}, {}
    path = folder / "model_int8.onnx"
    net = to_onnx.quantize(folder / "model.onnx", path)
    apart, _ = to_onnx.logit_difference(model, net)
    numbers = {"apart": apart, "bytes": path.stat().st_size}
    line = f"linear layers in int8, activations quantized dynamically; logits differ by {apart:.1g}"
    if not config.data.val and not config.data.synthetic:
        print("export: the accuracy of model_int8.onnx is not measured: data.val is empty")
        return {"`model_int8.onnx`": f"{line}; its accuracy is not measured"}, {"int8": numbers}
    measured = _compare_accuracy(config, model, net, preprocess)
    line += "; top-1 {int8_top1:.2%}, float32 {top1:.2%}, of the same {images:,} images".format(**measured)
    return {"`model_int8.onnx`": line}, {"int8": numbers | measured}


def _compare_accuracy(config: Config, model: VisionTransformer, net: Forward, preprocess: Preprocess) -> dict[str, Any]:
    """Return top-1 of the model and of ``net`` on the validation images."""
    images = validation_images(config, model, preprocess, config.export.model)
    print(f"export: evaluating model_int8.onnx on {len(images):,} images", flush=True)
    ranks = Ranks(0, 1, 0, torch.device("cpu"))  # only rank 0 exports
    data, size = preprocess.apply_to(config.data), model.spec.image_size
    hits = {"top1": 0, "int8_top1": 0}
    for batch in eval_batches(images, data, size, config.data.eval_batch_size, ranks):
        with torch.inference_mode():
            for name, network in (("top1", model), ("int8_top1", net)):
                hits[name] += int(top_hits(network(batch.images), batch.labels).sum())
    shares = {name: count / len(images) for name, count in hits.items()}
    return {"images": len(images), "val": config.data.val, **shares, "change": shares["int8_top1"] - shares["top1"]}

"""Compiles LLaDA-8B or Dream-7B from its files within a limit of memory: seconds, resident memory and bytes on disk.

python benchmarks/streaming.py --folder /somewhere/with/30-GB --json streaming.json

The model is made by this script: the published layout in bf16, random weights, and some channels of the residual
stream and of the MLPs that are twenty times as loud as the others, as in trained models. It says nothing of quality.
Model and checkpoint are deleted at the end, the model not where ``--source`` names its folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import starquant_fx
from starquant_fx.checkpoint.format import RUN_FILE
from starquant_fx.checkpoint.shards import write_shard
from starquant_fx.errors import exit_code
from starquant_fx.files import check_destination, sha256_of, write_atomically
from starquant_fx.models.weightless import fake_model
from starquant_fx.passes import FitSgat
from starquant_fx.recipes import get_recipe
from starquant_fx.sizes import shown_size
from starquant_fx.streaming.memory import parse_size
from starquant_fx.streaming.place import unfinished
from starquant_fx.streaming.work import parts_done

LOUD, GAIN = 16, 20.0
"""How many channels of each kind are loud, and how much."""


def random_tensors(model: Any, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all weights, one after the other."""
    torch.manual_seed(seed)
    loud: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = torch.empty(parameter.shape, dtype=torch.bfloat16)
        size = parameter.shape[0]
        channels = loud.setdefault(size, torch.randperm(size)[:LOUD])
        if parameter.dim() == 1:
            value.fill_(0.0 if name.endswith("bias") else 1.0)
            if "norm" in name:
                value[channels] = GAIN
        else:
            value.normal_(std=0.02)
            if "up_proj" in name:
                value[channels] *= GAIN
        yield name, value


def make_model(name: str, layers: int | None, folder: Path, seed: int = 0) -> None:
    """Writes a random model in the published layout, a file a block."""
    model: Any = fake_model(name, layers)
    (folder / "config.json").write_text(json.dumps(model.config.to_published()), encoding="utf-8")
    groups: dict[str, dict[str, Tensor]] = {}
    homes: dict[str, str] = {}
    total = 0

    def write(group: str) -> None:
        file = f"model-{len(set(homes.values())) + 1:05d}.safetensors"
        homes.update(dict.fromkeys(groups[group], file))
        write_shard(folder / file, groups.pop(group))

    for tensor, value in random_tensors(model, seed):
        parts = tensor.split(".")
        group = next((part for part in parts if part.isdigit()), tensor)
        for done in [one for one in groups if one != group]:
            write(done)
        groups.setdefault(group, {})[tensor] = value
        total += value.nbytes
    for group in list(groups):
        write(group)
    index = {"metadata": {"total_size": total}, "weight_map": homes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def compile_once(given: argparse.Namespace, recipe: str, source: Path, target: Path) -> None:
    """Compiles in this process; what it took is in the checkpoint."""
    chosen = get_recipe(recipe)
    options = dataclasses.replace(
        chosen.calibration, samples=given.samples, length=given.length, rollout_steps=0
    )
    if given.epochs is not None:
        fits = [one for one in chosen.passes if isinstance(one, FitSgat)]
        for one in fits:
            chosen = chosen.replacing(dataclasses.replace(one, epochs=given.epochs))
    draws = torch.Generator().manual_seed(0)  # a run that was killed goes on with the same
    ids = torch.randint(0, 30_000, (given.samples, given.length), generator=draws)
    begin = time.perf_counter()

    def progress(done: int, count: int, record: Any, left: float) -> None:
        spent = time.perf_counter() - begin
        print(
            f"  {done}/{count} {record.name}: {sum(record.seconds.values()):.1f} s, {spent:.0f} s in all, "
            f"{left:.0f} s left, peak {shown_size(record.peak_bytes)}",
            flush=True,
        )

    starquant_fx.compile_folder(
        source,
        target,
        dataclasses.replace(chosen, calibration=options),
        calibration=ids,
        memory_limit=given.memory_limit,
        progress=progress,
    )


def command(recipe: str, source: Path, target: Path) -> list[str]:
    """What compiles in a process of its own."""
    return [sys.executable, __file__, *sys.argv[1:], "--only", recipe, str(source), str(target)]


def kill_on_and_on(seconds: float, recipe: str, source: Path, right: Path) -> dict[str, Any]:
    """Compiles again, killing the process some seconds after every block, and compares the checkpoints' bytes."""
    target = right.with_name(f"{recipe}-killed")
    kills = 0
    while True:
        with subprocess.Popen(
            command(recipe, source, target), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            # The lines of what is done come first.
            if all([process.stdout.readline() for _ in range(parts_done(target) + 1)]):
                time.sleep(seconds)
                process.kill()
        if process.returncode not in (0, -signal.SIGKILL):
            sys.exit(process.returncode)
        kills += process.returncode != 0
        if target.exists() and not unfinished(target).exists():  # killed on its way out, perhaps
            break
    names = {file.name for folder in (right, target) for file in folder.iterdir()}
    other = sorted(
        name
        for name in names - {RUN_FILE}
        if not (target / name).is_file() or sha256_of(target / name) != sha256_of(right / name)
    )
    return {"kills": kills, "seconds_after_a_block": seconds, "files_that_differ": other}


def measure(given: argparse.Namespace, recipe: str, source: Path, folder: Path) -> dict[str, Any]:
    """Compiles in a process of its own; returns what was measured."""
    target = folder / recipe
    begin = time.perf_counter()
    status = subprocess.run(command(recipe, source, target), check=False).returncode
    if status:
        sys.exit(status)
    wall = time.perf_counter() - begin
    facts: dict[str, Any] = json.loads((target / RUN_FILE).read_bytes())
    disk = sum(file.stat().st_size for file in target.iterdir())
    layers = sorted(facts["seconds_by_part"].values())
    return {
        "recipe": recipe,
        "wall_seconds": round(wall, 1),
        "median_part_seconds": layers[len(layers) // 2],
        "disk_bytes": disk,
        **facts,
        **({} if given.kill is None else kill_on_and_on(given.kill, recipe, source, target)),
    }


def show(row: dict[str, Any]) -> None:
    """Prints one result."""
    by_pass = list(row["seconds_by_pass"].items())[:6]
    whole = sum(row["seconds_by_pass"].values())
    shares = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in by_pass)
    print(
        f"{row['recipe']}: {row['wall_seconds'] / 60:.1f} min, {row['median_part_seconds']:.1f} s a block, peak "
        f"{shown_size(row['peak_resident_bytes'])} resident, {shown_size(row['disk_bytes'])} written, "
        f"{shown_size(row['peak_spilled_bytes'])} in files meanwhile; {shares}"
    )
    if "kills" in row:
        differ = ", ".join(row["files_that_differ"]) or "none"
        print(f"  the same, killed {row['kills']} times with SIGKILL: files that differ: {differ}")


def main() -> int:
    """Runs the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="LLaDA-8B", help="LLaDA-8B or Dream-7B")
    parser.add_argument("--layers", type=int, help="blocks instead of all")
    parser.add_argument("--recipe", nargs="+", default=["rtn-w4a4", "star-w4a4"])
    parser.add_argument("--samples", type=int, default=8, help="calibration sequences")
    parser.add_argument("--length", type=int, default=128, help="tokens of each")
    parser.add_argument("--epochs", type=int, help="of fit-sgat, instead of the recipe's")
    parser.add_argument(
        "--kill",
        type=float,
        metavar="SECONDS",
        help="compile again, killed so long after every block, and compare the bytes",
    )
    parser.add_argument("--memory-limit", default="8GiB")
    parser.add_argument("--folder", type=Path, help="where all is made; needs twice the size")
    parser.add_argument("--source", type=Path, help="make the model here, or take what is there")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    return exit_code(lambda: run(given))


def run(given: argparse.Namespace) -> None:
    """Makes the model and compiles it with every recipe, or, as a process of its own, with one."""
    parse_size(given.memory_limit)
    if given.only:
        recipe, source, target = given.only
        compile_once(given, recipe, Path(source), Path(target))
        return
    if given.json is not None:
        check_destination(given.json, ".json")
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        source = given.source or Path(temporary) / "model"
        if not source.exists():
            source.mkdir()
            begin = time.perf_counter()
            make_model(given.model, given.layers, source)
            print(f"made the model in {time.perf_counter() - begin:.0f} s", flush=True)
        size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        rows = []
        for recipe in given.recipe:
            rows.append(measure(given, recipe, source, Path(temporary)))
            show(rows[-1])
            if given.json is not None:
                facts = {"model": given.model, "source_bytes": size, "rows": rows}
                write_atomically(given.json, json.dumps(facts, indent=1))


if __name__ == "__main__":
    sys.exit(main())

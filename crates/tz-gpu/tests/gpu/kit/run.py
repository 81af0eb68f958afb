#!/usr/bin/env python3
"""Tests and measures a GPU machine. Needs Python 3 and nothing else; PyTorch adds rows. This folder holds what it runs.

    run.py OUT [--only STEP ...] [--skip STEP ...] [--short] [--plan]

OUT gets three files: `log.txt` (all output), `summary.txt` (the last lines printed) and `summary.json`. Each step has a
limit, and no step starts later than START_LIMIT seconds after the first, so that a machine lent for ten minutes returns
its results. A step that fails or is ended does not stop the others. Exit status: 0 if no step failed, 1 otherwise.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

KIT = pathlib.Path(__file__).resolve().parent
# Seconds after which no step starts: the longest step must still end within the ten minutes of a lent machine.
START_LIMIT = 440
ROUNDS = 5
PEER_ROUNDS = 3
GIB = 1 << 30


class Failed(Exception):
    """A step that did not do what it should; the message says why."""


class Skipped(Exception):
    """A step that this machine cannot run; the message says why."""


class Run:
    """What the steps share: where things are, the log, and the figures found so far."""

    def __init__(self, arguments):
        self.short = arguments.short
        self.device = f"cuda:{arguments.device}"
        self.ordinal = str(arguments.device)
        self.size = 256 << 20 if self.short else 8 * GIB
        self.out = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = open(self.out / "log.txt", "w", encoding="utf-8")
        self.folder = self.working_folder(arguments.dir)
        self.figures = {}
        self.limit = 0.0
        self.python = sys.executable

    def working_folder(self, chosen):
        """Memory where three models of the size fit (checkpoint, file, peers' buffers), else a disk."""
        if chosen:
            folder = chosen
        else:
            shm = pathlib.Path("/dev/shm")
            free = shutil.disk_usage(shm).free if shm.is_dir() else 0
            available = int(re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) * 1024
            folder = shm if min(free, available) > 3 * self.size else pathlib.Path("/tmp")
        folder = folder / "tz-gpu"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def say(self, line):
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def command(self, *words, check=True, quiet=False, env=None):
        """Runs a program within what is left of the step's limit; gives its standard output and its exit status."""
        words = [str(word) for word in words]
        self.log.write(f"$ {' '.join(words)}\n")
        self.log.flush()
        left = self.limit - time.monotonic()
        environment = {**os.environ, **(env or {})}
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
        )
        try:
            output, _ = process.communicate(timeout=max(left, 1))
        except subprocess.TimeoutExpired:
            # Its children too: a memory checker runs the program it checks as one.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            self.record(output, quiet=False)
            raise Failed(f"ended after its limit; {words[0].rsplit('/', 1)[-1]} was running") from None
        self.record(output, quiet)
        if check and process.returncode != 0:
            tail = output.strip().splitlines()[-3:]
            raise Failed(f"{pathlib.Path(words[0]).name} exited with {process.returncode}: {' | '.join(tail)}")
        return output, process.returncode

    def record(self, output, quiet):
        self.log.write(output)
        self.log.flush()
        if not quiet:
            print(output, end="", flush=True)

    def tz(self, *words, **options):
        return self.command(KIT / "tz-cli", *words, quiet=True, **options)

    def figure(self, name, value, unit=""):
        """Notes a figure for the summary, and prints it now."""
        self.figures[name] = value
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        self.say(f"  {name}: {text}{' ' + unit if unit else ''}")

    def checkpoint(self):
        return self.folder / "checkpoint"

    def tensors(self):
        return self.folder / "model.tensors"

    def need_model(self):
        if not self.tensors().exists():
            raise Skipped("there is no model: the step `serialize` did not finish")


def json_object(output):
    """The JSON object that ends a program's output, on one line or several."""
    start = output.find("{")
    try:
        return json.loads(output[start:]) if start >= 0 else json_lines(output)[-1]
    except (json.JSONDecodeError, IndexError):
        raise Failed(f"no JSON in its output: {output[-200:]!r}") from None


def json_lines(output):
    objects = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                objects.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return objects


def torch_sees_the_gpu(run):
    script = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 7)"
    _, status = run.command(run.python, "-c", script, check=False, quiet=True)
    if status != 0:
        raise Skipped("PyTorch is not here, or sees no GPU")


def facts(run):
    for words in (["nvidia-smi"], ["nvidia-smi", "--query-gpu=name,driver_version,pcie.link.gen.current,"
                                   "pcie.link.width.current,memory.total", "--format=csv"],
                  ["sh", "-c", "lscpu | grep -E 'Model name|^CPU\\(s\\)|NUMA|Hypervisor'; uname -r; free -g; df -h /dev/shm /tmp"]):
        if shutil.which(words[0]):
            run.command(*words, check=False)
    run.figure("folder of the model", str(run.folder))
    run.figure("cores", os.cpu_count())


def bus(run):
    output, _ = run.command(KIT / "copy", "--device", run.ordinal, "--repeats", 3, *(["--quick"] if run.short else []))
    for line in json_lines(output):
        if line.get("what") == "pinned":
            run.figure(f"pinned, {line['copy_mib']} MiB, {line['streams']} streams", line["gb_s"], "GB/s")
        elif line.get("what") == "pageable":
            run.figure("pageable", line["gb_s"], "GB/s")
    rates = [line["gb_s"] for line in json_lines(output) if line.get("what") == "pinned"]
    run.figure("pinned, best", max(rates), "GB/s")


def suite(run):
    fixtures = pathlib.Path("fixtures")
    extra = ["--fixtures", fixtures] if (fixtures / "valid").is_dir() else []
    output, status = run.command(KIT / "gpu", "--device", run.ordinal, *extra, check=False, quiet=True)
    for line in output.splitlines():
        if not line.startswith("ok"):
            run.say(f"  {line}")
    last = output.strip().splitlines()[-1] if output.strip() else "no output"
    run.figure("suite", last)
    if status != 0:
        raise Failed(last)


def synth(run):
    if not run.checkpoint().exists():
        run.tz("synth", run.checkpoint(), "--size", run.size, "--max-shard-size", "64GiB")
    run.figure("model", sum(file.stat().st_size for file in run.checkpoint().iterdir()), "bytes")


def serialize(run):
    if not run.checkpoint().exists():
        raise Skipped("there is no checkpoint: the step `synth` did not finish")
    output, _ = run.tz("serialize", run.checkpoint(), run.tensors(), "--no-fsync", "--json")
    run.figure("serialize", json_object(output).get("bytes_per_second", 0) / 1e9, "GB/s")


def bench(run, name, *options):
    run.need_model()
    rounds = 2 if run.short else ROUNDS
    output, _ = run.tz("bench", run.tensors(), "--device", run.device, "--rounds", rounds, "--json", *options)
    found = json_object(output)
    run.figure(f"{name}: load", found["bytes_per_second"] / 1e9, "GB/s")
    run.figure(f"{name}: load, ring pinned before", found["bytes_per_second_ring_pinned"] / 1e9, "GB/s")
    run.figure(f"{name}: pinned copy of as many bytes", found["pinned_copy_bytes_per_second"] / 1e9, "GB/s")
    run.figure(f"{name}: load / pinned copy", found["ratio"])
    run.figure(f"{name}: load, ring pinned before / pinned copy", found["ratio_ring_pinned"])
    run.figure(f"{name}: phases of the last round", json.dumps(found["rounds"][-1]["phases"]))


def bench_unverified(run):
    bench(run, "bench --no-verify", "--no-verify")


def bench_verified(run):
    bench(run, "bench")


def deserialize(run):
    run.need_model()
    for options in ([], ["--no-verify"]):
        start = time.monotonic()
        output, _ = run.tz("deserialize", run.tensors(), "--device", run.device, "--json", *options)
        process = time.monotonic() - start
        found = json_object(output)
        name = " ".join(["deserialize", *options])
        run.figure(f"{name}: load", found["bytes_per_second"] / 1e9, "GB/s")
        run.figure(f"{name}: whole process", process, "s")
        run.figure(f"{name}: phases", json.dumps(found["phases"]))


def torch_pinned(run):
    torch_sees_the_gpu(run)
    output, _ = run.command(run.python, KIT / "compare.py", "pinned", run.device, quiet=True)
    run.figure("pinned copy by PyTorch", json_object(output)["gb_s"], "GB/s")


def sweep(run):
    run.need_model()
    quick = ["--quick"] if run.short else []
    output, _ = run.command(KIT / "copy", "--device", run.ordinal, "--repeats", 2, *quick, "--no-grid", run.tensors(),
                            quiet=True)
    for line in json_lines(output):
        what = line.pop("what", "")
        if what == "load":
            keys = ("way", "readers", "buffer_bytes", "ring_bytes", "streams", "verify", "gb_s", "gb_s_ring_pinned_before")
            run.say("  load " + json.dumps({key: line.get(key) for key in keys}))
        else:
            run.say(f"  {what} {json.dumps(line)}")


def small(run):
    """The command line there and back: digests of what came back from the device, plain, encrypted, sealed and cast."""
    small_files(run)
    key = ["--keyfile", run.folder / "key"]
    for file, options in [("small", []), ("small-compat", key), ("small-sealed", key)]:
        for cast in ([], ["--dtype", "float32"]):
            there, here = run.folder / "gpu.safetensors", run.folder / "cpu.safetensors"
            there.unlink(missing_ok=True)
            here.unlink(missing_ok=True)
            source = run.folder / f"{file}.tensors"
            run.tz("deserialize", source, *options, *cast, "--to", there, "--device", run.device)
            run.tz("deserialize", source, *options, *cast, "--to", here)
            run.tz("diff", there, here)
    _, status = run.tz("deserialize", run.folder / "small.tensors", "--device", "cuda:99", check=False)
    if status != 3:
        raise Failed(f"cuda:99 exited with {status}, not 3")
    run.figure("small model there and back", "equal: plain, encrypted, sealed, each with and without a cast")


def small_files(run):
    small = run.folder / "small"
    if small.exists():
        return
    run.tz("synth", small, "--preset", "llama-tiny")
    run.tz("serialize", small, f"{small}.tensors")
    run.tz("keygen", run.folder / "key")
    for profile in ("compat", "sealed"):
        run.tz("encrypt", f"{small}.tensors", f"{small}-{profile}.tensors", "--profile", profile, "--keyfile",
               run.folder / "key")


def dlpack(run):
    torch_sees_the_gpu(run)
    small_files(run)
    run.command(run.python, KIT / "dlpack_check.py", KIT / "libdlpack.so", run.folder / "small.tensors",
                run.folder / "small", run.device)
    run.figure("DLPack", "every tensor equal")


def peer(run, name, program, *arguments):
    """Another loader, each round in a process of its own."""
    run.need_model()
    torch_sees_the_gpu(run)
    rates = []
    for _ in range(PEER_ROUNDS):
        output, _ = run.command(*program, KIT / "compare.py", *arguments, run.device, quiet=True)
        rates.append(json_object(output)["gb_s"])
    run.figure(f"{name}, median of {PEER_ROUNDS}", statistics.median(rates), "GB/s")


def safetensors(run):
    peer(run, "safetensors load_file", [run.python], "safetensors", run.checkpoint())


def tensorizer(run):
    torch_sees_the_gpu(run)
    wheels = sorted((KIT / "wheels").glob("*.whl"))
    site = run.folder / "site"
    if wheels and not site.exists():
        run.command(run.python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", site,
                    *wheels)
    # Behind the machine's own packages in the search order, so that none of them is replaced.
    script = f"import runpy, sys; sys.path.append({str(site)!r}); sys.argv = sys.argv[1:]; " \
             "runpy.run_path(sys.argv[0], run_name='__main__')"
    peer(run, "tensorizer", [run.python, "-c", script], "tensorizer", run.tensors())


def sanitizer(run):
    tool = shutil.which("compute-sanitizer") or next(map(str, sorted(
        pathlib.Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None)
    if not tool:
        raise Skipped("compute-sanitizer is not here")
    # The suite provokes errors of the API on purpose; only accesses and leaks count.
    output, status = run.command(tool, "--tool", "memcheck", "--leak-check", "full", "--report-api-errors", "no",
                                 "--error-exitcode", "9", KIT / "gpu", "--device", run.ordinal, check=False, quiet=True)
    for line in output.splitlines():
        if "ERROR SUMMARY" in line or "LEAK SUMMARY" in line or line.startswith("FAILED"):
            run.say(f"  {line}")
    if status != 0:
        raise Failed(f"compute-sanitizer exited with {status}")
    run.figure("memory checker", "no error, no leak")


# Name, limit and expected time in seconds. The order puts first what decides whether the rest can work.
STEPS = [
    (facts, 15, 3),
    (bus, 45, 25),
    (suite, 60, 20),
    (synth, 75, 35),
    (serialize, 60, 12),
    (bench_unverified, 45, 25),
    (bench_verified, 45, 25),
    (deserialize, 20, 6),
    (torch_pinned, 30, 14),
    (sweep, 90, 75),
    (small, 30, 10),
    (dlpack, 60, 20),
    (safetensors, 120, 45),
    (tensorizer, 120, 50),
    (sanitizer, 90, 60),
]


def plan():
    rows = [{"step": step.__name__, "limit_s": limit, "expected_s": expected} for step, limit, expected in STEPS]
    return {"start_limit_s": START_LIMIT, "expected_s": sum(row["expected_s"] for row in rows), "steps": rows}


def main():
    names = [step.__name__ for step, _, _ in STEPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=pathlib.Path, default=pathlib.Path("gpu-report"), metavar="OUT")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STEP", help=f"run these steps: {' '.join(names)}")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], metavar="STEP", help="leave these steps out")
    parser.add_argument("--short", action="store_true", help="a model of 256 MiB and few repetitions, to try the kit itself")
    parser.add_argument("--limits", type=float, default=1.0, metavar="FACTOR",
                        help="multiply the limit of every step, for example on a busy machine")
    parser.add_argument("--plan", action="store_true", help="print the steps with their limits as JSON, and run nothing")
    parser.add_argument("--device", type=int, default=0, help="ordinal of the GPU")
    parser.add_argument("--dir", type=pathlib.Path, help="where the model goes [default: /dev/shm if it fits, else /tmp]")
    arguments = parser.parse_args()
    if arguments.plan:
        print(json.dumps(plan(), indent=1))
        return 0

    run = Run(arguments)
    begin, rows = time.monotonic(), []
    for step, limit, _ in STEPS:
        name = step.__name__
        if name in arguments.skip or (arguments.only and name not in arguments.only):
            continue
        start = time.monotonic()
        if start - begin > START_LIMIT:
            rows.append((name, "not started", 0.0, f"{START_LIMIT} s are over"))
            continue
        run.say(f"== {name} (limit {limit * arguments.limits:g} s)")
        run.limit = start + limit * arguments.limits
        try:
            step(run)
            state, why = "passed", ""
        except Skipped as reason:
            state, why = "skipped", str(reason)
        except (Failed, OSError, KeyError, ValueError, TypeError) as reason:
            state, why = "FAILED", f"{type(reason).__name__}: {reason}" if not isinstance(reason, Failed) else str(reason)
        rows.append((name, state, time.monotonic() - start, why))
        run.say(f"   {name} {state} in {rows[-1][2]:.1f} s{': ' + why if why else ''}")

    lines = ["", "== summary"]
    lines += [f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}"
              for name, value in run.figures.items()]
    lines += [f"{state:11} {seconds:6.1f} s  {name}{'  ' + why if why else ''}" for name, state, seconds, why in rows]
    failed = [name for name, state, _, _ in rows if state == "FAILED"]
    lines.append(f"failed: {' '.join(failed)}" if failed else "no step failed")
    for line in lines:
        run.say(line)
    (run.out / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    steps = [{"step": name, "state": state, "seconds": seconds, "why": why} for name, state, seconds, why in rows]
    (run.out / "summary.json").write_text(json.dumps({"figures": run.figures, "steps": steps}, indent=1), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

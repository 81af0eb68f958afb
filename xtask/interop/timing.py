"""Times one load or save of the reference, of safetensors or of another loader, in a fresh process, as JSON.

`import torch` is not counted: the clock runs around the call alone.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import reference
import torch

PAGE_BYTES = 4096


def peak_bytes():
    """The process's own high-water mark of resident memory."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise SystemExit("no VmHWM in /proc/self/status")


def total_bytes(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def load_safetensors(source):
    """The tensors of a file or of all shards in a folder, mapped."""
    from safetensors.torch import load_file

    source = Path(source)
    paths = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def load(arguments):
    tensorizer = reference.use(arguments.reference)
    encryption = None
    if arguments.keyfile:
        encryption = tensorizer.DecryptionParams.from_key(arguments.keyfile.read_bytes())
    start = time.perf_counter()
    file = tensorizer.TensorDeserializer(
        arguments.source,
        device="cpu",
        encryption=encryption,
        num_readers=arguments.readers,
        verify_hash=arguments.verify,
    )
    seconds = time.perf_counter() - start
    return seconds, total_bytes(file.values())


def save(arguments):
    tensorizer = reference.use(arguments.reference)
    # Cloned, so that the clock does not count page faults of the source's mapping.
    tensors = {name: tensor.clone() for name, tensor in load_safetensors(arguments.source).items()}
    start = time.perf_counter()
    serializer = tensorizer.TensorSerializer(arguments.destination)
    serializer.write_state_dict(tensors)
    serializer.close()
    return time.perf_counter() - start, total_bytes(tensors.values())


def safetensors_load(arguments):
    """Mapped with every page touched, or cloned into memory of the process's own."""
    import safetensors.torch  # noqa: F401, not counted

    start = time.perf_counter()
    tensors = load_safetensors(arguments.source)
    if arguments.clone:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    else:
        for tensor in tensors.values():
            tensor.reshape(-1).view(torch.uint8)[::PAGE_BYTES].sum()
    return time.perf_counter() - start, total_bytes(tensors.values())


def fastsafetensors_load(source):
    """Tensors are views of the memory that the loader read the files into, which it owns until it is closed."""
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    start = time.perf_counter()
    loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
    loader.add_filenames({0: [str(path) for path in source]})
    files = loader.copy_files_to_device()
    tensors = [files.get_tensor(name) for name in files.key_to_rank_lidx]
    return time.perf_counter() - start, total_bytes(tensors)


def runai_load(source):
    """Cloned, since the streamer uses its memory again. Files, or objects of the server that `AWS_*` name."""
    if "AWS_ENDPOINT_URL_S3" in os.environ:
        # The streamer knows the older variable alone; servers of a check have their buckets in the path.
        os.environ["AWS_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL_S3"]
        os.environ["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] = "0"
    from runai_model_streamer import SafetensorsStreamer

    start = time.perf_counter()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in source])
        tensors = {name: tensor.clone() for name, tensor in streamer.get_tensors()}
    return time.perf_counter() - start, total_bytes(tensors.values())


def curl_load(source):
    """What safetensors offers for files on a server: curl brings one after the other, safetensors makes copies."""
    import safetensors.torch

    start = time.perf_counter()
    tensors = {}
    for url in source:
        data = subprocess.run(["curl", "-sSf", url], check=True, stdout=subprocess.PIPE).stdout
        tensors |= safetensors.torch.load(data)
    return time.perf_counter() - start, total_bytes(tensors.values())


PEERS = {"fastsafetensors": fastsafetensors_load, "runai": runai_load, "curl": curl_load}


def peer_load(arguments):
    sys.path.insert(0, str(Path(sys.prefix) / "peers"))
    source = arguments.source
    if len(source) == 1 and Path(source[0]).is_dir():
        source = sorted(Path(source[0]).glob("*.safetensors"))
    return PEERS[arguments.peer](source)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("load")
    reference.add_argument(job)
    job.add_argument("--readers", type=int, help="default: the reference chooses")
    job.add_argument("--verify", action="store_true")
    job.add_argument("--keyfile", type=Path, help="of an encrypted file")
    job.add_argument("source")
    job.set_defaults(run=load)
    job = jobs.add_parser("save")
    reference.add_argument(job)
    job.add_argument("source")
    job.add_argument("destination")
    job.set_defaults(run=save)
    job = jobs.add_parser("safetensors")
    job.add_argument("--clone", action="store_true")
    job.add_argument("source")
    job.set_defaults(run=safetensors_load)
    job = jobs.add_parser("peer")
    job.add_argument("peer", choices=PEERS)
    job.add_argument("source", nargs="+", help="a folder of safetensors files, or where each lies")
    job.set_defaults(run=peer_load)
    arguments = parser.parse_args()

    seconds, size = arguments.run(arguments)
    print(json.dumps({"seconds": seconds, "bytes": size, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()

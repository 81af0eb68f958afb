"""Objects on S3 and HTTP servers through the reference package.

The server and its keys come from the `AWS_*` variables; results are printed as JSON.
"""

import argparse
import json
import os
import time

import read
import reference
import timing
import torch
import write

VERSION = "2.12.1"


def open_uri(uri, mode):
    """The reference's own stream: boto3 signs, curl reads."""
    from tensorizer import stream_io

    if not uri.startswith("s3://"):
        return stream_io.open_stream(uri, mode)
    return stream_io.open_stream(
        uri,
        mode,
        s3_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        s3_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        s3_endpoint=os.environ["AWS_ENDPOINT_URL_S3"],
        s3_region_name=os.environ["AWS_REGION"],
        s3_signature_version="s3v4",
        force_http=True,
    )


def read_job(arguments):
    tensorizer = reference.use(VERSION)
    with tensorizer.TensorDeserializer(
        open_uri(arguments.uri, "rb"),
        device="cpu",
        num_readers=arguments.readers,
        verify_hash=True,
    ) as file:
        leaves = read.leaves(file)
        return [reference.describe(path, tensor, "state_dict") for path, tensor in leaves]


def write_job(arguments):
    tensorizer = reference.use(VERSION)
    torch.manual_seed(20)
    tree = write.nested() | {"large": write.random("bfloat16", 2048, 2048)}
    serializer = tensorizer.TensorSerializer(open_uri(arguments.uri, "wb"))
    serializer.write_state_dict(tree)
    serializer.close()
    return list(reference.state_dict_rows(tree))


def load_job(arguments):
    tensorizer = reference.use(VERSION)
    start = time.perf_counter()
    file = tensorizer.TensorDeserializer(
        open_uri(arguments.uri, "rb"), device="cpu", num_readers=arguments.readers
    )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": timing.total_bytes(file.values())}


def save_job(arguments):
    tensorizer = reference.use(VERSION)
    source = timing.load_safetensors(arguments.source)
    # Cloned, so that the clock does not count page faults of the source's mapping.
    tensors = {name: tensor.clone() for name, tensor in source.items()}
    start = time.perf_counter()
    serializer = tensorizer.TensorSerializer(open_uri(arguments.uri, "wb"))
    serializer.write_state_dict(tensors)
    serializer.close()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": timing.total_bytes(tensors.values())}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    for name, run in (("read", read_job), ("load", load_job)):
        job = jobs.add_parser(name)
        job.add_argument("--readers", type=int, help="default: the reference chooses")
        job.add_argument("uri")
        job.set_defaults(run=run)
    job = jobs.add_parser("write")
    job.add_argument("uri")
    job.set_defaults(run=write_job)
    job = jobs.add_parser("save")
    job.add_argument("source")
    job.add_argument("uri")
    job.set_defaults(run=save_job)
    arguments = parser.parse_args()
    print(json.dumps(arguments.run(arguments)))


if __name__ == "__main__":
    main()

"""The bucket of a check through boto3: signed URLs for the baselines, and what it holds.

Apart from the scripts that import torch, which takes longer than many a question to a server. The
server and its keys come from the `AWS_*` variables; results are printed as JSON.
"""

import argparse
import json
import os

import boto3
from botocore.config import Config

# Longer than any benchmark.
URL_SECONDS = 6 * 3600


def client():
    return boto3.client(
        "s3",
        endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"],
        region_name=os.environ["AWS_REGION"],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def signed_read_job(arguments):
    where = {"Bucket": arguments.bucket, "Key": arguments.key}
    return client().generate_presigned_url("get_object", where, ExpiresIn=URL_SECONDS)


def signed_upload_job(arguments):
    """Starts a multipart upload and signs what is left to do."""
    s3 = client()
    where = {"Bucket": arguments.bucket, "Key": arguments.key}
    where["UploadId"] = s3.create_multipart_upload(**where)["UploadId"]
    parts = [
        s3.generate_presigned_url("upload_part", where | {"PartNumber": number}, URL_SECONDS)
        for number in range(1, arguments.parts + 1)
    ]
    complete = s3.generate_presigned_url("complete_multipart_upload", where, URL_SECONDS)
    return {"parts": parts, "complete": complete}


def state_job(arguments):
    """What the bucket holds under a key: objects, and uploads that were never completed."""
    s3 = client()
    where = {"Bucket": arguments.bucket, "Prefix": arguments.key}
    objects = s3.list_objects_v2(**where).get("Contents", [])
    uploads = s3.list_multipart_uploads(**where).get("Uploads", [])
    return {
        "objects": [row["Key"] for row in objects],
        "uploads": [row["UploadId"] for row in uploads],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    for name, run in (
        ("signed-read", signed_read_job),
        ("signed-upload", signed_upload_job),
        ("state", state_job),
    ):
        job = jobs.add_parser(name)
        job.add_argument("bucket")
        job.add_argument("key")
        job.set_defaults(run=run)
        if run is signed_upload_job:
            job.add_argument("--parts", type=int, required=True)
    arguments = parser.parse_args()
    print(json.dumps(arguments.run(arguments)))


if __name__ == "__main__":
    main()

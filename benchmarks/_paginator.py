"""The peer of `reconcile`: boto3's paginator and a sum. It imports nothing of ours, so that its memory is its own."""

import sys
import time
from typing import Any

import boto3
from botocore.config import Config

from benchmarks._memory import memory_bytes, quarters, tell


def list_and_add_up(
    endpoint_url: str, access_key_id: str, secret_access_key: str, bucket: str, *prefixes: str
) -> dict[str, Any]:
    """List and add up, one page after the other, in as little memory as it can be done."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    samples = [memory_bytes("VmRSS")]
    started, cpu_before = time.perf_counter(), time.process_time()
    count = size = 0
    for prefix in prefixes:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for line in page.get("Contents", ()):
                count += 1
                size += line["Size"]
            samples.append(memory_bytes("VmRSS"))
    return {
        "objects": count,
        "bytes": size,
        "client_cpu_seconds": time.process_time() - cpu_before,
        "seconds": time.perf_counter() - started,
        "rss_bytes_at_quarters": quarters(samples),
    }


if __name__ == "__main__":
    tell(list_and_add_up(*sys.argv[1:]))

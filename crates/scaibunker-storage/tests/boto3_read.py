"""Prints the size and the SHA-256 of an object: boto3_read.py ENDPOINT BUCKET KEY."""

import hashlib
import sys

import boto3
from botocore.config import Config

endpoint, bucket, key = sys.argv[1:]
config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1})
s3 = boto3.client("s3", endpoint_url=endpoint, config=config)
size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
digest = hashlib.sha256()
for piece in s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
    digest.update(piece)
print(size, digest.hexdigest())

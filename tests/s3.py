"""A real S3 server of the tests' own: moto on a free port of this machine."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import fsspec
import pytest
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

BUCKET = "bucket"


@contextmanager
def s3_server(
    patch: pytest.MonkeyPatch, key: str = "tests", secret: str = "tests", token: str = "tests"
) -> Iterator[dict[str, str]]:
    """Starts it and makes s3://BUCKET on it; gives the environment that leads there, which `patch` sets as well."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request, in every failure's report
    # S3 decides one write of an object at a time; moto looks whether it is there, reads the body, and writes
    one_at_a_time, put_object = threading.Lock(), S3Response.put_object

    def put(self: S3Response) -> Any:
        with one_at_a_time:
            return put_object(self)

    patch.setattr(S3Response, "put_object", put)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        variables = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_SESSION_TOKEN": token,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield variables
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()

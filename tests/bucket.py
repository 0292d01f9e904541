"""An S3 server in a process of its own."""

import os
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

from tests.support import free_port

#: Whom it takes anybody for.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "medd", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class S3Server:
    """moto's server: S3 over HTTP, the objects in its memory; after a new `start` it is empty."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def settings(self, bucket: str = "s3://films/spool") -> dict[str, str]:
        """The environment of a daemon whose spool is kept here."""
        return {"MEDD_SPOOL__BUCKET": bucket, "MEDD_SPOOL__ENDPOINT": self.url, **CREDENTIALS}

    def start(self, *prefix: str) -> "S3Server":
        command = [*prefix, sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
        )
        return self

    def wait(self, timeout_s: float = 60) -> "S3Server":
        """Wait until it answers, and make the bucket."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                urlopen(self.url, timeout=5).close()
                break
            except (URLError, OSError):
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.1)
        import boto3

        session = boto3.Session(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
        client = session.client("s3", endpoint_url=self.url, region_name=CREDENTIALS["AWS_DEFAULT_REGION"])
        client.create_bucket(Bucket="films")
        client.close()
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

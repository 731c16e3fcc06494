"""A real S3 server program on loopback, for tests. Its packages are in s3/ (scripts/test installs)."""

import os
import shutil
import subprocess
import tempfile
import urllib.request

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "s3/node_modules/.bin/s3rver")


class S3Server:
    """Serves buckets out of a folder of its own; anyone may read and write."""

    def __init__(self, *buckets):
        self.folder = tempfile.mkdtemp(prefix="troupe-s3-")
        command = [PROGRAM, "-d", self.folder, "-a", "127.0.0.1", "-p", "0"]
        for bucket in buckets:
            command += ["--configure-bucket", bucket]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in self.process.stdout:
            if "listening on" in line:
                self.url = "http://" + line.split("listening on", 1)[1].strip()
                return
        raise RuntimeError("the S3 server did not start")

    def put(self, bucket, key, data):
        request = urllib.request.Request(f"{self.url}/{bucket}/{key}", data, method="PUT")
        urllib.request.urlopen(request).close()

    def get(self, bucket, key):
        with urllib.request.urlopen(f"{self.url}/{bucket}/{key}") as answer:
            return answer.read()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

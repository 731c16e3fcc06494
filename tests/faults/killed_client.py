"""What drives a server in the tests that kill it."""

import threading


class KilledClient(threading.Thread):
    """Calls `live` over and over until the server is gone."""

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.wrong = None  # what went wrong before the server was killed

    def run(self):
        try:
            while True:
                self.live()
        except OSError:
            pass  # the server was killed
        except Exception as e:  # pylint: disable=broad-exception-caught
            self.wrong = e

    def live(self):
        """One round of what this client does."""
        raise NotImplementedError

    def ask(self, method, path, body=None):
        status, answer = self.server.json(method, path, body)
        if status >= 300:
            raise AssertionError(f"{method} {path}: {status} {answer}")
        return answer

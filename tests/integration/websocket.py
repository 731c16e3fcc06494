"""A small WebSocket client (RFC 6455) on a plain socket."""

import base64
import os
import re
import socket
import struct

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Refused(Exception):
    """The server answered over HTTP instead."""

    def __init__(self, status, body):
        super().__init__(f"{status}: {body!r}")
        self.status = status
        self.body = body


class WebSocket:
    def __init__(self, port, path, headers=None, receive_buffer=None):
        self.socket = socket.socket()
        self.socket.settimeout(60)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.unread = b""
        fields = {
            "Host": "x",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **(headers or {}),
        }
        lines = [f"GET {path} HTTP/1.1"] + [f"{k}: {v}" for k, v in fields.items()]
        self.socket.sendall("\r\n".join(lines + ["", ""]).encode())
        while b"\r\n\r\n" not in self.unread:
            self._fill()
        head, self.unread = self.unread.split(b"\r\n\r\n", 1)
        status = int(head.split()[1])
        if status != 101:
            length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head).group(1))
            body = self._take(length)
            self.socket.close()
            raise Refused(status, body)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.unread += data

    def _take(self, size):
        while len(self.unread) < size:
            self._fill()
        data, self.unread = self.unread[:size], self.unread[size:]
        return data

    def send(self, kind, data):
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x80 | kind, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | kind, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | kind, 0x80 | 127, size)
        # A mask of zeros is a mask.
        self.socket.sendall(head + b"\0\0\0\0" + data)

    def send_text(self, text):
        self.send(TEXT, text.encode())

    def send_binary(self, data):
        self.send(BINARY, data)

    def receive(self):
        """Kind and data of the next message; a close gives its code and reason."""
        while True:
            first, size = self._take(2)
            if size == 126:
                (size,) = struct.unpack("!H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self._take(8))
            data = self._take(size)
            kind = first & 0x0F
            if kind == PING:
                self.send(PONG, data)
            elif kind == CLOSE:
                self.send(CLOSE, data[:2])
                code = struct.unpack("!H", data[:2])[0] if data else None
                return CLOSE, (code, data[2:].decode())
            elif kind != PONG:
                return kind, data

    def close(self):
        self.send(CLOSE, struct.pack("!H", 1000))
        self.socket.close()

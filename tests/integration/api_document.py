"""Holds calls and their answers against the description that a server serves of itself."""

import re
from urllib.parse import parse_qsl, urlsplit

import jsonschema


class Mismatch(AssertionError):
    """The server does not do what its /openapi.json says."""


class ApiDocument:
    def __init__(self, document):
        self.components = document["components"]
        self.validators = {}
        # Of two that fit, the one with fewer parameters is meant, as in the server's router.
        templates = sorted(document["paths"], key=lambda path: (path.count("{"), path))
        self.paths = []
        for template in templates:
            pattern = re.sub(r"\\\{rest\\\}$", ".*", re.escape(template))
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", pattern)
            self.paths.append((re.compile(pattern + "$"), document["paths"][template]))

    def check(self, method, target, request, status, answer):
        """One call with JSON; `answer` is None if it has no body. Errors may be about anything that
        was sent, so that only a success says that the document allows it."""
        url = urlsplit(target)
        item = next((item for pattern, item in self.paths if pattern.match(url.path)), None)
        operation = (item or {}).get(method.lower())
        where = f"{method} {url.path} -> {status}"
        if operation is None:
            if status not in (404, 405):
                raise Mismatch(where + " is not in the document")
            return
        responses = operation["responses"]
        if "2XX" in responses:
            return
        response = responses.get(str(status), responses["default"] if status >= 400 else None)
        if response is None:
            raise Mismatch(where + " is no status of the document")
        self.fits(where, response, answer)
        if status >= 400:
            return
        known = {x["name"] for x in operation.get("parameters", []) if x["in"] == "query"}
        for name, _ in parse_qsl(url.query):
            if name not in known:
                raise Mismatch(f"{where}: the document has no parameter `{name}`")
        if request:
            self.fits(where + " (request)", operation.get("requestBody", {}), request)

    def fits(self, where, described, value):
        content = described.get("content", {})
        if not content and value is None:
            return
        if "application/json" not in content:
            raise Mismatch(where + " has JSON, and none in the document")
        validator = self.validators.get(id(content))
        if validator is None:
            schema = {**content["application/json"]["schema"], "components": self.components}
            validator = jsonschema.Draft202012Validator(schema)
            self.validators[id(content)] = validator
        fault = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if fault:
            raise Mismatch(f"{where}: {fault.message} at {list(fault.absolute_path)}")

"""Holds an answer against what is wanted of it."""

import json


def is_error(value):
    return isinstance(value, dict) and "code" in value and ("message" in value or "type" in value)


def error_faults(want, got, at):
    """Codes and reasons count; texts, causes and the rest of the context are advice."""
    if not is_error(got):
        return [f"{at}: wants an error {want.get('code') or want['type']}, got {got!r:.200}"]
    if want["code"] is None:
        # An error of the language there; here it only has to be one of ours.
        return [] if got["code"] not in (None, "internal") else [f"{at}: {got}"]
    faults = []
    if want["code"] != got["code"]:
        faults.append(f"{at}: code {got['code']}, wants {want['code']}; {got['message']:.200}")
    reason = want.get("context", {}).get("reason")
    if reason is not None and got.get("context", {}).get("reason") != reason:
        faults.append(f"{at}: {got['code']}, {got.get('context')!r:.300}, wants reason {reason!r}")
    return faults


def faults(want, got, at="answer"):
    """What is wrong with `got`, as texts. In `want`, a function says whether it likes a value."""
    if callable(want):
        return [] if want(got) else [f"{at}: {got!r:.300}"]
    if is_error(want):
        return error_faults(want, got, at)
    if isinstance(want, dict) and isinstance(got, dict):
        if want.keys() != got.keys():
            extra, missing = sorted(got.keys() - want.keys()), sorted(want.keys() - got.keys())
            return [f"{at}: has {json.dumps({k: got[k] for k in extra})[:300]}, lacks {missing}"]
        return [text for key in want for text in faults(want[key], got[key], f"{at}.{key}")]
    if isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        return [
            text
            for i, pair in enumerate(zip(want, got))
            for text in faults(*pair, f"{at}[{i}]")
        ]
    return [] if want == got else [f"{at}: {got!r:.300}, wants {want!r:.300}"]

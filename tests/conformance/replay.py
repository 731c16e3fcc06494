#!/usr/bin/env python3
"""Replays a folder of recorded vectors; see README.md. Usage:
replay.py --driver PROGRAM [--troupe PROGRAM] FOLDER [AREA...]"""

import argparse
import collections
import json
import os
import re
import shutil
import sys
import tempfile

import areas
import compare
import deviations
import trees

# What a case needs of the machine, by its tag.
tags = {
    "needs-no-sudo": lambda: shutil.which("sudo") is None,
    "needs-no-rclone": lambda: shutil.which("rclone") is None,
    "root-user": lambda: os.geteuid() == 0,
}


def comparable(area, case):
    """The part of what was recorded that our answers have too."""
    expect = case["expect"]
    ok = expect.get("ok")
    if area == "workspace_paths" and case["input"]["fn"] == "anchor" and ok is not None:
        return {"ok": areas.plain_path(ok)}
    if area == "ls_parse" and isinstance(ok, list):
        keep = ("path", "kind", "mode", "size")
        entries = [{key: entry[key] for key in keep} for entry in ok]
        for entry in entries:
            if entry["kind"] != "file":
                del entry["size"]
        return {"ok": sorted(entries, key=lambda entry: entry["path"])}
    if area == "ls_parse" and ok is not None:
        return {"ok": {"to_mode": ok["to_mode"]}}
    if area == "manifest_validate" and ok is not None:
        keep = ("paths", "environment", "unix_local_create", "mount_targets")
        return {
            "ok": {
                **{key: ok[key] for key in keep},
                "dump": json.dumps(ok["dump"]),
                "persistence_skip_paths": sorted(ok["persistence_skip_paths"]),
            }
        }
    if area == "session_state" and ok is not None:
        return {
            "ok": {
                "stored": json.dumps(ok["stored"]),
                "stable": ok["stable"],
                "path_grants_require_rebind": sorted(ok["path_grants_require_rebind"]),
                "mount_authority_redacted": ok["mount_authority_redacted"],
                "resume": ok["resume"],
            }
        }
    if area == "lifecycle":
        # The forms of an endpoint's URL are a client's.
        return {"ok": [without_urls(result) for result in ok]}
    return expect


def without_urls(result):
    found = result.get("ok")
    if isinstance(found, dict) and found.keys() == {"host", "port", "tls", "http", "ws"}:
        return {"ok": {key: found[key] for key in ("host", "port", "tls")}}
    return result


class Tally:
    """What became of the cases of each area, and of each deviation."""

    kinds = ("passed", "differs on purpose", "failed", "not applicable", "skipped")

    def __init__(self):
        self.counts = collections.defaultdict(collections.Counter)
        self.met = collections.Counter()
        self.as_recorded = collections.Counter()

    def add(self, area, kind, name="", why=()):
        self.counts[area][kind] += 1
        if kind == "failed":
            print(f"FAILED {area}/{name}")
            for text in why:
                print(f"    {text}")

    def run(self, area, case, answer):
        """Replays a case; nothing in it may end the run."""
        if any(tag in tags and not tags[tag]() for tag in case.get("tags", [])):
            return self.add(area, "skipped")
        try:
            self.judge(area, case, answer())
        except areas.NotApplicable:
            self.add(area, "not applicable")
        except Exception as fault:
            self.add(area, "failed", case["name"], [f"the replay itself: {fault!r}"])

    def judge(self, area, case, got):
        want = comparable(area, case)
        plain = compare.faults(want, got)
        instead, applied = deviations.instead_of(area, case, want)
        self.met.update(applied)
        if not plain:
            self.as_recorded.update(applied)
            return self.add(area, "passed")
        if applied and not compare.faults(instead, got):
            return self.add(area, "differs on purpose")
        why = compare.faults(instead, got) if applied else plain
        if applied:
            why = [f"(deviates by {', '.join(applied)})"] + why
        self.add(area, "failed", case["name"], why)

    def stale(self):
        """Deviations that were met only where all is as recorded."""
        return sorted(name for name in self.met if self.as_recorded[name] == self.met[name])

    def show(self):
        width = max(map(len, self.counts), default=0)
        total = collections.Counter()
        for area in sorted(self.counts):
            print(f"{area:{width}}  " + self.line(self.counts[area]))
            total.update(self.counts[area])
        print(f"{'total':{width}}  " + self.line(total))

    def line(self, counts):
        shown = [kind for kind in self.kinds if counts[kind] or kind == "failed"]
        return ", ".join(f"{counts[kind]} {kind}" for kind in shown)


def undocumented():
    """Deviations without a row in the table, and rows without a deviation."""
    with open(os.path.join(os.path.dirname(__file__), "deviations.md"), encoding="utf-8") as table:
        rows = set(re.findall(r"^\| `([a-z0-9-]+)` \|", table.read(), re.MULTILINE))
    return sorted(rows ^ set(deviations.names()))


def replay_unit(tally, folder, chosen, program, base):
    driver = areas.Driver(program)
    for area, answer in areas.areas.items():
        path = os.path.join(folder, area + ".json")
        if (chosen and area not in chosen) or not os.path.exists(path):
            continue
        for case in load(path):
            place = trees.Place(base)
            tally.run(area, case, lambda: place.take(answer(case, driver, place)))
    driver.close()


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", required=True)
    parser.add_argument("--troupe")
    parser.add_argument("folder")
    parser.add_argument("areas", nargs="*")
    given = parser.parse_args()
    os.umask(0o022)
    tally = Tally()
    base = tempfile.mkdtemp(prefix="troupe-conformance-")
    try:
        replay_unit(tally, given.folder, given.areas, given.driver, os.path.join(base, "case"))
        if given.troupe:
            import server_areas

            server_areas.replay(tally, given, load, os.path.join(base, "case"))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    tally.show()
    bad = False
    for name in tally.stale():
        print(f"STALE deviation {name}: it was met {tally.met[name]} times and nothing differs")
        bad = True
    for name in undocumented():
        print(f"UNDOCUMENTED deviation {name}: code and table disagree")
        bad = True
    failed = any(counts["failed"] for counts in tally.counts.values())
    return 1 if bad or failed else 0


if __name__ == "__main__":
    sys.exit(main())

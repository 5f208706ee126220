"""Runs of `methods.py` as tasks of an executor, so that a cluster can do them.

All nodes must see the data and `--out` under the same names, and have this folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_sets import scans_of

from semiseg.distributed.choice import Engine, chosen_executor
from semiseg.distributed.executor import Task
from semiseg.distributed.tasks import Work, task


def over_cluster(
    name: str, items: list, given: argparse.Namespace
) -> Iterator[tuple[Any, dict | None, str]]:
    """What the function `name` of methods.py gives for each item, as they come; or why nothing."""
    told = vars(given) | {"data": absolute(given.data), "out": absolute(given.out)}
    told |= {"registrations": absolute(given.registrations)}
    tasks = (
        Task(
            function="method_tasks:one",
            arguments={"name": name, "item": asdict(item), "given": told},
        )
        for item in items
    )
    engine = Engine(ray=given.ray, workers=given.parallel, device=given.device)
    with chosen_executor(engine) as executor:
        for outcome in executor.map(tasks):
            item = items[outcome.index]
            if outcome.error is None:
                yield item, json.loads(outcome.value), ""
            else:
                yield item, None, str(outcome.error)


def absolute(path: str | None) -> str | None:
    """A worker has another working folder."""
    return None if path is None else str(Path(path).absolute())


@task
def one(work: Work) -> str:
    """The result as JSON: what `methods.py` writes down anyway."""
    import methods

    given = argparse.Namespace(**work.arguments["given"])
    kind = {"measure": methods.Run, "make": methods.Drawn}[work.arguments["name"]]
    function = getattr(methods, work.arguments["name"])
    scans = scans_of(given.data_set, Path(given.data))
    return json.dumps(function(kind(**work.arguments["item"]), scans, given))

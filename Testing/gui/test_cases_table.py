"""The table of cases by itself: random changes, height, a thousand rows."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from semiseg.study.overview import CaseOverview


def overview(number: int, **values: Any) -> CaseOverview:
    planes = {"axial": (0, 112), "coronal": (0, 256), "sagittal": (0, 250)}
    plain: dict[str, Any] = {
        "id": f"scan_{number}",
        "name": f"scan {number}",
        "modality": "CT",
        "modality_overridden": False,
        "modality_confidence": 0.99,
        "patient": f"P{number}",
        "split": "train",
        "done": planes | values.pop("done", {}),
        "state": "new",
        "gate": None,
        "uncertainty": None,
        "score": None,
        "label_version": None,
        "prediction_version": None,
        "has_draft": False,
        "problem": "",
    }
    return CaseOverview(**(plain | values))


@pytest.fixture
def table(application: Any) -> Iterator[Any]:
    from SemiSegModuleLib.sections.cases_table import CaseTable

    found = CaseTable(lambda: None, lambda _case_id: None)
    found.view.resize(600, 300)
    found.view.show()
    yield found
    found.close()
    found.view.close()


def changed(rows: list[CaseOverview], rng: random.Random, step: int) -> list[CaseOverview]:
    """With a case more, a case less, or a case that is different."""
    action, rows = rng.randrange(3), list(rows)
    if action == 0 or not rows:
        rows.insert(rng.randint(0, len(rows)), overview(100 + step))
    elif action == 1:
        rows.pop(rng.randrange(len(rows)))
    else:
        place = rng.randrange(len(rows))
        name, score = rng.choice(("CT", "mr 7", "x")), rng.choice((None, rng.random()))
        rows[place] = replace(rows[place], name=name, score=score)
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_after_any_changes_the_table_shows_what_it_was_given(table: Any, seed: int) -> None:
    import qt

    from SemiSegModuleLib.sections.cases_cells import cells, matches, searchable

    rng, rows = random.Random(seed), [overview(number) for number in range(5)]
    for step in range(80):
        rows = changed(rows, rng, step)
        shown = rng.choice([*(row.id for row in rows), None])
        table.update(rows, shown, ())
        wanted_text = rng.choice(("", "", "ct", "x", "7"))
        table.filter(wanted_text)
        column, order = rng.randrange(7), rng.choice((qt.Qt.AscendingOrder, qt.Qt.DescendingOrder))
        table.view.sortByColumn(column, order)
        wanted = {
            row.id: cells(row, shown=row.id == shown, loaded=False)
            for row in rows
            if matches(searchable(row), wanted_text)
        }
        visible, model = table.visible(), table.view.model()
        assert sorted(visible) == sorted(wanted)
        for place in range(7):
            tips = [model.index(row, place).data(qt.Qt.ToolTipRole) for row in range(len(visible))]
            assert tips == [wanted[case_id][place].tip for case_id in visible]
        keys = [wanted[case_id][column].order for case_id in visible]
        assert keys == sorted(keys, reverse=order == qt.Qt.DescendingOrder)
        table.select(rng.sample(visible, min(2, len(visible))))
        assert len(table.selected()) == min(2, len(visible))


def test_the_table_is_as_high_as_its_rows_but_not_endless(table: Any) -> None:
    heights = []
    for count in (3, 8, 40, 41):
        table.update([overview(number) for number in range(count)], None, ())
        heights.append(table.view.maximumHeight)
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_a_thousand_rows_are_refreshed_in_a_blink(table: Any) -> None:
    rows = [overview(number) for number in range(1000)]
    began = time.process_time()
    table.update(rows, None, ())
    first = time.process_time() - began
    rows = [replace(row) for row in rows]
    for number in range(0, 1000, 10):
        rows[number] = replace(rows[number], has_draft=True, score=0.5)
    began = time.process_time()
    table.update(rows, "scan_7", ("scan_7",))
    later = time.process_time() - began
    assert len(table.visible()) == 1000
    assert first < 1.0
    assert later < 0.15

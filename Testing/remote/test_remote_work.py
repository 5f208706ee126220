"""Work on a cluster, from the study and back into it, and what can go wrong on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import pytest

from semiseg.errors import SchemaError
from semiseg.events import Event, Json
from semiseg.remote.address import Access, parse_address
from semiseg.remote.applying import apply_results
from semiseg.remote.causes import RemoteError
from semiseg.remote.client import Dashboard, Submission
from semiseg.remote.consent import Disclosure
from semiseg.remote.packing import Wish
from semiseg.remote.rebuild import Results
from semiseg.remote.records import Records
from semiseg.remote.work import Ended, Means, attach, cancel, submit
from semiseg.study.case import GateRecord, Origin
from semiseg.study.study import Study

PROPAGATE = Wish(kind="propagate")
Run = Callable[..., Ended]


@pytest.fixture
def study(phantom_study: Callable[..., Study]) -> Study:
    return phantom_study(("CT", "MR"), annotated=1)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def run(study: Study, access: Any, quick: Any, events: list[Event]) -> Run:
    """Sends work and waits for its end."""

    def call(ray: Any, wish: Wish = PROPAGATE, **means: Any) -> Ended:
        settings = Means(**{"pace": quick, "gpus": 0.0, **means})
        return submit(study, wish, access(ray), settings, lambda _told: True, events.append)

    return call


def said(events: list[Event], key: str) -> list[Json]:
    return [event.data[key] for event in events if key in event.data]


def test_results_come_into_the_study_under_its_own_names(
    study: Study, ray: Any, run: Run, events: list[Event]
) -> None:
    ended = run(ray)
    assert ended.applied is not None
    assert ended.applied.versions == {"c0": 2, "c1": 1}
    label = study.label("c1")
    assert label is not None
    assert (label.array == 1).all()
    assert (label.origin == Origin.PROPAGATED).all()
    assert label.info["atlases"] == ["c1"]
    gate = study.case("c1").gate
    assert gate is not None
    assert gate.reasons == ("like c1",)
    assert "c1 is done" in [event.message for event in events if event.phase == "propagate"]
    assert Records(study.folder).find(None).state == "done"


def test_human_voxels_stay_as_the_human_drew_them(study: Study, ray: Any, run: Run) -> None:
    before = study.label("c0")
    run(ray)
    after = study.label("c0")
    assert before is not None
    assert after is not None
    human = before.origin == Origin.HUMAN
    assert human.any()
    assert np.array_equal(after.array[human], before.array[human])
    assert np.array_equal(after.origin[human], before.origin[human])


def test_drawing_while_the_job_runs_wins_over_its_results(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    ray.held = True
    ended = run(ray, wait=False)
    assert ended.applied is None
    drawn = np.zeros((10, 16, 16), np.uint16)
    drawn[3, 4:8, 4:8] = 2
    study.annotate("c1", drawn, plane="axial", indices=(3,))
    ray.begin()
    attach(study, ended.record, access(ray), lambda _event: None, quick)
    label = study.label("c1")
    assert label is not None
    assert np.array_equal(label.array[3] == 2, drawn[3] == 2)
    assert (label.array[4] == 1).all()


def test_the_second_round_sends_only_what_is_new(study: Study, ray: Any, run: Run) -> None:
    run(ray)
    first = len(ray.uploaded)
    images = [name for name in ray.uploaded if b"type: float" in ray.packages[name]]
    drawn = np.zeros((10, 16, 16), np.uint16)
    drawn[3, 4:8, 4:8] = 2
    study.annotate("c1", drawn, plane="axial", indices=(3,))
    run(ray)
    assert first == 7  # the job, two images, four files of a label
    assert len(images) == 2
    assert len(set(ray.uploaded)) == len(ray.uploaded)  # the new labels alone


def test_files_are_sent_once_though_the_job_that_lacked_them_takes_long_to_end(
    study: Study, ray: Any, run: Run
) -> None:
    ray.linger_s = 0.5
    assert set(run(ray).applied.versions) == {"c0", "c1"}
    assert len(ray.uploaded) == len(set(ray.uploaded))
    assert len(ray.jobs) == 2  # one that told what it lacks, one that did the work


def test_a_job_that_was_done_is_not_done_again(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    record = run(ray, Wish(kind="propagate", case_ids=("c1",))).record
    versions = study.label_versions("c1")
    ended = attach(study, record, access(ray), lambda _event: None, quick)
    assert ended.applied is not None
    assert ended.applied.versions == {}
    assert study.label_versions("c1") == versions
    # Even where the note of it was lost, the version itself tells.
    bare = Records(study.folder).save(replace(record, applied=(), state="sent"))
    ended = attach(study, bare, access(ray), lambda _event: None, quick)
    assert ended.applied is not None
    assert ended.applied.before == ["c1"]
    assert study.label_versions("c1") == versions


def test_two_submissions_of_the_same_job_run_it_once(
    study: Study, ray: Any, run: Run, access: Any, quick: Any, events: list[Event]
) -> None:
    begun = []

    def work(manifest: Any, folder: Any, emit: Any) -> Event:
        begun.append(manifest.job_id)
        return label(manifest, folder, emit)

    label, ray.work = ray.work, work
    ray.held = True
    first = run(ray, wait=False)
    second = run(ray, wait=False)
    assert first.record.id == second.record.id
    assert said(events, "joined") == [True]
    ray.begin()
    ends = [threading.Thread(target=_attach, args=(study, first, access(ray), quick)) for _ in "ab"]
    for thread in ends:
        thread.start()
    for thread in ends:
        thread.join(20)
    assert len(begun) == 1
    assert study.label_versions("c1") == (1,)


def _attach(study: Study, ended: Ended, access: Any, pace: Any) -> None:
    attach(Study.open(study.folder), ended.record, access, lambda _event: None, pace)


def test_a_network_cut_while_following_is_waited_for_and_said(
    study: Study, ray: Any, run: Run, access: Any, quick: Any, events: list[Event]
) -> None:
    def work(manifest: Any, folder: Any, emit: Any) -> Event:
        ray.cut = 5
        return label(manifest, folder, emit)

    label, ray.work = ray.work, work
    ended = run(ray)
    assert ended.applied is not None
    assert ended.applied.versions == {"c0": 2, "c1": 1}
    assert set(said(events, "waiting")) == {"network"}
    assert len(said(events, "waiting")) >= 3


def test_a_network_that_stays_away_leaves_the_job_to_be_joined_later(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    def work(manifest: Any, folder: Any, emit: Any) -> Event:
        ray.cut = 10_000
        return label(manifest, folder, emit)

    label, ray.work = ray.work, work
    with pytest.raises(RemoteError, match="run attach") as caught:
        run(ray, pace=replace(quick, patience_s=0.1))
    assert caught.value.cause == "network"
    ray.cut = 0
    record = Records(study.folder).find(None)
    assert record.state == "sent"
    ended = attach(study, record, access(ray), lambda _event: None, quick)
    assert ended.applied is not None
    assert ended.applied.versions == {"c0": 2, "c1": 1}


def test_a_head_node_that_is_lost_and_back_gets_the_job_again(
    study: Study, ray: Any, run: Run, events: list[Event]
) -> None:
    ray.restarts = 1
    ended = run(ray)
    assert ended.applied is not None
    assert ended.applied.versions == {"c0": 2, "c1": 1}
    assert any("started anew and lost the job" in event.message for event in events)


def test_a_head_node_that_is_lost_again_and_again_ends_the_work(
    study: Study, ray: Any, run: Run
) -> None:
    ray.restarts = 9
    with pytest.raises(RemoteError, match="lost the job several times") as caught:
        run(ray)
    assert caught.value.cause == "lost"
    assert study.label_versions("c1") == ()


def test_a_full_cluster_is_said_while_the_job_waits(
    ray: Any, run: Run, events: list[Event]
) -> None:
    ray.held, ray.usage = True, {"GPU": (1.0, 1.0), "CPU": (0.0, 4.0)}

    def begin() -> None:
        until = time.monotonic() + 30
        while True not in said(list(events), "pending") and time.monotonic() < until:
            time.sleep(0.01)
        ray.begin()

    threading.Thread(target=begin, daemon=True).start()
    ended = run(ray, gpus=1.0)
    assert ended.applied is not None
    assert True in said(events, "pending")
    assert any("1 of 1 are in use, the job needs 1 GPU" in event.message for event in events)


def test_a_result_that_is_damaged_once_is_fetched_again(
    study: Study, ray: Any, run: Run, events: list[Event]
) -> None:
    spoiled = []

    def spoil(path: str, body: bytes) -> bytes:
        if "logs/file" in path and "events" not in path and not spoiled:
            spoiled.append(path)
            return body[:-1] + bytes([body[-1] ^ 1])
        return body

    ray.spoil = spoil
    ended = run(ray)
    assert spoiled
    assert ended.applied is not None
    assert ended.applied.versions == {"c0": 2, "c1": 1}
    assert any("arrived damaged" in event.message for event in events)


def test_a_result_that_is_always_damaged_never_enters_the_study(
    study: Study, ray: Any, run: Run
) -> None:
    results = []

    def spoil(path: str, body: bytes) -> bytes:
        if "logs/file" in path and "events" not in path and "results" not in path:
            results.append(path)
            return body[:-1] + bytes([body[-1] ^ 1])
        return body

    ray.spoil = spoil
    with pytest.raises(RemoteError, match="arrived damaged 3 times") as caught:
        run(ray)
    assert caught.value.cause == "damaged"
    assert len(results) == 3
    assert study.label_versions("c1") == ()
    assert Records(study.folder).find(None).state == "sent"


def test_a_file_that_was_damaged_on_its_way_there_is_sent_again(
    ray: Any, run: Run, events: list[Event]
) -> None:
    spoiled = []

    def spoil(body: bytes) -> bytes:
        if b"semiseg_pieces" in body and not spoiled:
            spoiled.append(body)
            return _with_changed_byte(body)
        return body

    ray.spoil_upload = spoil
    ended = run(ray)
    assert spoiled
    assert ended.applied is not None
    assert ended.applied.versions == {"c0": 2, "c1": 1}


def _with_changed_byte(archive: bytes) -> bytes:
    """A zip archive whose content differs in one byte, with check sums that fit."""
    with ZipFile(BytesIO(archive)) as old:
        files = {name: old.read(name) for name in old.namelist()}
    buffer = BytesIO()
    with ZipFile(buffer, "w") as new:
        for name, content in files.items():
            new.writestr(ZipInfo(name), bytes([content[0] ^ 1]) + content[1:])
    return buffer.getvalue()


def test_a_job_that_fails_says_why_and_keeps_what_it_made(study: Study, ray: Any, run: Run) -> None:
    def work(manifest: Any, folder: Any, emit: Any) -> Event:
        only = replace(manifest, cases=manifest.cases[:1])
        label(only, folder, emit)
        return Event(kind="error", phase="end", message="scan0002: no memory", data={"error": "x"})

    label, ray.work = ray.work, work
    with pytest.raises(RemoteError, match="c1: no memory"):
        run(ray)
    assert study.label_versions("c0") == (1, 2)
    assert Records(study.folder).find(None).state == "failed"
    ray.work = label
    ended = run(ray)
    assert ended.applied is not None
    assert "c1" in ended.applied.versions


def test_a_cancelled_job_is_stopped_there(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    ray.held = True
    record = run(ray, wait=False).record
    assert cancel(study, record, access(ray)).state == "cancelled"
    assert [job.status for job in ray.jobs.values()] == ["STOPPED"]
    with pytest.raises(RemoteError, match="stopped on the cluster") as caught:
        attach(study, record, access(ray), lambda _event: None, quick)
    assert caught.value.cause == "cancelled"


def test_nothing_is_sent_without_consent(study: Study, ray: Any, access: Any, quick: Any) -> None:
    asked: list[Disclosure] = []

    def refuse(told: Disclosure) -> bool:
        asked.append(told)
        return False

    with pytest.raises(RemoteError, match="nothing was sent"):
        submit(study, PROPAGATE, access(ray), Means(pace=quick), refuse, lambda _event: None)
    assert ray.requests == []
    assert asked[0].files == 6
    assert any("2 scans as bare voxels" in line for line in asked[0].lines)


def test_consent_is_remembered_for_an_address(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    run(ray)
    study.annotate("c1", np.ones((10, 16, 16), np.uint16), plane="axial", indices=(1,))
    means = Means(pace=quick, gpus=0.0)
    ended = submit(study, PROPAGATE, access(ray), means, _never, lambda _event: None)
    assert ended.applied is not None


def test_where_something_may_name_a_person_consent_is_asked_each_time(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    run(ray)
    before, asked = len(ray.requests), list[Disclosure]()

    def refuse(told: Disclosure) -> bool:
        asked.append(told)
        return False

    telling = Wish(kind="propagate", arguments=("--seed", "anna@hospital.org"))
    with pytest.raises(RemoteError, match="nothing was sent"):
        submit(study, telling, access(ray), Means(pace=quick), refuse, lambda _event: None)
    assert "anna@hospital.org" in str(asked[0].findings)
    assert len(ray.requests) == before


def _never(_told: Disclosure) -> bool:
    raise AssertionError("asked again")


def test_the_token_is_nowhere_in_the_study(
    study: Study, serve: Any, run: Run, events: list[Event]
) -> None:
    ray = serve(token="secret-0123456789")
    run(ray)
    assert set(ray.headers) == {"Bearer secret-0123456789"}
    for path in study.folder.rglob("*"):
        assert not path.is_file() or b"secret-0123456789" not in path.read_bytes()
    assert "secret" not in repr(events)


def test_a_segmentation_and_its_model_keep_their_numbers_here(
    study: Study, ray: Any, run: Run
) -> None:
    def write(folder: Any) -> None:
        (folder / "weights.safetensors").write_bytes(b"weights")

    told: dict[str, Json] = {"method": "supervised", "classes": [0, 1, 2], "name": "c0 of Smith"}
    study.add_model(write, {**told, "name": "first"})
    second = study.add_model(write, told)
    ended = run(ray, Wish(kind="predict", case_ids=("c1",), model_id=second))
    assert ended.applied is not None
    assert ended.applied.versions == {"c1": 1}
    found = study.prediction("c1")
    assert found is not None
    assert found.model_id == second
    assert found.info["model"] == "c0 of Smith"
    assert found.info["notes"] == ["c1"]


def test_a_model_comes_back_once(study: Study, ray: Any, run: Run, access: Any, quick: Any) -> None:
    def work(manifest: Any, folder: Any, emit: Any) -> Event:
        there = Study.open(folder)

        def write(draft: Any) -> None:
            (draft / "weights.safetensors").write_bytes(b"learned")

        there.add_model(
            write,
            {
                "names": {"1": "left kidney structure0001"},
                "cases": {"scan0001": {}},
                "study_id": there.id,
            },
        )
        return Event(kind="result", phase="end")

    ray.work = work
    ended = run(ray, Wish(kind="train", arguments=("--steps", "3")))
    assert ended.applied is not None
    assert ended.applied.versions == {"model": 1}
    info = study.model().info
    assert info["names"] == {"1": "liver"}
    assert info["cases"] == {"c0": {}}
    assert info["study_id"] == study.id
    bare = Records(study.folder).save(replace(ended.record, applied=(), state="sent"))
    attach(study, bare, access(ray), lambda _event: None, quick)
    assert len(study.models()) == 1


@pytest.mark.parametrize("change", ["removed", "propagated"])
def test_results_that_no_longer_fit_are_left_out_with_a_sentence(
    study: Study, ray: Any, run: Run, access: Any, quick: Any, change: str
) -> None:
    ray.held = True
    record = run(ray, wait=False).record
    if change == "removed":
        study.remove_case("c1")
    else:
        shape = study.case("c1").grid.shape_zyx
        gate = GateRecord(verdict="accept", score=1.0)
        study.propagated(
            "c1",
            np.full(shape, 2, np.uint16),
            np.ones(shape, np.float32),
            structure_ids=(2,),
            gate=gate,
            info={},
        )
    ray.begin()
    ended = attach(study, record, access(ray), lambda _event: None, quick)
    assert ended.applied is not None
    assert list(ended.applied.refused) == ["c1"]
    assert ("was removed" if change == "removed" else "meanwhile") in ended.applied.refused["c1"]
    assert ended.applied.versions == {"c0": 2}


def test_results_for_an_image_that_is_another_one_now_are_left_out(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    ray.held = True
    record = run(ray, wait=False).record
    sent = {**record.images, "c1": "0" * 64}  # what was sent is not what the study has now
    record = Records(study.folder).save(replace(record, images=sent))
    ray.begin()
    ended = attach(study, record, access(ray), lambda _event: None, quick)
    assert ended.applied is not None
    assert "image is another one now" in ended.applied.refused["c1"]
    assert ended.applied.versions == {"c0": 2}
    assert study.label_versions("c1") == ()


def test_another_version_of_semiseg_there_is_said(
    study: Study, ray: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semiseg.remote.runner.__version__", "9.9")
    with pytest.raises(RemoteError, match="the cluster has SemiSeg") as caught:
        run(ray)
    assert caught.value.cause == "version"


def test_a_full_disk_there_is_said_before_anything_is_sent(
    study: Study, ray: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semiseg.remote.runner._DISK_LEAST", 1 << 62)
    with pytest.raises(RemoteError, match="disk is too full") as caught:
        run(ray)
    assert caught.value.cause == "disk-full"
    assert len(ray.uploaded) == 1  # the job's description


def test_plain_http_to_another_computer_needs_a_word(
    study: Study, ray: Any, access: Any, quick: Any
) -> None:
    far = Access(address=parse_address("ray://head.example"), token="t")
    with pytest.raises(RemoteError, match="not encrypted") as caught:
        submit(study, PROPAGATE, far, Means(pace=quick), _never, lambda _event: None)
    assert caught.value.cause == "unencrypted"


def test_a_job_is_listed_though_this_process_is_killed_while_it_submits(
    study: Study,
    ray: Any,
    run: Run,
    access: Any,
    quick: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submitted = Dashboard.submit

    def killed(dashboard: Dashboard, job: Submission) -> bool:
        submitted(dashboard, job)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Dashboard, "submit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(ray)
    record = Records(study.folder).find(None)
    assert record.state == "sent"
    ended = attach(study, record, access(ray), lambda _event: None, quick)
    assert ended.applied is not None
    assert ended.applied.versions == {"c0": 2, "c1": 1}


def test_a_job_whose_submission_got_no_answer_may_run_and_is_listed(
    study: Study, ray: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dashboard, "submit", _failing("timeout"))
    with pytest.raises(RemoteError, match="no answer"):
        run(ray)
    assert [record.state for record in Records(study.folder).all()] == ["sent"]


@pytest.mark.parametrize("earlier", [None, "cancelled"])
def test_a_job_that_is_refused_leaves_the_list_as_it_was(
    study: Study,
    ray: Any,
    run: Run,
    access: Any,
    monkeypatch: pytest.MonkeyPatch,
    earlier: str | None,
) -> None:
    if earlier is not None:
        ray.held = True
        cancel(study, run(ray, wait=False).record, access(ray))
    monkeypatch.setattr(Dashboard, "submit", _failing("token-wrong"))
    with pytest.raises(RemoteError, match="no answer"):
        run(ray)
    states = [record.state for record in Records(study.folder).all()]
    assert states == ([] if earlier is None else [earlier])


def _failing(cause: Any) -> Callable[..., bool]:
    def fail(_dashboard: Dashboard, _job: Submission) -> bool:
        raise RemoteError(cause, "no answer")

    return fail


def test_a_cluster_that_cannot_be_reached_is_no_entry_in_the_list(
    study: Study, ray: Any, run: Run
) -> None:
    ray.cut = 10_000
    with pytest.raises(RemoteError) as caught:
        run(ray)
    assert caught.value.cause == "network"
    assert Records(study.folder).all() == ()


def test_after_a_withdrawal_consent_is_asked_again(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    run(ray, Wish(kind="propagate", case_ids=("c1",)))
    records = Records(study.folder)
    assert records.withdraw(access(ray).address.url)
    assert not records.withdraw(access(ray).address.url)
    before = len(ray.requests)
    means = Means(pace=quick, gpus=0.0)
    with pytest.raises(RemoteError, match="nothing was sent"):
        submit(study, PROPAGATE, access(ray), means, lambda _told: False, lambda _event: None)
    assert len(ray.requests) == before


@pytest.mark.parametrize("lost", [False, True])
def test_after_a_withdrawal_a_job_is_followed_and_nothing_more_is_sent(
    study: Study, ray: Any, run: Run, access: Any, quick: Any, lost: bool
) -> None:
    ray.held = True
    record = run(ray, wait=False).record  # it has not said yet that it lacks the scans
    Records(study.folder).withdraw(record.address)
    uploaded = list(ray.uploaded)
    (ray.restart if lost else ray.begin)()
    with pytest.raises(RemoteError, match="withdrawn") as caught:
        attach(study, record, access(ray), lambda _event: None, quick)
    assert caught.value.cause == "consent"
    assert ray.uploaded == uploaded
    assert not [name for name in ray.jobs if not name.endswith("-1")]


def test_results_that_are_ready_come_in_after_a_withdrawal(
    study: Study, ray: Any, run: Run, access: Any, quick: Any
) -> None:
    record = Records(study.folder).save(replace(run(ray).record, state="sent"))
    Records(study.folder).withdraw(record.address)
    ended = attach(study, record, access(ray), lambda _event: None, quick)
    assert ended.applied is not None
    assert ended.applied.before == ["c0", "c1"]


def test_results_of_another_job_are_refused(study: Study, ray: Any, run: Run) -> None:
    record = run(ray).record
    versions = study.label_versions("c1")
    strange = Results(job="semiseg-other", found=())
    with pytest.raises(SchemaError, match="not of semiseg-"):
        apply_results(study, record, strange, lambda _piece: b"", lambda _event: None)
    assert study.label_versions("c1") == versions

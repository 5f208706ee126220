"""Work on a cluster: sent after consent, followed, left there, ended, followed again later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.remote.records import Record, Records
from semiseg.study.case import GateRecord
from semiseg.study.journal import utc_now
from semiseg.study.study import Study

Until = Callable[..., bool]
ADDRESS = "https://cluster.hospital.org"
URL = "https://cluster.hospital.org:443"
JOB = "semiseg-" + "0123456789abcdef" * 2
TOLD: Mapping[str, Any] = {
    "lines": ["To https://cluster.hospital.org:443:", "- 2 scans as bare voxels (0.1 MB)"],
    "findings": [],
}


@pytest.fixture
def session(live_session: Any, jobs: Any, phantom_study: Any, until: Until) -> Any:
    """An open study of two phantoms, c0 annotated and shown; its work goes to a cluster."""
    from SemiSegModuleLib.session_cluster import Keys

    made = live_session(jobs)
    made.open_study(phantom_study(annotated=1).folder)
    made.select("c0")
    made.choose_engine("cluster", ADDRESS, Keys(token_file="/keys/token", ca_file="/keys/ca.pem"))
    assert until(made)
    yield made
    made.parameters.engine = "here"


def sent(folder: Path, *, job: str = JOB, kind: Any = "propagate", **values: Any) -> Record:
    """What the child notes down once a job is on its way."""
    record = Record(
        id=job,
        address=URL,
        kind=kind,
        created=utc_now(),
        names={},
        bases={},
        images={},
        **values,
    )
    return Records(folder).save(record)


def start(session: Any, jobs: Any, until: Until) -> Any:
    session.propagate(all_cases=True)
    assert until(session, lambda: jobs.told)
    return jobs.told[-1]


def following(session: Any, jobs: Any, until: Until, count: int) -> Any:
    """The told job number `count`."""
    assert until(session, lambda: len(jobs.told) == count)
    return jobs.told[-1]


def long_work(jobs: Any) -> list[list[str]]:
    return [words for words in jobs.commands if words[0] not in ("study", "history")]


def test_each_work_is_sent_with_its_own_command(session: Any, jobs: Any, until: Until) -> None:
    study = str(session.study.folder)
    keys = ["--token-file", "/keys/token", "--ca", "/keys/ca.pem"]
    session.propagate(all_cases=False)
    following(session, jobs, until, 1).end(applied={"c0": 2})
    assert until(session)
    session.learn(30, "cpu", "auto", 3)
    following(session, jobs, until, 2).end(applied={"model": 1})
    assert until(session)
    session.segment(all_cases=True, model=1, device="cuda")
    following(session, jobs, until, 3).end()
    first, second, third = long_work(jobs)
    on = ["run", "--on", ADDRESS, *keys]
    assert first == [*on, "propagate", study, "c0", "--device", "auto"]
    options = ["--minutes", "30", "--device", "cpu", "--method", "auto", "--seed", "3"]
    assert second == [*on, "--gpus", "0", "train", study, *options]
    assert third == [*on, "--gpus", "1", "predict", study, "--model", "1", "--device", "cuda"]


def test_export_and_report_stay_on_this_computer(session: Any, jobs: Any, until: Until) -> None:
    session.report()
    assert following(session, jobs, until, 1).arguments[0] == "report"
    assert not session.can_leave()


def test_a_slice_is_not_watched_on_a_cluster(session: Any, jobs: Any, until: Until) -> None:
    session.parameters.watch = True
    session.learn(1, "auto", "auto", 0)
    assert "--watch" not in following(session, jobs, until, 1).arguments


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("", "Enter the address"),
        ("cluster", "no address of a Ray cluster"),
        ("http://cluster.hospital.org", "not encrypted"),
        ("https://me:secret@cluster.org", "(Token file)"),
    ],
)
def test_an_address_that_cannot_be_used_is_said_before_anything_starts(
    session: Any, jobs: Any, address: str, part: str
) -> None:
    from SemiSegModuleLib.session_cluster import Keys

    session.choose_engine("cluster", address, Keys())
    for kind in ("propagate", "learn"):
        assert part in session.why_not(kind)
    assert session.why_not("export") == ""
    session.propagate(all_cases=True)
    assert part in session.message
    assert not session.busy()
    assert jobs.told == []
    assert "secret" not in session.message
    session.choose_engine("here", address, Keys())
    assert session.why_not("propagate") == ""


def test_without_consent_nothing_is_sent_and_the_user_is_asked(
    session: Any, jobs: Any, until: Until
) -> None:
    job = start(session, jobs, until)
    assert "--yes" not in job.arguments
    job.fail("nothing was sent", cause="consent", consent=TOLD)
    assert until(session)
    assert session.consent.lines == tuple(TOLD["lines"])
    assert not session.message_is_error
    assert "Nothing has been sent yet" in session.message
    assert not session.busy()
    session.agree_to_send()
    again = following(session, jobs, until, 2)
    assert again.arguments == ["run", "--yes", *job.arguments[1:]]
    assert session.consent is None
    assert session.task.kind == "propagate"


def test_declining_sends_nothing(session: Any, jobs: Any, until: Until) -> None:
    start(session, jobs, until).fail("x", cause="consent", consent=TOLD)
    assert until(session)
    session.decline_to_send()
    assert session.consent is None
    assert session.message == "Nothing was sent."
    session.agree_to_send()
    assert len(jobs.told) == 1
    assert not session.busy()


def test_what_is_agreed_to_goes_where_it_was_shown_to_go(
    session: Any, jobs: Any, until: Until
) -> None:
    from SemiSegModuleLib.session_cluster import Keys

    start(session, jobs, until).fail("x", cause="consent", consent=TOLD)
    assert until(session)
    session.choose_engine("cluster", "https://elsewhere.org", Keys())
    session.agree_to_send()
    assert ADDRESS in following(session, jobs, until, 2).arguments


def test_other_work_takes_the_question_away(session: Any, jobs: Any, until: Until) -> None:
    start(session, jobs, until).fail("x", cause="consent", consent=TOLD)
    assert until(session)
    session.report()
    assert session.consent is None
    following(session, jobs, until, 2)


def test_a_case_is_shown_when_it_is_here_not_when_it_is_ready_there(
    session: Any, jobs: Any, until: Until
) -> None:
    job = start(session, jobs, until)
    job.say("propagate", 1, 2, "c1 is ready", case="c1", saved=True, version=7, verdict="accept")
    session.tick()
    assert session.task.cases_done == []
    assert "propagated" not in session.message
    said = np.zeros((10, 16, 16), np.uint16)
    said[3:6, 5:9, 5:9] = 1
    gate = GateRecord(verdict="accept", score=0.86, reasons=())
    Study.open(session.study.folder).propagated(
        "c1", said, said.astype(np.float32), structure_ids=(1,), gate=gate, info={}
    )
    job.say("fetch", 1, 1, "c1 is in the study", case="c1", saved=True, version=1)
    session.tick()
    assert session.task.cases_done == ["c1"]
    assert session.message.startswith("c1: propagated")
    job.end(applied={"c1": 1}, applied_before=[], refused={})
    assert until(session)
    assert "looks right 1" in session.message


def test_a_model_that_came_back_is_named(session: Any, jobs: Any, until: Until) -> None:
    session.learn(1, "auto", "auto", 0)
    job = following(session, jobs, until, 1)
    job.say("train", 3, 9, loss=0.5)
    session.tick()
    assert session.task.curve["loss"] == [(3.0, 0.5)]
    job.end(applied={"model": 4}, applied_before=[], refused={})
    assert until(session)
    assert session.message.startswith("Model 4 is ready")


def test_results_that_were_here_already_and_those_left_out_are_said(
    session: Any, jobs: Any, until: Until
) -> None:
    start(session, jobs, until).end(applied={}, applied_before=["c1"], refused={})
    assert until(session)
    assert "in the study already" in session.message
    assert "go back to them under History" in session.message
    session.propagate(all_cases=True)
    why = "c1: its image is another one now"
    following(session, jobs, until, 2).end(applied={}, applied_before=[], refused={"c1": why})
    assert until(session)
    assert session.message == f"Left out: {why}"
    assert session.message_is_error


def test_a_failure_is_told_in_the_words_of_the_panel(session: Any, jobs: Any, until: Until) -> None:
    text = "x wants a token; give the file that holds it (--token-file) or set RAY_AUTH_TOKEN"
    start(session, jobs, until).fail(text, cause="token-missing")
    assert until(session)
    assert session.message == "x wants a token; give the file that holds it (Token file)"
    assert session.message_is_error


def test_a_job_that_somebody_ended_on_the_cluster_is_told(
    session: Any, jobs: Any, until: Until
) -> None:
    start(session, jobs, until).fail("the job was stopped on the cluster", cause="cancelled")
    assert until(session)
    assert session.message == "the job was stopped on the cluster"
    assert not session.message_is_error


def test_cancel_ends_the_job_on_the_cluster_too(session: Any, jobs: Any, until: Until) -> None:
    job = start(session, jobs, until)
    sent(session.study.folder)
    session.cancel()
    assert job.cancelled
    ending = following(session, jobs, until, 2)
    study = str(session.study.folder)
    assert ending.arguments[:4] == ["run", "cancel", study, JOB]
    assert "/keys/token" in ending.arguments
    assert session.busy()
    ending.end(job=JOB, state="cancelled")
    assert until(session)
    assert session.message.startswith("Ended on the cluster")
    assert not session.busy()


def test_cancel_before_anything_was_sent_asks_no_cluster(
    session: Any, jobs: Any, until: Until
) -> None:
    sent(session.study.folder)  # an earlier one, which is not meant
    job = start(session, jobs, until)
    job.say("pack", 1, 2)
    session.tick()
    assert not session.can_leave()
    session.leave()
    assert not job.cancelled
    session.cancel()
    assert until(session)
    assert len(jobs.told) == 1
    assert "before anything ran" in session.message


def test_cancel_while_drawings_are_saved_forgets_the_cluster(
    session: Any, jobs: Any, until: Until
) -> None:
    jobs.hold = lambda words: words[:2] == ["study", "apply"] or words[0] != "study"
    session.mark_empty(0)
    session.propagate(all_cases=True)
    session.cancel()
    assert session.remote is None
    assert not session.busy()


def test_a_job_that_could_not_be_ended_there_is_said(session: Any, jobs: Any, until: Until) -> None:
    start(session, jobs, until)
    sent(session.study.folder)
    session.cancel()
    following(session, jobs, until, 2).fail("the name is not known", cause="name")
    assert until(session)
    assert session.message == "It may still run on the cluster. the name is not known"
    assert session.remote_jobs[0].state == "sent"


def test_work_can_be_left_there_and_followed_later(session: Any, jobs: Any, until: Until) -> None:
    job = start(session, jobs, until)
    sent(session.study.folder)
    job.say("remote", text="waiting for room")
    session.tick()
    assert session.can_leave()
    job.say("start", text="loading")
    session.tick()
    assert session.can_leave(), "it begins there, not here"
    session.leave()
    assert job.cancelled
    assert until(session)
    assert len(jobs.told) == 1, "nothing is ended there"
    assert "goes on" in session.message
    session.follow(JOB)
    again = following(session, jobs, until, 2)
    assert again.arguments[:4] == ["run", "attach", str(session.study.folder), JOB]
    assert session.can_leave()
    assert session.task.kind == "propagate"


def test_cancelling_what_is_followed_ends_it(session: Any, jobs: Any, until: Until) -> None:
    sent(session.study.folder, kind="predict")
    session._records = None
    session.follow(JOB)
    following(session, jobs, until, 1)
    assert session.task.kind == "segment"
    session.cancel()
    assert following(session, jobs, until, 2).arguments[1] == "cancel"


def test_a_job_in_the_list_is_ended_without_following_it(
    session: Any, jobs: Any, until: Until
) -> None:
    sent(session.study.folder)
    session._records = None
    session.end_there(JOB)
    assert following(session, jobs, until, 1).arguments[1] == "cancel"
    session.end_there(JOB)
    assert "Other work is running" in session.message
    session.follow("semiseg-none")
    assert "Other work is running" in session.message


def test_a_job_that_is_none_is_said(session: Any) -> None:
    session.follow("semiseg-none")
    assert "no such work" in session.message
    assert not session.busy()


def test_opening_the_study_again_follows_what_is_still_there(
    session: Any, jobs: Any, until: Until
) -> None:
    from SemiSegModuleLib.session_cluster import Keys

    folder = session.study.folder
    job = start(session, jobs, until)
    sent(folder)
    session.close_study()
    assert job.cancelled
    assert session.remote is None
    session.parameters.cluster_address = "https://other.org"
    session.recall_keys = lambda url: Keys(token_file=f"/last/{url[8:15]}")
    session.open_study(folder)
    again = following(session, jobs, until, 2)
    words = ["run", "attach", str(folder), JOB, "--token-file", "/last/cluster"]
    assert again.arguments == words
    assert session.task.kind == "propagate"
    again.end(applied={"c1": 1}, applied_before=[], refused={})
    assert until(session)


def test_several_jobs_are_followed_one_after_the_other_and_each_once(
    session: Any, jobs: Any, until: Until
) -> None:
    folder = session.study.folder
    other = "semiseg-" + "f" * 32
    sent(folder)
    sent(folder, job=other)
    sent(folder, job="semiseg-" + "e" * 32, state="done")
    session.open_study(folder)
    following(session, jobs, until, 1).fail("the network is away", cause="network")
    second = following(session, jobs, until, 2)
    assert {jobs.told[0].arguments[3], second.arguments[3]} == {JOB, other}
    second.fail("the network is away", cause="network")
    assert until(session)
    assert len(jobs.told) == 2
    assert session.message_is_error


def test_what_was_left_at_opening_stays_left(session: Any, jobs: Any, until: Until) -> None:
    folder = session.study.folder
    sent(folder)
    sent(folder, job="semiseg-" + "f" * 32)
    session.open_study(folder)
    following(session, jobs, until, 1)
    session.leave()
    assert until(session)
    assert len(jobs.told) == 1
    assert not session.busy()


def test_a_record_that_cannot_be_read_is_told_and_the_study_opens(
    session: Any, until: Until
) -> None:
    folder = session.study.folder
    (folder / "remote").mkdir()
    (folder / "remote" / f"{JOB}.json").write_text("{}")
    session.open_study(folder)
    assert until(session)
    assert session.remote_jobs == ()
    assert session.message_is_error
    assert session.study is not None


def test_the_day_of_the_consent_is_known(session: Any) -> None:
    assert session.agreed_since() == ""
    Records(session.study.folder).agree(URL)
    session._records = None
    assert session.agreed_since()[:10] == utc_now()[:10]
    session.parameters.cluster_address = "https://elsewhere.org"
    assert session.agreed_since() == ""


def test_every_option_in_the_causes_of_a_failed_connection_gets_the_panels_name(
    application: Any,
) -> None:
    import ssl

    from semiseg.remote.address import Access, parse_address
    from semiseg.remote.causes import from_exception, from_status
    from SemiSegModuleLib.cluster_words import in_panel_words

    access = Access(address=parse_address(ADDRESS))
    untrusted = ssl.SSLCertVerificationError()
    untrusted.verify_code, untrusted.verify_message = 20, "unknown issuer"
    for error in (from_status(401, "", access), from_exception(untrusted, access)):
        words = in_panel_words(str(error))
        assert "--" in str(error)
        assert "--" not in words
        assert "Token file" in words or "Certificate" in words


def test_consent_is_withdrawn_by_a_child_and_then_no_longer_shown(
    session: Any, jobs: Any, until: Until
) -> None:
    folder = session.study.folder
    session.withdraw_consent()
    assert jobs.told == [], "there is none"
    Records(folder).agree(URL)
    session._records = None
    assert session.agreed_since()
    session.withdraw_consent()
    session.withdraw_consent()  # a second click while the first is on its way
    child = following(session, jobs, until, 1)
    assert child.arguments == ["run", "withdraw", str(folder), URL]
    Records(folder).withdraw(URL)
    child.end("from now on nothing is sent there")
    assert until(session)
    assert session.agreed_since() == ""
    assert session.message == "from now on nothing is sent there"
    assert len(jobs.told) == 1
    start(session, jobs, until)
    session.withdraw_consent()
    assert "Other work is running" in session.message

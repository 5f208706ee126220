"""Where to compute: every button, choice, enabled state, test, consent and list of jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from semiseg.remote.records import Record, Records
from semiseg.study.journal import utc_now

Until = Callable[..., bool]
ADDRESS = "https://cluster.hospital.org"
URL = "https://cluster.hospital.org:443"
JOB = "semiseg-" + "0123456789abcdef" * 2


@pytest.fixture
def section(live_session: Any, jobs: Any) -> Iterator[Any]:
    from SemiSegModuleLib import cluster_memory
    from SemiSegModuleLib.sections.cluster import ClusterSection

    cluster_memory.forget()
    session = live_session(jobs)
    session.parameters.engine = "here"
    session.parameters.cluster_address = ""
    session.parameters.cluster_token_file = session.parameters.cluster_ca_file = ""
    made = ClusterSection(session, str, job_class=jobs)
    session.listen(made.refresh)
    made.session = session
    made.widget.show()
    yield made
    made.close()
    made.widget.hide()
    session.parameters.engine = "here"
    session.parameters.cluster_address = ""
    cluster_memory.forget()


@pytest.fixture
def chosen(section: Any) -> Any:
    """The section with a cluster chosen and its address typed."""
    section.clusterButton.checked = True
    type_in(section, ADDRESS)
    return section


@pytest.fixture
def work(section: Any, phantom_study: Any, until: Until) -> Iterator[Any]:
    """The section of the work over the same session, with a study of two phantoms."""
    from SemiSegModuleLib.sections.work import WorkSection

    made = WorkSection(section.session, str)
    section.session.listen(made.refresh)
    section.session.open_study(phantom_study(annotated=1).folder)
    made.widget.show()
    assert until(section.session)
    yield made
    made.close()
    made.widget.hide()


def type_in(section: Any, text: str) -> None:
    section.addressEdit.text = text
    section.addressEdit.editingFinished.emit()


def record(folder: Path, **values: Any) -> None:
    known: dict[str, Any] = {"id": JOB, "kind": "train", "created": utc_now()} | values
    Records(folder).save(Record(address=URL, names={}, bases={}, images={}, **known))


def show_again(section: Any) -> None:
    section.session._records = None
    section.session.changed("cluster")
    section.session.tell()


def test_at_first_there_are_two_choices_and_nothing_else(section: Any) -> None:
    assert section.hereButton.checked
    assert section.title() == "Where to compute: this computer"
    assert not section.settingsArea.visible
    assert not section.jobs.widget.visible


def test_choosing_a_cluster_shows_its_settings(section: Any) -> None:
    section.clusterButton.checked = True
    assert section.session.parameters.engine == "cluster"
    assert section.settingsArea.visible
    assert section.title() == "Where to compute: a cluster"
    assert not section.testButton.enabled
    assert "Enter the address" in section.testButton.toolTip
    assert not section.troubleLabel.visible, "an empty field is no mistake yet"
    assert "you read what is sent, and agree" in section.agreedLabel.text
    section.hereButton.checked = True
    assert section.session.parameters.engine == "here"
    assert not section.settingsArea.visible


def test_what_is_wrong_with_an_address_is_said_below_it(chosen: Any) -> None:
    assert chosen.testButton.enabled
    assert not chosen.troubleLabel.visible
    type_in(chosen, "http://cluster.hospital.org")
    assert not chosen.testButton.enabled
    assert chosen.troubleLabel.visible
    assert "not encrypted" in chosen.troubleLabel.text
    type_in(chosen, "http://localhost:8265")
    assert chosen.testButton.enabled, "the near end of a tunnel"


def test_choices_are_kept_in_the_scene_and_the_token_nowhere(chosen: Any, tmp_path: Path) -> None:
    import qt

    token = tmp_path / "token"
    token.write_text("0123secret")
    chosen.tokenEdit.currentPath = str(token)
    chosen.authorityEdit.currentPath = "/ca.pem"
    choices = chosen.session.parameters
    assert (choices.cluster_address, choices.cluster_token_file) == (ADDRESS, str(token))
    assert choices.cluster_ca_file == "/ca.pem"
    assert "secret" not in str(qt.QSettings().value("SemiSeg/Clusters"))


def test_work_can_be_shared_among_several_workers_of_the_cluster(
    chosen: Any, work: Any, jobs: Any, until: Until
) -> None:
    chosen.workersBox.value = 4
    work.propagateButton.click()
    assert until(chosen.session, lambda: jobs.told)
    assert jobs.told[0].arguments[-2:] == ["--workers", "4"]
    chosen.session.parameters.cluster_workers = 1


def test_after_a_restart_the_last_cluster_is_offered_but_not_chosen(
    chosen: Any, application: Any
) -> None:
    chosen.tokenEdit.currentPath = "/keys/token"
    choices = chosen.session.parameters
    choices.engine, choices.cluster_address, choices.cluster_token_file = "here", "", ""
    chosen.session.changed("study")
    chosen.session.tell()
    assert chosen.hereButton.checked
    assert choices.cluster_address == URL
    assert choices.cluster_token_file == "/keys/token"
    assert chosen.session.recall_keys(URL).token_file == "/keys/token"
    type_in(chosen, "")
    assert chosen.session.recall_keys(URL).token_file == "", "who empties the field is forgotten"


def test_settings_that_are_no_list_of_clusters_are_ignored(application: Any) -> None:
    import qt

    from SemiSegModuleLib import cluster_memory

    for text in ("{", "[1]", '{"x": 3, "y": ["a"]}'):
        qt.QSettings().setValue("SemiSeg/Clusters", text)
        assert cluster_memory.last_address() == ""
    cluster_memory.forget()


def test_the_connection_is_tested_in_a_child_without_a_study(chosen: Any, jobs: Any) -> None:
    chosen.tokenEdit.currentPath = "/keys/token"
    chosen.testButton.click()
    assert jobs.told[0].arguments == ["run", "test", ADDRESS, "--token-file", "/keys/token"]
    assert chosen.testButton.text == "Stop testing"
    assert not chosen.addressEdit.enabled
    jobs.told[0].say("test", 1, 3, "asking for its version")
    chosen.tick()
    assert chosen.resultLabel.text == "Testing: asking for its version ..."
    jobs.told[0].end(f"{URL} is ready: Ray 2.60.0")
    chosen.tick()
    assert chosen.resultLabel.text.startswith("The cluster can be used.")
    assert chosen.resultLabel.visible
    assert chosen.testButton.text == "Test connection"
    assert chosen.addressEdit.enabled


def test_a_failed_test_names_the_cause_until_the_settings_change(chosen: Any, jobs: Any) -> None:
    chosen.testButton.click()
    jobs.told[0].fail("nobody signed it; give the file (--ca)", cause="tls-untrusted")
    chosen.tick()
    wanted = "The cluster cannot be used: nobody signed it; give the file (Certificate)"
    assert chosen.resultLabel.text == wanted
    chosen.authorityEdit.currentPath = "/ca.pem"
    assert chosen.resultLabel.text == ""
    assert not chosen.resultLabel.visible


def test_a_test_can_be_stopped(chosen: Any, jobs: Any) -> None:
    chosen.testButton.click()
    chosen.testButton.click()
    assert jobs.told[0].cancelled
    chosen.tick()
    assert chosen.resultLabel.text == "The test was stopped."
    chosen.testButton.click()
    chosen.close()
    assert jobs.told[1].cancelled
    chosen.close()


def test_a_real_child_says_that_nobody_answers_there(chosen: Any, spin: Any) -> None:
    import socket

    from semiseg.jobs import Job
    from SemiSegModuleLib.own_tasks import OwnTasks

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen._tasks = OwnTasks("cluster", Job)
    type_in(chosen, f"http://127.0.0.1:{port}")
    chosen.testButton.click()
    assert spin(lambda: (chosen.tick(), not chosen._tasks.running)[1], 60)
    assert f"127.0.0.1, port {port} refuses" in chosen.resultLabel.text


def test_the_work_says_where_it_runs_and_offers_no_preview_there(chosen: Any, work: Any) -> None:
    assert work.whereLabel.visible
    assert work.whereLabel.text == "These run on the cluster cluster.hospital.org."
    assert not work.watchCheckBox.visible
    chosen.hereButton.checked = True
    assert not work.whereLabel.visible
    assert work.watchCheckBox.visible


def test_a_cluster_without_an_address_disables_the_work_and_says_why(
    section: Any, work: Any
) -> None:
    assert work.propagateButton.enabled
    section.clusterButton.checked = True
    assert not work.propagateButton.enabled
    assert "Enter the address" in work.propagateButton.toolTip
    type_in(section, ADDRESS)
    assert work.propagateButton.enabled


def test_what_would_leave_is_shown_where_the_user_pressed_and_can_be_refused(
    chosen: Any, work: Any, jobs: Any, until: Until
) -> None:
    assert not work.consent.widget.visible
    work.propagateButton.click()
    assert until(chosen.session, lambda: jobs.told)
    lines = ["To https://x:", "- 2 scans", "Warning: the name Smith"]
    jobs.told[0].fail("x", cause="consent", consent={"lines": lines, "findings": ["Smith"]})
    assert until(chosen.session)
    assert work.consent.widget.visible
    assert work.consent.text.plainText == "\n".join(lines)
    assert work.consent.warningLabel.visible
    work.consent.declineButton.click()
    assert not work.consent.widget.visible
    assert len(jobs.told) == 1


def test_agreeing_sends(chosen: Any, work: Any, jobs: Any, until: Until) -> None:
    work.learnButton.click()
    assert until(chosen.session, lambda: jobs.told)
    jobs.told[0].fail("x", cause="consent", consent={"lines": ["- 2 scans"], "findings": []})
    assert until(chosen.session)
    assert not work.consent.warningLabel.visible
    work.consent.sendButton.click()
    assert not work.consent.widget.visible
    assert until(chosen.session, lambda: len(jobs.told) == 2)
    assert jobs.told[1].arguments[:2] == ["run", "--yes"]
    assert work.progress.barArea.visible
    Records(chosen.session.study.folder).agree(URL)
    jobs.told[1].end(applied={"model": 1})
    assert until(chosen.session)
    assert chosen.agreedLabel.text.startswith("Since 20")
    chosen.withdrawButton.click()
    assert until(chosen.session, lambda: len(jobs.told) == 3)
    assert jobs.told[2].arguments[:2] == ["run", "withdraw"]
    Records(chosen.session.study.folder).withdraw(URL)
    jobs.told[2].end("nothing goes there")
    assert until(chosen.session)
    assert "you read what is sent, and agree" in chosen.agreedLabel.text
    assert not chosen.withdrawButton.visible


def test_consent_is_not_withdrawn_in_the_middle_of_work(
    chosen: Any, work: Any, jobs: Any, until: Until
) -> None:
    assert not chosen.withdrawButton.visible
    Records(chosen.session.study.folder).agree(URL)
    show_again(chosen)
    assert chosen.withdrawButton.visible
    assert chosen.withdrawButton.enabled
    work.propagateButton.click()
    assert until(chosen.session, lambda: jobs.told)
    assert not chosen.withdrawButton.enabled
    assert "Other work is running" in chosen.withdrawButton.toolTip


def test_work_on_a_cluster_can_be_left_or_cancelled(
    chosen: Any, work: Any, jobs: Any, until: Until
) -> None:
    work.propagateButton.click()
    assert not work.progress.leaveButton.visible
    assert until(chosen.session, lambda: jobs.told)
    record(chosen.session.study.folder)
    jobs.told[0].say("remote", text="waiting for room: 4 of 4 are in use")
    chosen.session.tick()
    assert work.progress.leaveButton.visible
    assert "on the cluster, too" in work.progress.cancelButton.toolTip
    wanted = "Propagating  ·  on the cluster  ·  waiting for room: 4 of 4 are in use"
    assert work.progress.textLabel.text == wanted
    work.progress.leaveButton.click()
    assert until(chosen.session)
    assert not work.progress.barArea.visible
    assert chosen.jobs.widget.visible


def test_jobs_are_listed_the_newest_first_and_followed(
    chosen: Any, work: Any, jobs: Any, until: Until
) -> None:
    folder = chosen.session.study.folder
    record(folder, created="2026-01-01T10:00:00.000+00:00")
    other = "semiseg-" + "e" * 32
    record(folder, id=other, kind="predict", state="failed", note="the disk there is full")
    show_again(chosen)
    table = chosen.jobs.table.widget
    assert chosen.jobs.widget.visible
    cells = [[table.item(r, c).text() for c in (1, 2, 3)] for r in range(2)]
    host = "cluster.hospital.org"
    assert cells == [["Segmenting", "failed", host], ["Learning", "on the cluster", host]]
    table.selectRow(0)
    assert not chosen.jobs.followButton.enabled
    assert "still on a cluster" in chosen.jobs.followButton.toolTip
    assert chosen.jobs.noteLabel.text == "the disk there is full"
    table.selectRow(1)
    assert not chosen.jobs.noteLabel.visible
    chosen.jobs.followButton.click()
    assert until(chosen.session, lambda: jobs.told)
    assert jobs.told[0].arguments[:2] == ["run", "attach"]
    assert not chosen.jobs.followButton.enabled
    assert "Other work" in chosen.jobs.endButton.toolTip


def test_without_a_choice_the_newest_job_on_the_cluster_is_ended(
    chosen: Any, work: Any, jobs: Any, until: Until
) -> None:
    record(chosen.session.study.folder)
    show_again(chosen)
    assert chosen.jobs.endButton.enabled
    chosen.jobs.endButton.click()
    assert until(chosen.session, lambda: jobs.told)
    assert jobs.told[0].arguments[3] == JOB
    record(chosen.session.study.folder, state="cancelled")
    jobs.told[0].end()
    assert until(chosen.session)
    assert not chosen.jobs.endButton.enabled
    chosen.jobs.onEnd()
    chosen.jobs.onFollow()
    assert not chosen.session.busy()


def test_everything_fits_into_a_panel_of_420_pixels(
    chosen: Any, work: Any, jobs: Any, until: Until
) -> None:
    record(chosen.session.study.folder, note="a note of many words " * 10)
    chosen.resultLabel.text = "The cluster can be used. " * 10
    show_again(chosen)
    work.propagateButton.click()
    assert until(chosen.session, lambda: jobs.told)
    jobs.told[0].say("remote", text="waiting for room: 4 of 4 are in use, the job needs 1 GPU")
    chosen.session.tick()
    widths = [one.widget.minimumSizeHint().width() for one in (chosen, work)]
    assert max(widths) <= 410, widths
    jobs.told[0].fail("x", cause="consent", consent={"lines": ["- 2 scans"], "findings": ["x"]})
    assert until(chosen.session)
    assert work.widget.minimumSizeHint().width() <= 410


def test_the_heading_of_the_folded_section_follows_the_choice(
    section: Any, panel: Any, live_session: Any, jobs: Any
) -> None:
    shell = panel(live_session(jobs))
    area = shell.areas["cluster"]
    assert area.collapsed
    assert area.text == "Where to compute: this computer"
    shell.sections["cluster"].clusterButton.checked = True
    assert area.text == "Where to compute: a cluster"
    type_in(shell.sections["cluster"], ADDRESS)
    assert area.text == "Where to compute: cluster.hospital.org"
    shell.sections["cluster"].hereButton.checked = True

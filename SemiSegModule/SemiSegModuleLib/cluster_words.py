"""What is said about clusters, in the words of the panel."""

from __future__ import annotations

from slicer.i18n import tr as _

from semiseg.errors import ConfigError
from semiseg.remote.address import parse_address
from semiseg.remote.records import Record
from SemiSegModuleLib.progress_words import kind_title


def in_panel_words(sentence: str) -> str:
    """A sentence of the engine with the panel's names in place of a command line's options."""
    for option, words in (
        ("(--token-file) or set RAY_AUTH_TOKEN", _("(Token file)")),
        ("(--token-file) or into RAY_AUTH_TOKEN", _("(Token file)")),
        ("(--ca)", _("(Certificate)")),
        (
            "`semiseg run attach` joins it once the cluster can be reached",
            _("press Follow in the section Where to compute once the cluster can be reached"),
        ),
    ):
        sentence = sentence.replace(option, words)
    return sentence


def not_encrypted(url: str) -> str:
    """Why nothing is sent to `url`."""
    return _(
        "{url} is not encrypted: everybody on the way could read the scans and the token. Use an "
        "address that begins with https://, or a tunnel to this computer (see the documentation)"
    ).format(url=url)


def host_of(text: str) -> str:
    """The name of the computer in an address; what was typed where it is no address."""
    try:
        return parse_address(text).host
    except ConfigError:
        return text


def work_title(record: Record) -> str:
    """What a job does."""
    return kind_title({"train": "learn", "predict": "segment"}.get(record.kind, record.kind))


def state_title(record: Record) -> str:
    """What became of a job, as far as this computer knows."""
    return {
        "sent": _("on the cluster"),
        "done": _("results are in the study"),
        "failed": _("failed"),
        "cancelled": _("ended"),
    }[record.state]

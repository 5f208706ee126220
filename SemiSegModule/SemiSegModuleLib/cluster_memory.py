"""The clusters that were used lately, and the files that open them; kept in the settings.

Never a token: only where it lies.
"""

from __future__ import annotations

import json

import qt

from SemiSegModuleLib.cluster_values import Keys

_KEY = "SemiSeg/Clusters"
_MOST = 10


def remember(address: str, keys: Keys) -> None:
    """Note what opens the cluster at `address`, as the last one used."""
    others = {url: found for url, found in _stored().items() if url != address}
    found = {address: [keys.token_file, keys.ca_file], **others}
    qt.QSettings().setValue(_KEY, json.dumps(dict(list(found.items())[:_MOST])))


def recall(address: str) -> Keys:
    """What opens the cluster at `address`."""
    token_file, ca_file = _stored().get(address, ["", ""])
    return Keys(token_file=token_file, ca_file=ca_file)


def last_address() -> str:
    """The cluster that was used last; "" where none was."""
    return next(iter(_stored()), "")


def forget() -> None:
    """Forget all clusters."""
    qt.QSettings().remove(_KEY)


def _stored() -> dict[str, list[str]]:
    try:
        found = json.loads(str(qt.QSettings().value(_KEY) or "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        address: [str(path) for path in paths]
        for address, paths in found.items()
        if isinstance(paths, list) and len(paths) == 2
    }

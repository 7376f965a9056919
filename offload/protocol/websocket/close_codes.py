"""The codes of close frames: their names, and who may use which (RFC 6455, section 7.4, and the registry of IANA).

Apart from the frames, since consumers name them, too, also where no WebSocket is served.
"""

from __future__ import annotations

from typing import TypeGuard

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013

NO_CODE = 1005
"""Stands for a close frame without a code; never sent."""
ABNORMAL = 1006
"""Stands for an end without a close frame; never sent."""
_RESERVED = 1004

_REGISTERED = range(NORMAL, 1015)
_FREE = range(3000, 5000)
"""Those of libraries, frameworks and applications."""


def may_be_received(code: int) -> bool:
    """Whether a close frame may carry this code."""
    return code in _FREE or (code in _REGISTERED and code not in (_RESERVED, NO_CODE, ABNORMAL))


def may_be_sent(code: object) -> TypeGuard[int]:
    """Whether an application may close with this code."""
    return isinstance(code, int) and may_be_received(code)

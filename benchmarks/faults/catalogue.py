"""Every fault, in the order of the table."""

from __future__ import annotations

from benchmarks.faults import chats, network, replies, statuses, surroundings
from benchmarks.faults.fault import RIGHT, Fault

FAULTS: list[Fault] = [
    Fault("None", "no fault", want=RIGHT),
    *statuses.FAULTS,
    *network.FAULTS,
    *replies.FAULTS,
    *surroundings.FAULTS,
    *chats.CHAT_FAULTS,
]

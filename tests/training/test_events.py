"""Event files, read back by TensorBoard's own messages."""

import math
import struct

import pytest
from full_disk import files_of_at_most

from siamjax.training.events import EventFile, _masked_sum


def records(folder):
    """The events of all files of a folder, in the order of their names, with their sums checked."""
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            assert content[8:12] == _masked_sum(content[:8])
            event, content = content[12 : 12 + length], content[12 + length :]
            assert content[:4] == _masked_sum(event)
            found.append(event)
            content = content[4:]
    return found


def test_sums():
    """RFC 3720, B.4: the CRC-32C of 32 zeros is 8a9136aa; its mask by hand."""
    crc = 0x8A9136AA
    masked = ((crc >> 15 | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32
    assert _masked_sum(bytes(32)) == masked.to_bytes(4, "little")


def test_bytes_by_hand(tmp_path):
    """Step 300 is the varint ac 02; the value 1.5 is 00 00 c0 3f."""
    file = EventFile(tmp_path / "events", start=0)
    file.write(300, {"a": 1.5})
    file.close()
    version, started, event = records(tmp_path / "events")
    assert version[9:] == b"\x1a\x0dbrain.Event:2"
    assert started[9:] == b"\x10\x01\x3a\x02\x08\x01"
    assert event[9:] == b"\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x3f"
    assert all(one[0] == 9 for one in (version, started, event))


def test_read_by_the_messages_of_tensorboard(tmp_path):
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    file = EventFile(tmp_path, start=20)
    values = {"loss": 0.25, "pairs_per_second": 1e-30, "Ω\udcff": math.inf, "x" * 300: -3.0}
    for step in (21, 2**31 + 5):
        file.write(step, values)
    file.close()
    events = [proto.Event.FromString(one) for one in records(tmp_path)]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (21, proto.SessionLog.START)
    assert [event.step for event in events[2:]] == [21, 2**31 + 5]
    read = {one.tag: one.simple_value for one in events[3].summary.value}
    assert read["loss"] == 0.25
    assert math.isclose(read["pairs_per_second"], 1e-30, rel_tol=1e-6)
    assert read["Ω\\udcff"] == math.inf
    assert read["x" * 300] == -3.0
    assert all(event.wall_time > 1e9 for event in events)


def test_a_full_disk_is_named_and_the_value_waits(tmp_path):
    file = EventFile(tmp_path, start=0)
    with (
        files_of_at_most(100),
        pytest.raises(OSError, match=r"File too large: .*events.out.tfevents"),
    ):
        file.write(1, {"loss": 1.0})
    file.write(2, {"loss": 2.0})
    file.close()
    assert len(list(records(tmp_path))) == 4

"""shared/door/frames.py: what is sent comes out whole, however it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from shared.door.frames import Unpacker, pack

FRAMES = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 2**32 - 1), st.integers(0, 255), st.binary(max_size=300)), max_size=8
)


@given(frames=FRAMES, sizes=st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_out_as_they_were_whatever_the_pieces_they_come_in(
    frames: list[tuple[int, int, int, bytes]], sizes: list[int]
) -> None:
    sent = b"".join(pack(*frame) for frame in frames)
    unpacker, found, at = Unpacker(), [], 0
    while at < len(sent):
        size = sizes[at % len(sizes)]
        found += unpacker.frames(sent[at : at + size])
        at += size
    assert found == frames

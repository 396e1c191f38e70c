"""What holds of any input, for each thing that reads what others wrote: shared by all fuzz targets."""

from __future__ import annotations

from collections.abc import Sequence

from portproxy.netsh import importer
from portproxy.netsh.grammar import GrammarError, HelpAsked, Verb, parse_command, parse_rule, split_line
from portproxy.wire import worker_frames
from portproxy.wire.control_frames import Decoder, FrameError, encode, reply_untrusted, request_untrusted

FRAME_LIMIT = 300


def decode(chunks: Sequence[bytes]) -> tuple[list[bytes], bool]:
    """The payloads of a stream, and whether it ended in a FrameError; never more than a frame is held."""
    decoder = Decoder(FRAME_LIMIT)
    payloads: list[bytes] = []
    for chunk in chunks:
        try:
            payloads += decoder.feed_untrusted(chunk)
        except FrameError:
            return payloads, True
        assert len(decoder._buffer) < 4 + FRAME_LIMIT
        assert decoder.expected <= FRAME_LIMIT
    return payloads, False


def frames(chunks: Sequence[bytes]) -> None:
    """A stream is frames or a FrameError, the same however it is cut."""
    payloads, failed = decode(chunks)
    for payload in payloads:
        assert len(payload) <= FRAME_LIMIT
        message(payload)
    whole, failed_whole = decode([b"".join(chunks)])
    assert failed == failed_whole
    # Frames that come in one piece with an error are lost with the connection.
    assert payloads == whole or (failed and whole == [])


def message(payload: bytes) -> bool:
    """A payload is a message that encodes to itself, or a FrameError; whether it was a message."""
    read = False
    for untrusted in (request_untrusted, reply_untrusted):
        try:
            made = untrusted(payload)
        except FrameError:
            continue
        assert untrusted(encode(made)[4:]) == made
        read = True
    return read


def worker_stream(chunks: Sequence[bytes]) -> None:
    """What a worker sends is frames of at most the limit up to a WorkerFrameError, however it is cut."""
    cut, whole = cut_frames(chunks), cut_frames([b"".join(chunks)])
    assert cut == whole
    for payload, _ in cut[0]:
        assert len(payload) <= FRAME_LIMIT
        worker_reply(payload)


def cut_frames(chunks: Sequence[bytes]) -> tuple[list[tuple[bytes, bool]], bool]:
    """The frames of a stream, and whether it ended in a WorkerFrameError."""
    reader = worker_frames.Frames(FRAME_LIMIT)
    found: list[tuple[bytes, bool]] = []
    for chunk in chunks:
        reader.feed(chunk)
        try:
            while frame := reader.next_untrusted():
                found.append(frame)
        except worker_frames.WorkerFrameError:
            return found, True
        assert len(reader._buffer) < 5 + FRAME_LIMIT
    return found, False


def worker_reply(payload: bytes) -> bool:
    """A payload is a reply that encodes to itself, or a WorkerFrameError; whether it was a reply."""
    try:
        made = worker_frames.reply_untrusted(payload)
    except worker_frames.WorkerFrameError:
        return False
    encoded = worker_frames.encode_reply(made)
    # Not the values: NaN, which is a number of seconds here, is not itself.
    assert worker_frames.encode_reply(worker_frames.reply_untrusted(encoded)) == encoded
    return True


def rule(text: str) -> None:
    """A rule is tags with values, or a GrammarError of a line."""
    try:
        tags = parse_rule(text)
    except GrammarError as error:
        one_line(error.lines)
        return
    del tags["type"]
    assert all(tag == tag.lower() and value for tag, value in tags.items())


def command(words: Sequence[str]) -> None:
    """A command reads as what it prints, or asks for help, or is a GrammarError of a line."""
    try:
        made = parse_command(words)
    except GrammarError as error:
        one_line(error.lines)
    except HelpAsked:
        assert any(word.endswith("?") or word.lower().startswith("h") for word in words)
    else:
        assert parse_command(split_line(str(made))) == made


def imported(data: bytes) -> None:
    """Every file is read; what it held are commands, and lines that are fit to be shown."""
    found = importer.read(data)
    lines = [number for number, _ in found.commands]
    assert lines == sorted(set(lines)), "a line taken twice"
    assert bool(found.commands) <= bool(found.kind)
    for number, made in found.commands:
        assert number >= 1
        assert made.verb not in (Verb.SHOW, Verb.DUMP)
        assert parse_command(split_line(str(made))) == made
    for skipped in found.skipped:
        assert skipped.line not in lines
        assert skipped.text.isprintable()
        one_line([skipped.why])


def one_line(lines: Sequence[str]) -> None:
    """An error for people is one line that a terminal can show, and a person can read."""
    (line,) = lines
    assert line
    assert line.isprintable()
    assert len(line) < 2000

"""Who is at work below a ROOT: one holder at a time, whose word lasts while it renews it. No torch.

    ROOT/lease/00000005.json       the fifth term: host, process, since when, for what; created once
    ROOT/lease/00000005.beat       written anew every quarter of the lease's seconds
    ROOT/lease/00000005.released   the holder has ended
    ROOT/lease/clock               written to learn the store's own time

Whoever created the highest term holds the lease. A term is free when it is released, when its last beat is older than
its seconds by the store's own clock, or when its process is seen to be gone. A holder that was thought dead finds a
higher term than its own, and has lost: the number is what its writes are fenced with.
"""

import datetime
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from pipeline.daily.process_identity import Process, alive, this_process
from pipeline.records import Records
from pipeline.storage import Promise, reason
from schemas.errors import InputError
from schemas.events import StorageConfig

T = TypeVar("T")
Facts = dict[str, Any]
BEATS = 4
"""Renewals within the lease's seconds."""
KEEP = 10
"""Terms whose files are kept behind the newest."""
_TERM = re.compile(r"(\d{8})\.json")
_FILE = re.compile(r"(\d{8})\.(json|beat|released)")


class Held(InputError):  # noqa: N818
    """Another is at work."""

    def __init__(self, root: str, holder: str, since: str, what: str, expires: str) -> None:
        super().__init__(
            f"{root}: {what} is at work, by {holder}, since {since}; its lease ends at {expires} unless it is renewed. "
            "Wait for it, or end that process"
        )
        self.holder, self.since, self.what, self.expires = holder, since, what, expires


class Lost(InputError):  # noqa: N818
    """The lease is another's by now, or could not be renewed in time."""


class Lease:
    """A place in the queue of holders; `with` acquires and releases it.

    `on_lost` is called once, from the thread that finds out, with the reason: it ends what must not go on.
    """

    def __init__(
        self,
        root_url: str,
        seconds: float,
        what: str,
        on_lost: Callable[[str], None] | None = None,
        storage: StorageConfig | None = None,
    ) -> None:
        self.root, self.seconds, self.what = root_url.rstrip("/"), seconds, what
        self._on_lost = on_lost
        self._patient = Records(f"{self.root}/lease", storage)
        # a renewal that takes half of the pause between two is given up, and the next one tried
        brief = StorageConfig(retries=0, timeout_seconds=max(1, int(seconds / BEATS / 2)))
        self._brief = Records(f"{self.root}/lease", brief)
        self._term: int | None = None
        self._renewed = 0.0
        self._lost: str | None = None
        self._guard = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def term(self) -> int:
        """The number of the term that is held."""
        assert self._term is not None, "acquired"
        return self._term

    def acquire(self) -> None:
        """Takes the lease and renews it from now on. Raises Held where another has it."""
        assert self._term is None, "acquired once"
        while True:
            newest = _newest(self._patient)
            if newest is not None:
                self._refuse_held(newest)
            term = (newest or 0) + 1
            asked = _clock()
            if self._patient.create(_name(term), self._own_facts()):
                break
        self._term, self._renewed = term, asked
        self._prune()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises Lost where another has a higher term, or no renewal has come through for the lease's seconds."""
        self._renew()
        if self._lost is not None:
            raise Lost(f"{self.root}: {self.what} has lost its lease: {self._lost}; the same command goes on")

    def release(self) -> None:
        """Gives it back; a holder that cannot is thought dead in a while."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(self.seconds)
            self._thread = None
        if self._term is not None and self._lost is None:
            with suppress(Exception):
                self._soon(lambda: self._write(self._brief, f"{_name(self.term)}.released"))

    def __enter__(self) -> "Lease":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # ---- the holder

    def _own_facts(self) -> Facts:
        return {
            "what": self.what,
            "since": _iso(datetime.datetime.now(datetime.UTC)),
            "seconds": self.seconds,
            "host": socket.gethostname(),
            "process": this_process().facts(),
        }

    def _beat(self) -> None:
        while not self._end.wait(self.seconds / BEATS):
            self._renew()
            if self._lost is not None:
                return

    def _renew(self) -> None:
        """Looks whether the term is still the highest, and says that its holder lives."""
        asked = _clock()
        try:
            successor = self._soon(self._look_and_beat)
        except Exception as error:  # each driver has exceptions of its own
            if _clock() - self._renewed > self.seconds:
                self._lose(f"it could not be renewed for {_clock() - self._renewed:.0f} s ({reason(error)})")
            return
        if successor is not None:
            self._lose(f"{successor} has it")
            return
        with self._guard:
            self._renewed = max(self._renewed, asked)

    def _look_and_beat(self) -> str | None:
        """Who holds a higher term; None where nobody does, and the beat is written."""
        newest = _newest(self._brief)
        if newest is None or newest <= self.term:
            self._write(self._brief, f"{_name(self.term)}.beat")
            return None
        facts = self._brief.read(_name(newest))
        return f"the holder of term {newest}" if facts is None else _who(facts)

    def _soon(self, act: Callable[[], T]) -> T:
        """`act`, given up when it takes too long: a network disk may hang for ever."""
        return Promise(act).result(self._brief.storage)

    def _lose(self, why: str) -> None:
        with self._guard:
            if self._lost is not None:
                return
            self._lost = why
        if self._on_lost is not None and not self._end.is_set():
            self._on_lost(why)

    def _write(self, records: Records, file: str) -> None:
        records.fs.pipe_file(f"{records.root}/{file}", f"{secrets.token_hex(8)}\n".encode())

    # ---- the others

    def _refuse_held(self, term: int) -> None:
        """Raises Held unless the term is free."""
        facts = self._patient.read(_name(term))
        files = set(self._patient.entries())
        if facts is None or f"{_name(term)}.released" in files:
            return
        if alive(Process.of_facts(facts["process"])) is False:
            return
        signs = [file for kind in ("json", "beat") if (file := f"{_name(term)}.{kind}") in files]
        if not signs:
            return  # ten more terms have come since it was read
        last = max(self._modified(file) for file in signs)
        self._write(self._patient, "clock")
        ends = last + datetime.timedelta(seconds=facts["seconds"])
        if self._modified("clock") <= ends:
            raise Held(self.root, _who(facts), facts["since"], facts["what"], _iso(ends))

    def _modified(self, file: str) -> datetime.datetime:
        """When the store says it was written last."""

        def look() -> datetime.datetime:
            self._patient.fs.invalidate_cache()
            return self._patient.fs.modified(f"{self._patient.root}/{file}")

        found = self._patient.reading(look, f"{self._patient.url}/{file}")
        return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)

    def _prune(self) -> None:
        """Removes the files of old terms; never those of the newest, which hold the number."""
        with suppress(Exception):  # they are in nobody's way
            for file in self._patient.entries():
                match = _FILE.fullmatch(file)
                if match and int(match[1]) <= self.term - KEEP:
                    self._patient.fs.rm_file(f"{self._patient.root}/{file}")


def term_at_work(root_url: str, storage: StorageConfig | None = None) -> int | None:
    """The term under which somebody is at work now; None where nobody is."""
    look = Lease(root_url, BEATS, "a look", storage=storage)
    newest = _newest(look._patient)
    try:
        if newest is not None:
            look._refuse_held(newest)
    except Held:
        return newest
    return None


def _newest(records: Records) -> int | None:
    return max((int(match[1]) for match in map(_TERM.fullmatch, records.entries()) if match), default=None)


def _who(facts: Facts) -> str:
    return f"process {facts['process']['pid']} on {facts['host']}"


def _name(term: int) -> str:
    return f"{term:08d}"


def _iso(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _clock() -> float:
    """Seconds that go on while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

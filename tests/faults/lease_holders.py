"""Holders of leases, for tests with real processes.

python -m tests.faults.lease_holders race FOLDER 20      two processes at once, so many times: who held
python -m tests.faults.lease_holders hold ROOT SECONDS   holds it: prints `holds TERM`, and `lost WHY` when it is so
"""

import os
import sys
import time
from pathlib import Path

from pipeline.daily.lease import Held, Lease, Lost


def race(folder: Path, rounds: int) -> list[str]:
    """Each round's answers of the two, sorted; the one who holds keeps it until both have answered."""
    return [one_race(folder / str(number)) for number in range(rounds)]


def one_race(root: Path) -> str:
    go, answers, end = os.pipe(), os.pipe(), os.pipe()
    for _ in range(2):
        if os.fork() == 0:
            os.close(go[1])
            os.close(end[1])
            os.read(go[0], 1)
            try:
                lease = Lease(str(root), 3600, "2026-01-08")
                lease.acquire()
                os.write(answers[1], b"1")
                os.read(end[0], 1)
                lease.check()
            except Held:
                os.write(answers[1], b"0")
            finally:
                os._exit(0)
    os.close(go[1])
    said = b""
    while len(said) < 2:
        said += os.read(answers[0], 2)
    os.close(end[1])
    for _ in range(2):
        os.wait()
    for each in (go[0], *answers, end[0]):
        os.close(each)
    return "".join(sorted(said.decode()))


def hold(root: str, seconds: float) -> None:
    """Until it has lost it, or its input ends."""
    with Lease(root, seconds, "2026-01-08", lambda why: print(f"told {why}", flush=True)) as lease:
        print(f"holds {lease.term}", flush=True)
        while True:
            try:
                lease.check()
            except Lost as error:
                print(f"lost {error}", flush=True)
                sys.exit(75)
            time.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[1] == "race":
        print(" ".join(race(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        hold(sys.argv[2], float(sys.argv[3]))

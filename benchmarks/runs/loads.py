"""What it takes to bring states of a run to a session's device, by tier and storage, with nothing beside.

    python benchmarks/runs/loads.py BUNDLE --device cuda:0 --out FILE

Two states and two parcels in turn, as in a run; medians in ms of `Parcel.load`, after each parcel has its
memory. An edit that takes longer than its load hides it. Beside them the rate at which one thread of the
machine copies memory, and, of every tier, a load of whole states: with exact ones in pinned memory that is
the rate of the bus.
"""

from __future__ import annotations

import json
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scenes_run import parser_of

import sige_deploy as sige
from sige_deploy.bench import machine, versions
from sige_deploy.devices.base import Needs
from sige_deploy.runs.state import Layout
from sige_deploy.runs.tiers import Budget, Rooms
from sige_deploy.runs.track import Track
from sige_deploy.workload import make_edit, make_inputs

ROOM = 1 << 40
PLACES = {
    "host": Budget(device=0, host=ROOM),
    "host, float16": Budget(device=0, host=ROOM, storage="float16"),
    "host, int8": Budget(device=0, host=ROOM, storage="int8"),
    "disk": Budget(device=0, host=0, disk=ROOM),
}
SHARES = (0.05, 0.23)
WARM, REPEATS = 4, 20
COPIED = 256 << 20  # bytes


def loads(session: sige.Session, place: str) -> list[dict[str, Any]]:
    """Of states in one place: whole ones, then what edits of each share read."""
    manifest = session.bundle.manifest
    track = Track(session, 2, Rooms(PLACES[place]))
    inputs = [make_inputs(manifest, seed) for seed in range(2)]
    for step, given in enumerate(inputs):
        track.record(step, **given)
    cases: list[tuple[float | None, Needs, int]] = [(None, Needs(), Layout(manifest).nbytes)]
    for share in SHARES:
        reading = track.read(make_edit(manifest, inputs[0], share, "square")[1])
        cases.append((share, reading.needs, reading.nbytes))
    found = []
    for share, needs, nbytes in cases:
        with session.held() as device:
            parcels = [device.parcel(), device.parcel()]
            times = []
            for turn in range(WARM + REPEATS):
                start = time.perf_counter()
                parcels[turn % 2].load(track.slot(turn % 2).kept, needs)
                times.append((time.perf_counter() - start) * 1e3)
                session.put(parcels[turn % 2])
            session.put(None)
        ms = median(times[WARM:])
        found.append(
            {
                "place": place,
                "share": share,
                "read_bytes": nbytes,
                "state_bytes": track.slot(0).nbytes,
                "pageable_bytes": track.pageable,
                "load_ms": round(ms, 3),
                "bytes_per_s": round(nbytes / ms * 1e3),
            }
        )
    track.close()
    return found


def copy_rate() -> float:
    """Bytes per second that numpy copies in one thread."""
    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return COPIED / median(times)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    args = parser.parse_args()
    document: dict[str, Any] = {
        "date": date.today().isoformat(),
        "bundle": args.bundle.name,
        "device": args.device,
        "machine": machine(),
        "versions": versions(),
        "copy_bytes_per_s": round(copy_rate()),
        "loads": [],
    }
    print(f"one thread copies {document['copy_bytes_per_s'] / 1e9:.1f} GB/s")
    with sige.open(args.bundle, device=args.device, threads=args.threads) as session:
        for place in PLACES:
            for entry in loads(session, place):
                document["loads"].append(entry)
                share = "all" if entry["share"] is None else f"{entry['share']:.0%}"
                print(
                    f"{place:>13} {share:>4}: {entry['read_bytes'] / 1e6:7.1f} MB in "
                    f"{entry['load_ms']:8.2f} ms, {entry['bytes_per_s'] / 1e9:.1f} GB/s"
                )
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A worker without a network, started by the pool in place of the real one: it does what the name of the model says."""

from __future__ import annotations

import argparse
import json
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from chronolens.engine_wire import Call, pack_answer

parser = argparse.ArgumentParser()
parser.add_argument("--fd", type=int)
parser.add_argument("--index", type=int)
parser.add_argument("--folder", type=Path)
parser.add_argument("--slow-s", type=float, default=0.0)
options = parser.parse_args()
kept = []


def answer(call: Call, company: int) -> bytes:
    if call.model == "die":
        os._exit(1)
    if call.model == "die-in-company" and company > 1:
        os._exit(1)
    if call.model == "die-once" and not (options.folder / "died").exists():
        (options.folder / "died").touch()
        os._exit(1)
    if call.model == "hang":
        time.sleep(60)
    if call.model == "eat":
        kept.append(bytearray(400 * 1024 * 1024))
        time.sleep(5)
    if call.model.startswith("slow"):
        time.sleep(options.slow_s)
    with (options.folder / "order").open("a") as file:
        file.write(f"{call.arguments.get('number')}\n")
    return pack_answer(call.id, {}, {"company": company, "worker": options.index, **call.arguments})


pipe = Connection(options.fd)
pipe.send_bytes(json.dumps({"models": []}).encode())
total = 0
while True:
    bodies = [pipe.recv_bytes() for _ in range(int.from_bytes(pipe.recv_bytes(4), "big"))]
    calls = [Call.unpack(body) for body in bodies]
    answers = [answer(call, len(calls)) for call in calls]
    total += len(calls)
    counted = [{"model": "m", "purpose": "predict", "direction": "forward", "passes": total}]
    pipe.send_bytes(json.dumps({"passes": counted}).encode())
    for body in answers:
        pipe.send_bytes(b"nonsense" if b'"garbage"' in bodies[0] else body)

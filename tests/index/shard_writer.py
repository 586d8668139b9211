"""Writes the shards of a store, as a process that may be killed; also the reference for the tests.

python shard_writer.py FOLDER DTYPE SHARDS
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mmretrieval.index import EmbeddingStore

STAMP = {"weights": "w1", "pool": "p1"}
ROWS, DIM = 200, 96


def shard(number):
    """Rows, ids, modalities and vectors of a shard; the ids are of different lengths."""
    rng = np.random.default_rng(number)
    rows = rng.permutation(ROWS) * 50 + number
    ids = [f"{row}:é" if row % 3 else f"text-{row}" for row in rows]
    return rows, ids, (rows % 7 // 3).astype(np.uint8), rng.normal(size=(ROWS, DIM)).astype(np.float32)


def write(folder, dtype, shards):
    store = EmbeddingStore.create_or_open(Path(folder), STAMP, dtype)
    for number in range(shards):
        store.write(f"{number:04d}", *shard(number))
        print(number, flush=True)
    return store


def child(folder, dtype, shards, silent=False):
    """Fork a process that writes the shards; the end of a pipe where it tells what is complete."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.dup2(os.open(os.devnull, os.O_WRONLY) if silent else writer, 1)
        write(folder, dtype, shards)
        os._exit(0)
    os.close(writer)
    return process, reader


def kill_loop(folder, dtype, shards):
    """Kill writers at random moments until one ends; for each, shards told to be complete and found after."""
    draw, kills = random.Random(0), []
    while True:
        process, reader = child(folder, dtype, shards)
        with open(reader) as told:
            complete = -1
            wait = draw.randrange(1, 5)
            for line in told:
                complete = int(line)
                there = len(list(Path(folder).glob("*.safetensors")))
                if there >= wait + (kills[-1][1] if kills else 0):
                    break
            time.sleep(draw.random() * 0.004)
            os.kill(process, signal.SIGKILL)
            complete = max([complete, *map(int, told)])
        killed = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) < 0
        kills.append((complete + 1, len(list(Path(folder).glob("*.safetensors")))))
        if not killed:
            return kills


def race(folder, dtype, shards):
    """Exit statuses of three processes that write the same shards at once."""
    processes = [child(folder, dtype, shards, silent=True)[0] for _ in range(3)]
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


if __name__ == "__main__":
    folder, dtype, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    found = {"kill": kill_loop(folder / "killed", dtype, count), "race": race(folder / "raced", dtype, count)}
    print(json.dumps(found))

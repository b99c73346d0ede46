"""Requests a second of `hf-deepfake serve`, against images a second of the pipeline over the same files.

python benchmarks/service.py --model ENSEMBLE --data DIR [--requests 2000] [--clients 16] [--rounds 4]

The service runs in a process of its own. In every round, in turns: the pipeline scores files in batches of 16, and the clients,
each on one kept connection, upload as many single files over loopback. The clients are bare asyncio streams, since they take their
processor time from the service; what they take is measured too. Every answer is compared with the pipeline's. The ratio is the
median over the rounds.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from readme_table import machine, save_figures
from transformers import pipeline

BATCH = 16


def main() -> None:
    """Time both in turns, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    found = sorted(path for path in arguments.data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    files = list(itertools.islice(itertools.cycle(found), arguments.requests // arguments.rounds))
    detector = pipeline("deepfake-ensemble", model=arguments.model, batch_size=BATCH, device=-1)
    command = [
        sys.executable,
        "-m",
        "hf_deepfake.cli",
        "serve",
        "--model",
        arguments.model,
        "--port",
        "0",
        "--no_page",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as service:
        try:
            address = _address(service)
            detector(list(map(str, files[:BATCH])))
            _ask(address, files[: 4 * BATCH], arguments.clients)
            turns = list(_turns(detector, service.pid, address, files, arguments.clients, arguments.rounds))
        finally:
            service.terminate()
    _save(arguments, turns)


def _address(service: Any) -> tuple[str, int]:
    announced = next(line for line in service.stderr if line.startswith("serving"))
    host, port = re.findall(r"http://([\d.]+):(\d+)", announced)[0]
    while True:
        try:
            asyncio.run(_closed(host, int(port)))
            return host, int(port)
        except ConnectionError:
            time.sleep(0.1)


async def _closed(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


def _turns(
    detector: Any, process: int, address: tuple[str, int], files: Sequence[Path], clients: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Of each round seconds of both, those of each request, errors, differences and the memory after it."""
    yield {"memory": _memory(process)}
    for _ in range(rounds):
        started = time.perf_counter()
        expected = [answer["prob_fake"] for answer in detector(list(map(str, files)), details=True)]
        batch = time.perf_counter() - started
        started, cpu = time.perf_counter(), time.process_time()
        answers = _ask(address, files, clients)
        served, cpu = time.perf_counter() - started, time.process_time() - cpu
        good = [(answer["prob_fake"], wanted) for (_, answer), wanted in zip(answers, expected, strict=True) if answer]
        turn = {
            "batch": batch,
            "served": served,
            "clients": cpu,
            "seconds": [seconds for seconds, _ in answers],
            "errors": len(files) - len(good),
            "apart": max(abs(one - other) for one, other in good),
            "memory": _memory(process),
        }
        print({name: value for name, value in turn.items() if name != "seconds"}, flush=True)
        yield turn


def _ask(address: tuple[str, int], files: Sequence[Path], clients: int) -> list[tuple[float, dict[str, Any] | None]]:
    """Seconds and verdict of each file, None where the service did not give one."""
    answers: list[Any] = [None] * len(files)
    waiting = iter(range(len(files)))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(*address)
        for index in waiting:
            started = time.perf_counter()
            writer.write(_request(files[index]))
            status, body = await _answer(reader)
            verdict = json.loads(body)[0] if status == 200 else None
            answers[index] = (time.perf_counter() - started, verdict)
        writer.close()

    async def together() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    asyncio.run(together())
    return answers


def _request(file: Path) -> bytes:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
        + file.read_bytes()
        + b"\r\n--b--\r\n"
    )
    head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


def _memory(process: int) -> float:
    """Megabytes that a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _save(arguments: argparse.Namespace, turns: list[dict[str, Any]]) -> None:
    memory = [turn["memory"] for turn in turns]
    rounds = turns[1:]
    images = arguments.requests // arguments.rounds
    seconds = [one for turn in rounds for one in turn["seconds"]]
    ratios = sorted(turn["batch"] / turn["served"] for turn in rounds)
    rows = {
        "requests, errors": f"{len(seconds)}, {sum(turn['errors'] for turn in rounds)}",
        "pipeline in batches of 16, images/s": f"{statistics.median(images / turn['batch'] for turn in rounds):.1f}",
        "service, images/s": f"{statistics.median(images / turn['served'] for turn in rounds):.1f}",
        "ratio": f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        "time to an answer, median": f"{statistics.median(seconds):.2f} s",
        "time to an answer, 95th percentile": f"{np.percentile(seconds, 95):.2f} s",
        "largest difference of scores": f"{max(turn['apart'] for turn in rounds):.1e}",
        "memory at the start, in the middle, at the end": f"{memory[0]:.0f}, {memory[len(memory) // 2]:.0f}, {memory[-1]:.0f} MB",
        "processor time of the clients, cores": f"{sum(t['clients'] for t in rounds) / sum(t['served'] for t in rounds):.2f}",
    }
    for row in rows.items():
        print(*row, sep=": ")
    save_figures(
        "service",
        title=f"`hf-deepfake serve`, {arguments.clients} clients at once, single files over loopback",
        command="python benchmarks/service.py --model ENSEMBLE --data DIR",
        machine=machine(),
        rows=[{"figure": name, "measured": value} for name, value in rows.items()],
    )


if __name__ == "__main__":
    main()

"""Sixty-four clients of mixed media, and what they are promised: everybody is served, nothing
breaks off.

One minute as a test, which asserts no time. `make bench-load` runs five and also holds the bars of
waiting and of memory.
"""

import asyncio
import base64
import collections
import itertools
import os
import time

import httpx
import numpy as np
import psutil
import pytest

MINUTES = float(os.environ.get("ONNURI_LOAD_MINUTES", "1"))
BARS = "ONNURI_LOAD_BARS" in os.environ
"""whether waiting and memory are held to their bars, as the benchmark does on a quiet machine"""
CLIENTS = 64
KINDS = ("caption", "image", "speech", "mesh", "video")
SENTENCES = (
    "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다",
    "a large yellow torus is above a small green cone",
    "큰 보라 별이 튄다",
)


def body_of(kind, k, picture):
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    content = (
        [{"type": "image_url", "image_url": {"url": url}}]
        if kind == "caption"
        else SENTENCES[k % len(SENTENCES)]
    )
    wanted = {"caption": "text", "speech": "audio"}.get(kind, kind)
    return {
        "messages": [{"role": "user", "content": content}],
        "modalities": [wanted],
        "seed": k,
        "stream": k % 2 == 0,
    }


async def client(url, kind, index, picture, end, told):
    """Asks again and again; after a 429 when it was told to."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        k = index
        while time.monotonic() < end:
            began = time.monotonic()
            answer = await http.post("/v1/chat/completions", json=body_of(kind, k, picture))
            good = answer.status_code == 200 and (k % 2 or answer.text.endswith("data: [DONE]\n\n"))
            status = (
                answer.status_code if good or answer.status_code != 200 else 0
            )  # a stream that broke off
            told.append((index, kind, began, time.monotonic() - began, status))
            if answer.status_code == 429:
                await asyncio.sleep(int(answer.headers["Retry-After"]))
            k += CLIENTS


async def all_clients(server, picture, memory):
    end, told = time.monotonic() + 60 * MINUTES, []
    process = psutil.Process(server.process.pid)

    async def watch():
        while time.monotonic() < end:
            memory.append((time.monotonic(), process.memory_info().rss / 1e6))
            await asyncio.sleep(1)

    await asyncio.gather(
        watch(),
        *(client(server.url, KINDS[i % len(KINDS)], i, picture, end, told) for i in range(CLIENTS)),
    )
    return told


@pytest.mark.long
def test_everybody_is_served_and_nothing_grows(new_server, scene, capsys):
    server, memory = new_server(), []
    start = time.monotonic()
    told = asyncio.run(all_clients(server, scene["image"], memory))
    statuses = collections.Counter(t[4] for t in told)
    good = [t for t in told if t[4] == 200]
    counts = {kind: sum(t[1] == kind for t in good) for kind in KINDS}
    p95 = {
        kind: float(np.percentile([t[3] for t in good if t[1] == kind] or [np.inf], 95))
        for kind in KINDS
    }
    # the longest that any client went without an answer
    gaps = {}
    for i in range(CLIENTS):
        times = [start, *sorted(t[2] + t[3] for t in good if t[0] == i), start + 60 * MINUTES]
        gaps[i] = max(b - a for a, b in itertools.pairwise(times))
    late = [(t, m) for t, m in memory if t > start + min(60, 20 * MINUTES)]
    slope = float(np.polyfit([t / 60 for t, _ in late], [m for _, m in late], 1)[0])
    with capsys.disabled():
        print(
            f"\n{CLIENTS} clients, {MINUTES:g} minutes: {dict(statuses)}; good by kind {counts}; p95 seconds "
            f"{ {k: round(v, 2) for k, v in p95.items()} }; longest wait {max(gaps.values()):.1f} s; "
            f"memory {memory[-1][1]:.0f} MB, {slope:+.2f} MB a minute"
        )
    assert set(statuses) <= {200, 429} and statuses[200] >= 0.6 * len(told)
    assert {t[0] for t in good} == set(range(CLIENTS)) and min(counts.values()) > 0
    if BARS:
        assert max(gaps.values()) <= 60
        assert p95["caption"] <= 5
        assert min(counts.values()) >= 0.05 * len(good)
        assert slope <= 1
    assert server.stop() == 0

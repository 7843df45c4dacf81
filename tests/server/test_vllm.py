"""Decoding in another process, by a stand-in for vLLM (`standin/`) and by vLLM itself, against our
own engine.

The second is slow and needs an environment: ONNURI_VLLM_PYTHON=ENV/bin/python pytest -m slow
tests/server/test_vllm.py
"""

import base64
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest
from processes import LIMIT_SECONDS, run_onnuri, wait_until

import onnuri
from onnuri.errors import AwayError, BusyError, ConfigError
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.request import Request, SamplingConfig, TokenConstraint
from onnuri.inference.vllm_backend import VllmBackend, VllmConfig
from onnuri.modality import MEDIA
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

REAL = os.environ.get("ONNURI_VLLM_PYTHON")
SENTENCE = "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"
GREEDY = SamplingConfig(temperature=0)


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    """A Python with what stands in for vLLM."""
    made = tmp_path_factory.mktemp("standin") / "python"
    folder = Path(__file__).parent / "standin"
    made.write_text(
        f'#!/bin/sh\nPYTHONPATH={folder} OMP_NUM_THREADS=1 exec {sys.executable} "$@"\n'
    )
    made.chmod(0o755)
    return str(made)


@pytest.fixture(
    scope="module",
    params=[
        "standin",
        pytest.param(
            "vllm",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    not REAL, reason="ONNURI_VLLM_PYTHON names no Python that has vLLM"
                ),
            ],
        ),
    ],
)
def python(request, standin):
    """The Python of an environment with vLLM, or with what stands in for it."""
    return REAL if request.param == "vllm" else standin


@pytest.fixture(scope="module")
def start(python, tmp_path_factory):
    """Start engines; all are closed at the end."""
    started = []

    def start(**settings):
        home = tmp_path_factory.mktemp("vllm")
        started.append(
            VllmBackend(
                VllmConfig(
                    **{
                        "python": python,
                        "folder": onnuri.WEIGHTS / "laptop",
                        "home": home,
                        "positions": 2048,
                        **settings,
                    }
                )
            )
        )
        return started[-1]

    yield start
    for engine in started:
        engine.close()


@pytest.fixture(scope="module")
def engine(start):
    return start()


@pytest.fixture(scope="module")
def own(model):
    return Engine(model.network, EngineConfig(rows=24))


def run(engine, *requests):
    handles = [engine.submit(request) for request in requests]
    until(lambda: all(handle.done for handle in handles), engine)
    return handles


def until_done(engine, request):
    handle = engine.submit(request)
    until(lambda: handle.done, engine=engine)
    return handle


def until(what, engine=None):
    """Wait until it holds, while the engine steps, if one is given."""

    def stepped():
        if engine and not what():
            engine.step()
        return what()

    wait_until(stepped, pause_seconds=0.0 if engine else 0.05)


def requests_of(model, count, guidance=None, **more):
    """`count` sentences to every modality, as they are asked for; with guidance where a modality can
    have it."""
    v, found = model.layout, []
    for k in range(count):
        tongues = ("ko", "en") if k % 2 else ("en", "ko")
        words = model.codecs["text"].encode(
            caption(sample_scene(k, "seen"), tongues[0], generator("seen", k))
        )
        for to in MEDIA:
            opening, allowed = v.opening(to, tongues[1]), model.token_constraint(to)
            prompt = [v.special("<bos>"), *v.segment("text", words, tongues[0]), *opening]
            bare = (
                {"unconditional_prompt": [v.special("<bos>"), *opening]}
                if guidance and to != "audio"
                else {}
            )
            sampling = more.get("sampling", GREEDY).replace(guidance=guidance if bare else 1.0)
            allowed = (
                allowed if allowed.position_ranges else dataclasses.replace(allowed, max_tokens=60)
            )
            found.append(
                Request(
                    **{
                        "prompt": prompt,
                        "token_constraint": allowed,
                        "kind": to,
                        "seed": k,
                        **bare,
                        **more,
                        "sampling": sampling,
                    }
                )
            )
    return found


def spoken(model, sentence, sampling=GREEDY):
    """What is asked of the engine for speech: words in a script."""
    return model.answers.speak(model.codecs["text"].encode(sentence), "ko", sampling, 5).send(None)


def gap(model, request, ids):
    """Between the two likeliest ids that follow, in logits."""
    import torch

    lo, hi, may_end = request.token_constraint.at(len(ids))
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([request.prompt + ids])).logits[0, -1]
    first, second = (
        torch.cat([logits[lo:hi], logits[request.token_constraint.end :][: int(may_end)]])
        .topk(2)
        .values
    )
    return float(first - second)


def alike(model, engine, own, requests, capsys, what):
    """All as our engine does, but where two ids are as likely as each other."""
    expected = [own.submit(request) for request in requests]
    own.run(expected)
    other = []
    for request, handle, mine in zip(requests, run(engine, *requests), expected, strict=True):
        assert handle.finish and not handle.ended.exception()
        if handle.ids != mine.ids:
            same = next(
                (k for k, (a, b) in enumerate(zip(handle.ids, mine.ids)) if a != b),
                min(len(handle.ids), len(mine.ids)),
            )
            other.append(gap(model, request, mine.ids[:same]))
        else:
            assert handle.finish == mine.finish
    with capsys.disabled():
        print(
            f"\n{what}: {len(requests) - len(other)} of {len(requests)} as our engine; gaps of the others {other}"
        )
    return other


def test_greedily_it_gives_what_our_engine_gives(model, engine, own, capsys):
    """Objects that agree with what leads them are drawn in two steps; their gap is not that of two
    ids."""
    requests = [
        dataclasses.replace(
            r, token_constraint=TokenConstraint(position_ranges=r.token_constraint.position_ranges)
        )
        if r.token_constraint.position_ranges
        else r
        for r in requests_of(model, 5)
    ]
    assert all(
        g <= 1e-3 for g in alike(model, engine, own, requests, capsys, "greedy, no guidance")
    )
    assert (
        len(alike(model, engine, own, requests_of(model, 4), capsys, "greedy, as the server asks"))
        <= 1
    )


def test_a_seed_draws_what_it_draws_in_our_engine(model, engine, own, capsys):
    requests = requests_of(model, 4, sampling=SamplingConfig(temperature=0.7, top_p=0.9))
    assert len(alike(model, engine, own, requests, capsys, "drawn by seed")) <= 2


def test_guidance_is_a_pair_that_stays_together(model, engine, own, capsys):
    requests = requests_of(model, 2, guidance=2.0) + requests_of(
        model, 2, guidance=1.5, sampling=SamplingConfig(temperature=0.6)
    )
    assert len(alike(model, engine, own, requests, capsys, "with guidance")) <= 2


def test_words_of_a_script_are_put_in(model, engine, own):
    request = spoken(model, SENTENCE)
    seen, [handle] = [], run(engine, request)
    [again] = run(engine, dataclasses.replace(request, on_token=seen.append))
    mine = own.submit(request)
    own.run([mine])
    assert handle.ids == mine.ids == again.ids and len(handle.ids) > 20
    assert [i for i in seen if i not in mine.ids and i != request.token_constraint.end] == [
        i for run in request.forced_segments for i in run
    ]
    assert (
        run(
            engine,
            dataclasses.replace(
                request,
                token_constraint=dataclasses.replace(request.token_constraint, max_segment=2),
            ),
        )[0].ids
        != mine.ids
    )


def test_scores_are_those_of_our_engine(model, engine, own):
    found = {}
    for name, one in (("own", own), ("vllm", engine)):
        scores = found[name] = []
        request = dataclasses.replace(requests_of(model, 1)[0], on_score=scores.append, likeliest=3)
        until_done(one, request)
    assert len(found["own"]) == len(found["vllm"]) > 3
    for a, b in zip(found["own"], found["vllm"], strict=True):
        assert (
            abs(a.logprob - b.logprob) < 1e-3
            and a.likeliest[0][0] == b.likeliest[0][0]
            and len(b.likeliest) == 3
        )


class Even:
    """Every second id of the range; the end, whose score 4 has, after ten of them. 8 stands in the
    place of the third."""

    def __init__(self, size):
        self.size, self.count = size, 0

    def allowed(self):
        return bytes([*(k % 2 == 0 for k in range(self.size)), self.count >= 10])

    def closing(self):
        return 4 if self.count < 10 else None

    def take(self, drawn):
        self.count += 1
        return 8 if self.count == 3 else drawn


def test_a_constraint_is_asked_where_it_is(model, engine, own):
    found = []
    for one in (own, engine):
        request = requests_of(model, 1)[0]
        lo, hi = request.token_constraint.vocab_range
        found.append(
            [
                i - lo
                for i in until_done(one, dataclasses.replace(request, constraint=Even(hi - lo))).ids
            ]
        )
    assert (
        found[0] == found[1]
        and found[1][2] == 8
        and len(found[1]) >= 10
        and all(i % 2 == 0 for i in found[1])
    )


def test_what_is_called_off_is_gone(model, engine):
    some = requests_of(model, 6, sampling=SamplingConfig(temperature=1.0))
    handles = [engine.submit(request) for request in some]
    until(lambda: any(handle.ids for handle in handles), engine=engine)
    for handle in handles:
        handle.cancel()
    engine.step()
    assert engine.idle and not engine.rows and {t.finish for t in handles} <= {"cancelled", "stop"}
    assert run(engine, some[0])[0].finish  # and the next is served


def test_no_more_wait_than_may_and_kinds_take_turns(model, start):
    engine = start(rows=2, waiting=6)
    text, image = requests_of(model, 1)[:2]
    handles = [engine.submit(request) for request in [image] * 4 + [text] * 2]
    with pytest.raises(BusyError, match="6 requests wait"):
        engine.submit(text)
    order = []
    for handle in handles:
        handle.ended.add_done_callback(lambda _, kind=handle.request.kind: order.append(kind))
    until(lambda: all(t.done for t in handles), engine=engine)
    assert "text" in order[:3]
    assert engine.load().sampled_tokens["image"] == 4 * image.steps
    with pytest.raises(ConfigError, match="2048 positions"):
        engine.submit(dataclasses.replace(image, prompt=image.prompt * 400))


def test_what_vllm_refuses_or_cuts_says_so(model, start):
    engine = start(arguments="--max-model-len 64")
    text, image, *_ = requests_of(model, 1)
    short = dataclasses.replace(
        text, token_constraint=dataclasses.replace(text.token_constraint, max_tokens=9)
    )
    with pytest.raises(ConfigError, match="64 positions"):
        engine.submit(dataclasses.replace(image, prompt=image.prompt[:1] * 50))
    engine.about["positions"] = 2048  # as if nobody had looked
    asked = [dataclasses.replace(image, prompt=image.prompt[:1] * length) for length in (50, 90)]
    cut, refused, served = run(engine, *asked, short)
    assert (
        "too soon" in str(cut.ended.exception())
        and isinstance(refused.ended.exception(), ConfigError)
        and served.ended.exception() is None
    )
    assert (
        all(len(str(t.ended.exception()).splitlines()) == 1 for t in (cut, refused)) and engine.idle
    )


def test_a_worker_that_dies_is_said_and_followed(model, start):
    engine = start()
    requests = requests_of(model, 3)
    before = [handle.ids for handle in run(engine, *requests)]
    handles = [engine.submit(request) for request in requests]
    engine.step()
    os.kill(engine._process.pid, signal.SIGKILL)
    until(lambda: all(handle.done for handle in handles), engine=engine)
    errors = {type(t.ended.exception()) for t in handles if t.finish == "cancelled"}
    assert errors == {AwayError} and engine.idle and not engine.ready
    with pytest.raises(AwayError, match="ask again"):
        engine.submit(requests[0])
    until(lambda: engine.ready)
    assert [handle.ids for handle in run(engine, *requests)] == before


class Away:
    """Servers with the backend."""

    def __init__(self, new_server, python):
        self.new_server, self.options = new_server, ("--backend", "vllm", "--vllm-python", python)

    def start(self, *more):
        return self.new_server(*self.options, *more)


@pytest.fixture(scope="module")
def away(new_server, python):
    return Away(new_server, python)


@pytest.fixture(scope="module")
def served(away):
    return away.start()


def workers(server):
    return [
        p
        for p in psutil.Process(server.process.pid).children(recursive=True)
        if "vllm_worker" in " ".join(p.cmdline())
    ]


def asked(server, modalities, **more):
    body = {
        "messages": [{"role": "user", "content": SENTENCE}],
        "modalities": modalities,
        "seed": 3,
        **more,
    }
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=LIMIT_SECONDS)


def test_every_modality_comes_as_from_our_own_engine(served, server):
    """The same words, and the same bytes of pictures, sound, video and mesh, for the same seed."""
    got, own = (
        asked(s, ["text", "image", "audio", "video", "mesh"]).json()["choices"][0]["message"]
        for s in (served, server)
    )
    assert got["content"] == own["content"] and got["content"]
    assert (
        got["audio"]["transcript"] == own["audio"]["transcript"]
        and got["audio"]["data"] == own["audio"]["data"]
    )
    for field, kind, start in (
        ("images", "image_url", b"\x89PNG"),
        ("videos", "video_url", None),
        ("meshes", "mesh_url", b"glTF"),
    ):
        data = [base64.b64decode(m[field][0][kind]["url"].partition(",")[2]) for m in (got, own)]
        assert (
            data[0] == data[1]
            and len(data[0]) > 500
            and (start is None or data[0].startswith(start))
        )


def test_sounds_are_heard(served, scene):
    files = {"file": ("said.wav", scene["audio"])}
    answer = httpx.post(f"{served.url}/v1/audio/transcriptions", files=files, timeout=LIMIT_SECONDS)
    assert answer.status_code == 200 and len(answer.json()["text"].split()) > 2


def test_it_streams(served):
    kinds = set()
    body = {
        "messages": [{"role": "user", "content": SENTENCE}],
        "modalities": ["text", "image", "audio"],
        "stream": True,
        "partial_images": 2,
    }
    with httpx.stream(
        "POST", f"{served.url}/v1/chat/completions", json=body, timeout=LIMIT_SECONDS
    ) as answer:
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    for line in lines:
        for choice in json.loads(line)["choices"]:
            kinds |= {name for name, value in choice["delta"].items() if value}
    assert {"content", "images", "audio"} <= kinds
    assert sum('"partial_image_index"' in line for line in lines) == 2
    assert (
        sum(
            "data" in (json.loads(line)["choices"] or [{"delta": {}}])[0]["delta"].get("audio", {})
            for line in lines
        )
        > 3
    )


def test_json_tools_and_logprobs(served):
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    got = asked(served, ["text"], response_format=form).json()["choices"][0]
    assert (
        json.loads(got["message"]["content"])["colour"] in ("red", "blue")
        and got["finish_reason"] == "stop"
    )
    got = asked(served, ["text"], logprobs=True, top_logprobs=2).json()["choices"][0]
    assert len(got["logprobs"]["content"]) > 3


def test_jobs_and_figures(served):
    job = httpx.post(f"{served.url}/v1/videos", data={"prompt": SENTENCE}).json()["id"]
    until(lambda: httpx.get(f"{served.url}/v1/videos/{job}").json()["status"] == "completed")
    assert httpx.get(f"{served.url}/v1/videos/{job}/content").content[4:8] == b"ftyp"
    page = httpx.get(f"{served.url}/metrics").text
    assert (
        'onnuri_tokens_total{modality="video",model="onnuri-laptop"}' in page
        and 'onnuri_rows{model="onnuri-laptop"} 0.0' in page
    )


def leave_streams(server, count):
    for k in range(count):
        body = {
            "messages": [{"role": "user", "content": SENTENCE}],
            "modalities": ["video", "audio"],
            "stream": True,
            "seed": k,
        }
        with (
            httpx.Client() as client,
            client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer,
        ):
            next(answer.iter_bytes())


def test_a_client_that_goes_takes_its_work_with_it(served):
    leave_streams(served, 6)
    counted = [
        f'onnuri_{name}{{model="onnuri-laptop"}} 0.0' for name in ("queue", "active", "rows")
    ]
    until(lambda: all(line in httpx.get(f"{served.url}/metrics").text for line in counted))


def test_a_worker_that_is_killed_under_load_is_an_error_and_then_it_serves_again(served):
    answers = []
    threads = [
        threading.Thread(
            target=lambda k=k: answers.extend(
                asked(served, ["video", "audio"], seed=k) for _ in range(3)
            )
        )
        for k in range(8)
    ]
    for thread in threads:
        thread.start()
    until(lambda: "onnuri_active 0.0" not in httpx.get(f"{served.url}/metrics").text)
    [worker] = workers(served)
    worker.kill()
    for thread in threads:
        thread.join()
    failed = [a for a in answers if a.status_code != 200]
    assert failed and {a.status_code for a in failed} == {503}
    assert all(
        a.json()["error"]["code"] == "unavailable" and a.headers["retry-after"] for a in failed
    )
    with contextlib.suppress(AssertionError):  # it may be back by now
        assert httpx.get(f"{served.url}/ready").json() == {"status": "away"}
    until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)
    assert asked(served, ["image"]).status_code == 200


@pytest.mark.parametrize(
    "how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_no_worker_is_left_behind(away, how):
    server = away.start("--drain-seconds", "0")
    found = workers(server)
    threads = [threading.Thread(target=_until_it_ends, args=(server,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: "onnuri_active 0.0" not in httpx.get(f"{server.url}/metrics").text)
    status = server.stop(how)
    for thread in threads:
        thread.join()
    assert status == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    assert len(found) == 1 and not psutil.wait_procs(found, LIMIT_SECONDS)[1]


def _until_it_ends(server):
    with contextlib.suppress(httpx.HTTPError):
        while server.process.poll() is None:
            asked(server, ["video", "audio", "mesh"])


def test_it_says_what_decodes(served):
    assert "decodes, float32 on cpu; guidance as pairs" in served.log.read_text()


@pytest.mark.parametrize(
    "python,arguments,message",
    [
        ("/nowhere/python", "", "cannot be run (No such file"),
        ("/etc/hostname", "", "cannot be run ("),
        ("/bin/false", "", "ended with status 1"),
        ("/bin/true", "", "ended with status 0"),
        (sys.executable, "", "has no vLLM"),
        ("standin", '"', "No closing quotation"),
        ("standin", "--no-such", "unrecognized arguments: --no-such"),
        ("standin", "--dtype int3", "invalid choice: 'int3'"),
        ("standin", "--enable-chunked-prefill", "enable-chunked-prefill cannot be had"),
    ],
)
def test_a_vllm_that_cannot_start_says_why_in_one_line(
    tmp_path, standin, python, arguments, message
):
    with pytest.raises(ConfigError) as told:
        VllmBackend(
            VllmConfig(
                python=standin if python == "standin" else python,
                folder=onnuri.WEIGHTS / "laptop",
                home=tmp_path,
                positions=2048,
                arguments=arguments,
            )
        )
    assert message in str(told.value) and len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    "options,message",
    [
        (
            ["--vllm-python", "/nowhere/python", "--vllm-args=--dtype float32"],
            "/nowhere/python: cannot be run",
        ),
        ([], "belong together"),
    ],
)
def test_the_command_line_ends_with_status_2(tmp_path, options, message):
    made = run_onnuri(
        "serve", "--data", tmp_path / "d", "--port", "0", "--backend", "vllm", *options
    )
    assert (
        made.returncode == 2
        and message in made.stderr
        and len(made.stderr.strip().splitlines()) == 1
    ), made.stderr


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="ONNURI_VLLM_PYTHON names no Python that has vLLM")
def test_tensor_parallelism_draws_the_same(model, own, tmp_path, monkeypatch, capsys):
    """On a CPU: three heads, three processes. Nothing that they share is left behind."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = set(os.listdir("/dev/shm"))
    engine = VllmBackend(
        VllmConfig(
            python=REAL,
            folder=onnuri.WEIGHTS / "laptop",
            home=tmp_path,
            positions=2048,
            arguments="--tensor-parallel-size 3 --enforce-eager",
        )
    )
    try:
        requests = requests_of(model, 2) + requests_of(
            model, 2, guidance=1.5, sampling=SamplingConfig(temperature=0.6)
        )
        assert len(alike(model, engine, own, requests, capsys, "three processes")) <= 1
    finally:
        engine.close()
    assert set(os.listdir("/dev/shm")) <= before


def test_several_processes_have_no_constraints_and_say_so(model, standin, tmp_path):
    engine = VllmBackend(
        VllmConfig(
            python=standin,
            folder=onnuri.WEIGHTS / "laptop",
            home=tmp_path,
            positions=2048,
            arguments="--tensor-parallel-size 2",
        )
    )
    try:
        request = requests_of(model, 1)[0]
        assert run(engine, request)[0].finish
        with pytest.raises(ConfigError, match="several processes"):
            engine.submit(dataclasses.replace(request, constraint=Even(10)))
    finally:
        engine.close()

"""vLLM in a process and an environment of its own: `PYTHON -m onnuri.inference.vllm_worker
SETTINGS`, which `vllm_backend.py` starts.

Reads and writes the lines that `vllm_wire.py` lists; vLLM batches, caches and runs the model,
`vllm_processor.py` decides what is drawn. Of Onnuri only files are imported that need nothing but
torch. Ends when its input does: whoever started it is gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from onnuri.inference import vllm_wire as wire
from onnuri.inference.request import RequestHandle, RequestState

END_SECONDS = 10.0
"""for vLLM to put away what it shares between processes"""
TRIES = 64
"""to get both rows of a pair into one step"""
PROCESSOR = "onnuri.inference.vllm_processor:Processor"
Say = Callable[[wire.Message], None]


class Lines:
    """Standard input, read beside the work, so that its end is seen at any time."""

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[wire.Message] = queue.SimpleQueue()
        self.stands: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self.loaded = False
        threading.Thread(target=self._prefill, daemon=True).start()

    def _prefill(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "stands" in message:
                self.stands.put(message["stands"])
            else:
                self.asked.put(message)
        if self.loaded:
            self.asked.put({"end": True})
            time.sleep(END_SECONDS)
        os.killpg(0, signal.SIGKILL)  # with whatever processes vLLM has


@dataclasses.dataclass
class WorkerRequest:
    """A request under way: vLLM's requests for it, and how far it is."""

    values: wire.Message
    """as the server sent it"""
    state: RequestState
    rows: list[str] = dataclasses.field(default_factory=list)
    tries: int = 0
    """in vain since the last id"""

    @property
    def key(self) -> str:
        """Return its key."""
        return str(self.values["key"])


class Worker:
    """Requests of ours as vLLM's."""

    def __init__(self, engine: Any, lines: Lines, say: Say, alone: bool) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from onnuri.inference import vllm_processor

        self.engine, self.lines, self.say, self.alone = engine, lines, say, alone
        self.processor, self.params = vllm_processor, SamplingParams
        self.delta = RequestOutputKind.DELTA
        self.requests: dict[str, WorkerRequest] = {}
        self.count = 0

    def run(self) -> None:
        """Work until nobody asks any more."""
        while self._listen():
            if self.requests:
                self._step()

    def _listen(self) -> bool:
        """Take what was asked; wait for it if there is nothing else to do. False at the end."""
        while not self.requests or not self.lines.asked.empty():
            message = self.lines.asked.get()
            if "end" in message:
                return False
            if "ask" in message:
                self._enter(message["ask"])
            elif (request := self.requests.get(message["cancel"])) is not None:
                self._leave(request)
        return True

    def _enter(self, values: wire.Message) -> None:
        state = RequestState(RequestHandle(wire.request_of(values)))
        request = WorkerRequest(values, state)
        if self.alone:
            remote = values["allowed"] and wire.RemoteConstraint(
                values["allowed"], lambda drawn: self._taken(request.key, drawn)
            )
            self.processor.LINKS[request.key] = self.processor.Link(remote)
        self.requests[request.key] = request
        self._begin(request)

    def _begin(self, request: WorkerRequest) -> None:
        """Give vLLM its rows, from where it is."""
        try:
            self._add(request)
        except Exception as error:  # vLLM's checks raise what they like; the others go on
            self._refuse(request, str(error))

    def _add(self, request: WorkerRequest) -> None:
        asked, prior_ids = request.state.request, list(request.state.tokens)
        request.rows = []
        for k, prompt in enumerate(asked.prompts):
            self.count += 1
            ours = {"values": request.values, "unconditional": bool(k), "prior_ids": prior_ids}
            params = self.params(
                temperature=0,
                max_tokens=asked.steps - len(prior_ids),
                ignore_eos=True,
                detokenize=False,
                output_kind=self.delta,
                extra_args={"onnuri": ours},
            )
            request.rows.append(str(self.count))
            ids = {"prompt_token_ids": prompt + prior_ids}
            self.engine.add_request(request.rows[-1], ids, params)

    def _step(self) -> None:
        """Take one step of vLLM's, and tell what came of it."""
        new_ids: dict[str, list[int]] = defaultdict(list)
        ended = set()
        for output in self.engine.step():
            new_ids[output.request_id] += output.outputs[0].token_ids
            if output.finished:
                ended.add(output.request_id)
        tokens, cut = [], []
        for request in list(self.requests.values()):
            rows, ids = request.rows, [new_ids[row] for row in request.rows]
            if any(ids):
                tokens += self._take(request, ids)
            if not request.state.finish and request.rows is rows and ended.intersection(rows):
                cut.append(request)
        if tokens:
            self.say({"step": tokens})
        for request in cut:
            self._refuse(request, "it ended it too soon; the log may say why")

    def _take(self, request: WorkerRequest, ids: list[list[int]]) -> list[list[Any]]:
        """Return [key, id, score] of what its rows got, if all got the same, which is something."""
        asked = request.state.request
        idle = self.processor.idle_token(asked.prompt)
        if asked.guided and (ids[0] != ids[1] or idle in ids[0]):
            self._again(request)
            return []
        request.tries, tokens = 0, []
        scores = self.processor.LINKS[request.key].scores if self.alone else []
        for token in ids[0]:
            drawn = not request.state.forced
            request.state.take(token)
            score = dataclasses.astuple(scores.pop(0)) if drawn and scores else None
            tokens.append([request.key, token, score])
            if request.state.finish:
                self._leave(request)
                break
        return tokens

    def _again(self, request: WorkerRequest) -> None:
        """Begin a pair anew, whose rows were not in one step."""
        request.tries += 1
        self.engine.abort_request(request.rows)
        if request.tries < TRIES:
            self._begin(request)
            return
        self._refuse(
            request, "guidance needs two sequences in one step, and there is no room for them"
        )

    def _refuse(self, request: WorkerRequest, reason: str) -> None:
        self._leave(request)
        self.say({"refused": [request.values["key"], " ".join(reason.split())]})

    def _leave(self, request: WorkerRequest) -> None:
        self.engine.abort_request(request.rows)
        self.requests.pop(request.key, None)
        self.processor.LINKS.pop(request.key, None)

    def _taken(self, key: str, drawn: int) -> tuple[int, wire.Allowed | None]:
        self.say({"take": [key, drawn]})
        stands, allowed = self.lines.stands.get()
        return stands, allowed


def load(settings: wire.Message) -> tuple[Any, wire.Message]:
    """Return vLLM's engine over a model's folder, and what is said of it. Raises ValueError for
    arguments that it does not take."""
    import vllm
    from vllm import EngineArgs, LLMEngine
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False))
    parser.error = _wrong
    chosen = parser.parse_args(settings["arguments"])
    for name, value in (("enable_chunked_prefill", True), ("async_scheduling", True)):
        if getattr(chosen, name) is value:  # a draw must be of a whole prompt, and know what stands
            raise ValueError(f"--{name.replace('_', '-')} cannot be had here")
    chosen.model, chosen.skip_tokenizer_init, chosen.disable_log_stats = (
        settings["folder"],
        True,
        True,
    )
    chosen.enable_chunked_prefill, chosen.async_scheduling = False, False
    chosen.logits_processors = [PROCESSOR]
    chosen.max_num_seqs = settings["rows"]
    chosen.max_model_len = chosen.max_model_len or settings["positions"]
    chosen.max_num_batched_tokens = chosen.max_num_batched_tokens or max(8192, chosen.max_model_len)
    if chosen.dtype == "auto" and current_platform.is_cpu():
        chosen.dtype = "float32"  # as our own engine; half precision gains nothing there
    engine = LLMEngine.from_engine_args(EngineArgs.from_cli_args(chosen))
    parallel = engine.vllm_config.parallel_config
    ready = {
        "version": vllm.__version__,
        "dtype": str(engine.vllm_config.model_config.dtype).removeprefix("torch."),
        "device": current_platform.device_name or "cpu",
        "alone": parallel.world_size == 1,
        "positions": engine.vllm_config.model_config.max_model_len,
    }
    return engine, ready


def _wrong(message: str) -> None:
    raise ValueError(message)


def main() -> None:
    """Work until standard input ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what vLLM prints is none of our lines
    lock = threading.Lock()

    def say(message: wire.Message) -> None:
        with lock:
            out.write(json.dumps(message) + "\n")
            out.flush()

    lines, settings = Lines(), json.loads(sys.argv[1])
    try:
        engine, ready = load(settings)
        worker = Worker(engine, lines, say, ready["alone"])
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        say({"fault": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]})
        raise SystemExit(2) from None
    lines.loaded = True
    say({"ready": ready})
    worker.run()
    engine.engine_core.shutdown()


if __name__ == "__main__":
    main()

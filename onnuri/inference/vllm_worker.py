"""vLLM in a process and an environment of its own: `PYTHON -m onnuri.inference.vllm_worker
SETTINGS`, which `vllm_backend.py` starts.

Reads and writes the lines that `vllm_wire.py` lists; vLLM batches, caches and runs the model,
`vllm_processor.py` decides what is sampled. Of Onnuri only files are imported that need nothing but
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
"""for which vLLM may clear away what it shares between processes"""
TRIES = 64
"""restarts to get both rows of a pair into one step"""
PROCESSOR = "onnuri.inference.vllm_processor:Processor"
Send = Callable[[wire.Message], None]


class Lines:
    """Messages from standard input, read in a thread of their own, so that its end is seen at any
    time."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[wire.Message] = queue.SimpleQueue()
        self.stands: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self.loaded = False
        threading.Thread(target=self._read_stdin, daemon=True).start()

    def _read_stdin(self) -> None:
        """Sort the lines of standard input into requests and a constraint's answers; end this
        process when it ends."""
        for line in sys.stdin:
            message = json.loads(line)
            if "stands" in message:
                self.stands.put(message["stands"])
            else:
                self.inbox.put(message)
        if self.loaded:
            self.inbox.put({"end": True})
            time.sleep(END_SECONDS)
        os.killpg(0, signal.SIGKILL)  # with whatever processes vLLM has


@dataclasses.dataclass
class WorkerRequest:
    """A request under way: its rows in vLLM, and the state of its answer."""

    values: wire.Message
    """the request as the server sent it"""
    state: RequestState
    rows: list[str] = dataclasses.field(default_factory=list)
    tries: int = 0
    """restarts since its last id"""

    @property
    def key(self) -> str:
        """Return the key under which the server sent the request."""
        return str(self.values["key"])


class Worker:
    """The loop that gives vLLM our requests and tells the server what they get. `alone` says that
    vLLM is one process, this one."""

    def __init__(self, engine: Any, lines: Lines, send: Send, alone: bool) -> None:
        """Take vLLM's engine, the server's messages, and the way to answer them."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from onnuri.inference import vllm_processor

        self.engine, self.lines, self.send, self.alone = engine, lines, send, alone
        self.processor, self.params = vllm_processor, SamplingParams
        self.delta = RequestOutputKind.DELTA
        self.requests: dict[str, WorkerRequest] = {}
        self.count = 0

    def run(self) -> None:
        """Decode the server's requests until standard input ends."""
        while self._receive():
            if self.requests:
                self._step()

    def _receive(self) -> bool:
        """Take in what the server has sent, waiting for it where no request is under way. Return
        False at the end of input."""
        while not self.requests or not self.lines.inbox.empty():
            message = self.lines.inbox.get()
            if "end" in message:
                return False
            if "ask" in message:
                self._accept(message["ask"])
            elif (request := self.requests.get(message["cancel"])) is not None:
                self._drop(request)
        return True

    def _accept(self, values: wire.Message) -> None:
        """Begin a request that the server sent, with its constraint where it has one."""
        state = RequestState(RequestHandle(wire.request_of(values)))
        request = WorkerRequest(values, state)
        if self.alone:
            remote = values["allowed"] and wire.RemoteConstraint(
                values["allowed"], lambda sampled: self._ask_constraint(request.key, sampled)
            )
            self.processor.LINKS[request.key] = self.processor.Link(remote)
        self.requests[request.key] = request
        self._submit(request)

    def _submit(self, request: WorkerRequest) -> None:
        """Give vLLM a request's rows, from its ids so far; refuse it where vLLM does."""
        try:
            self._submit_rows(request)
        except Exception as error:  # vLLM's checks raise what they like; the others go on
            self._refuse(request, str(error))

    def _submit_rows(self, request: WorkerRequest) -> None:
        """Add one vLLM request per prompt of a request, which goes on behind its ids so far. Raises
        what vLLM raises."""
        original, prior_ids = request.state.request, list(request.state.tokens)
        request.rows = []
        for k, prompt in enumerate(original.prompts):
            self.count += 1
            extra = {"values": request.values, "unconditional": bool(k), "prior_ids": prior_ids}
            params = self.params(
                temperature=0,
                max_tokens=original.steps - len(prior_ids),
                ignore_eos=True,
                detokenize=False,
                output_kind=self.delta,
                extra_args={"onnuri": extra},
            )
            request.rows.append(str(self.count))
            ids = {"prompt_token_ids": prompt + prior_ids}
            self.engine.add_request(request.rows[-1], ids, params)

    def _step(self) -> None:
        """Take one step of vLLM's and send the server the new ids; refuse requests that vLLM ended
        too soon."""
        new_ids: dict[str, list[int]] = defaultdict(list)
        ended = set()
        for output in self.engine.step():
            new_ids[output.request_id] += output.outputs[0].token_ids
            if output.finished:
                ended.add(output.request_id)
        tokens, cut_short = [], []
        for request in list(self.requests.values()):
            rows, ids = request.rows, [new_ids[row] for row in request.rows]
            if any(ids):
                tokens += self._take(request, ids)
            if not request.state.finish and request.rows is rows and ended.intersection(rows):
                cut_short.append(request)
        if tokens:
            self.send({"step": tokens})
        for request in cut_short:
            self._refuse(request, "it ended it too soon; the log may say why")

    def _take(self, request: WorkerRequest, ids: list[list[int]]) -> list[list[Any]]:
        """Return [key, id, score] of each new id of a request; none where the rows of a pair did
        not get the same, which are then restarted."""
        original = request.state.request
        idle = self.processor.idle_token(original.prompt)
        if original.guided and (ids[0] != ids[1] or idle in ids[0]):
            self._restart_pair(request)
            return []
        request.tries, tokens = 0, []
        scores = self.processor.LINKS[request.key].scores if self.alone else []
        for token in ids[0]:
            sampled = not request.state.forced
            request.state.take(token)
            score = dataclasses.astuple(scores.pop(0)) if sampled and scores else None
            tokens.append([request.key, token, score])
            if request.state.finish:
                self._drop(request)
                break
        return tokens

    def _restart_pair(self, request: WorkerRequest) -> None:
        """Submit a pair anew whose rows were not in one step; refuse it after `TRIES` times."""
        request.tries += 1
        self.engine.abort_request(request.rows)
        if request.tries < TRIES:
            self._submit(request)
            return
        self._refuse(
            request, "guidance needs two sequences in one step, and there is no room for them"
        )

    def _refuse(self, request: WorkerRequest, reason: str) -> None:
        """Drop a request and tell the server why, in one line."""
        self._drop(request)
        self.send({"refused": [request.values["key"], " ".join(reason.split())]})

    def _drop(self, request: WorkerRequest) -> None:
        """Abort a request's rows in vLLM and forget it."""
        self.engine.abort_request(request.rows)
        self.requests.pop(request.key, None)
        self.processor.LINKS.pop(request.key, None)

    def _ask_constraint(self, key: str, sampled: int) -> tuple[int, wire.Allowed | None]:
        """Return the id that the server's constraint lets stand for a sampled one, and the mask
        that follows; blocks until it answers."""
        self.send({"take": [key, sampled]})
        stands, allowed = self.lines.stands.get()
        return stands, allowed


def load(settings: wire.Message) -> tuple[Any, wire.Message]:
    """Return vLLM's engine over a model's folder, and the `ready` message about it. Raises
    ValueError for arguments that it does not take."""
    import vllm
    from vllm import EngineArgs, LLMEngine
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False))
    parser.error = _raise_value_error
    options = parser.parse_args(settings["arguments"])
    for name, value in (("enable_chunked_prefill", True), ("async_scheduling", True)):
        # a sample must be of a whole prompt, and know what stands
        if getattr(options, name) is value:
            raise ValueError(f"--{name.replace('_', '-')} cannot be had here")
    options.model, options.skip_tokenizer_init, options.disable_log_stats = (
        settings["folder"],
        True,
        True,
    )
    options.enable_chunked_prefill, options.async_scheduling = False, False
    options.logits_processors = [PROCESSOR]
    options.max_num_seqs = settings["rows"]
    options.max_model_len = options.max_model_len or settings["positions"]
    options.max_num_batched_tokens = options.max_num_batched_tokens or max(
        8192, options.max_model_len
    )
    if options.dtype == "auto" and current_platform.is_cpu():
        options.dtype = "float32"  # as our own engine; half precision gains nothing there
    engine = LLMEngine.from_engine_args(EngineArgs.from_cli_args(options))
    parallel = engine.vllm_config.parallel_config
    ready = {
        "version": vllm.__version__,
        "dtype": str(engine.vllm_config.model_config.dtype).removeprefix("torch."),
        "device": current_platform.device_name or "cpu",
        "alone": parallel.world_size == 1,
        "positions": engine.vllm_config.model_config.max_model_len,
    }
    return engine, ready


def _raise_value_error(message: str) -> None:
    """Raise ValueError instead of argparse's exit."""
    raise ValueError(message)


def main() -> None:
    """Load the model, then decode the server's requests until standard input ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what vLLM prints is none of our lines
    lock = threading.Lock()

    def send(message: wire.Message) -> None:
        """Write a message to the server as a line of JSON."""
        with lock:
            out.write(json.dumps(message) + "\n")
            out.flush()

    lines, settings = Lines(), json.loads(sys.argv[1])
    try:
        engine, ready = load(settings)
        worker = Worker(engine, lines, send, ready["alone"])
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        send({"fault": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]})
        raise SystemExit(2) from None
    lines.loaded = True
    send({"ready": ready})
    worker.run()
    engine.engine_core.shutdown()


if __name__ == "__main__":
    main()

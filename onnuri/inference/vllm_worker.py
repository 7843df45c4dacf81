"""vLLM in a process and an environment of its own: `PYTHON -m onnuri.inference.vllm_worker SETTINGS`,
which `vllm_backend.py` starts.

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
from onnuri.inference.request import Course, Ticket

END_SECONDS = 10.0
"""for vLLM to put away what it shares between processes"""
TRIES = 64
"""to get both rows of a pair into one step"""
PROCESSOR = "onnuri.inference.vllm_processor:Processor"
Say = Callable[[dict[str, Any]], None]


class Lines:
    """Standard input, read beside the work, so that its end is seen at any time."""

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.stands: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self.loaded = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            said = json.loads(line)
            if "stands" in said:
                self.stands.put(said["stands"])
            else:
                self.asked.put(said)
        if self.loaded:
            self.asked.put({"end": True})
            time.sleep(END_SECONDS)
        os.killpg(0, signal.SIGKILL)  # with whatever processes vLLM has


@dataclasses.dataclass
class Answer:
    """A request under way: vLLM's requests for it, and how far it is."""

    said: dict[str, Any]
    course: Course
    rows: list[str] = dataclasses.field(default_factory=list)
    tries: int = 0
    """in vain since the last id"""


class Worker:
    """Requests of ours as vLLM's."""

    def __init__(self, engine: Any, lines: Lines, say: Say, alone: bool) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from onnuri.inference import vllm_processor

        self.engine, self.lines, self.say, self.alone = engine, lines, say, alone
        self.processor, self.params, self.delta = (
            vllm_processor,
            SamplingParams,
            RequestOutputKind.DELTA,
        )
        self.answers: dict[str, Answer] = {}
        self.count = 0

    def run(self) -> None:
        """Until nobody asks any more."""
        while self._listen():
            if self.answers:
                self._step()

    def _listen(self) -> bool:
        """Take what was asked; wait for it if there is nothing else to do. False at the end."""
        while not self.answers or not self.lines.asked.empty():
            said = self.lines.asked.get()
            if "end" in said:
                return False
            if "ask" in said:
                self._enter(said["ask"])
            elif (answer := self.answers.get(said["cancel"])) is not None:
                self._leave(answer)
        return True

    def _enter(self, said: dict[str, Any]) -> None:
        key = str(said["key"])
        request = wire.request_of(said)
        if self.alone:
            remote = said["bound"] and wire.Remote(
                said["bound"], lambda drawn: self._taken(key, drawn)
            )
            self.processor.LINKS[key] = self.processor.Link(remote)
        answer = self.answers[key] = Answer(said, Course(Ticket(request)))
        self._begin(answer)

    def _begin(self, answer: Answer) -> None:
        """Give vLLM its rows, from where it is."""
        try:
            self._add(answer)
        except Exception as error:  # vLLM's checks raise what they like; the others go on
            self._refuse(answer, str(error))

    def _add(self, answer: Answer) -> None:
        request, stood = answer.course.request, list(answer.course.stands)
        answer.rows = []
        for bare, prompt in enumerate(request.prompts):
            self.count += 1
            ours = {"said": answer.said, "bare": bool(bare), "stood": stood}
            params = self.params(
                temperature=0,
                max_tokens=request.steps - len(stood),
                ignore_eos=True,
                detokenize=False,
                output_kind=self.delta,
                extra_args={"onnuri": ours},
            )
            answer.rows.append(f"{self.count}")
            self.engine.add_request(answer.rows[-1], {"prompt_token_ids": prompt + stood}, params)

    def _step(self) -> None:
        """One step of vLLM's, and what came of it."""
        got: dict[str, list[int]] = defaultdict(list)
        over = set()
        for output in self.engine.step():
            got[output.request_id] += output.outputs[0].token_ids
            over |= {output.request_id} if output.finished else set()
        told, cut = [], []
        for answer in list(self.answers.values()):
            rows, ids = answer.rows, [got[row] for row in answer.rows]
            if any(ids):
                told += self._take(answer, ids)
            if not answer.course.finish and answer.rows is rows and over.intersection(rows):
                cut.append(answer)
        if told:
            self.say({"step": told})
        for answer in cut:
            self._refuse(answer, "it ended it too soon; the log may say why")

    def _take(self, answer: Answer, ids: list[list[int]]) -> list[list[Any]]:
        """[key, id, score] of what its rows got, if all got the same, which is something."""
        key, request = str(answer.said["key"]), answer.course.request
        if request.paired and (
            ids[0] != ids[1] or self.processor.nothing(request.prompt) in ids[0]
        ):
            self._again(answer)
            return []
        answer.tries, told = 0, []
        scores = self.processor.LINKS[key].scores if self.alone else []
        for token in ids[0]:
            drawn = not answer.course.forced
            answer.course.take(token)
            told.append(
                [key, token, dataclasses.astuple(scores.pop(0)) if drawn and scores else None]
            )
            if answer.course.finish:
                self._leave(answer)
                break
        return told

    def _again(self, answer: Answer) -> None:
        """Begin a pair anew, whose rows were not in one step."""
        answer.tries += 1
        self.engine.abort_request(answer.rows)
        if answer.tries < TRIES:
            self._begin(answer)
            return
        self._refuse(
            answer, "guidance needs two sequences in one step, and there is no room for them"
        )

    def _refuse(self, answer: Answer, why: str) -> None:
        self._leave(answer)
        self.say({"refused": [answer.said["key"], " ".join(why.split())]})

    def _leave(self, answer: Answer) -> None:
        key = str(answer.said["key"])
        self.engine.abort_request(answer.rows)
        self.answers.pop(key, None)
        self.processor.LINKS.pop(key, None)

    def _taken(self, key: str, drawn: int) -> tuple[int, list[Any] | None]:
        self.say({"take": [key, drawn]})
        stands, more = self.lines.stands.get()
        return stands, more


def load(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """vLLM's engine over a model's folder, and what is said of it. Raises ValueError for arguments
    that it does not take."""
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
    """Until standard input ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what vLLM prints is none of our lines
    lock = threading.Lock()

    def say(said: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(said) + "\n")
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

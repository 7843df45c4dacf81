"""Continuous batching: requests of any length come and go between steps; ids in, ids out. Knows no
media.

Each `step` prefills some of a new prompt (at most `EngineConfig.prefill_tokens` ids, so that nobody
waits long for somebody else's), samples one id for every row that has been prefilled, and decodes
all of them in one pass. Guidance gives a request two rows. At every position only the allowed ids
are scored: a slice of the tied embedding. Whoever wants answers steps the engine: `run` until its
own handles are done, or a thread of its own in a server; a lock lets both happen at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from onnuri import config
from onnuri.errors import ConfigError
from onnuri.inference import device, static_forward
from onnuri.inference.backend import BackendLoad
from onnuri.inference.cache import Cache, PrefixCache
from onnuri.inference.cpu_kernel import fastest
from onnuri.inference.cpu_llama import LlamaForward
from onnuri.inference.hf_forward import HFForward
from onnuri.inference.request import Request, RequestHandle, SamplingConfig, TokenConstraint
from onnuri.inference.sampler import SampledRequest, sample
from onnuri.inference.scheduler import RequestQueue
from onnuri.inference.static_forward import PromptChunk, StaticForward

PREFILL_TOKENS = {"cpu": 256, "cuda": 8192}
"""ids of prompts that are prefilled between two steps, where the settings do not say: a GPU takes
thousands in the time in which a CPU takes hundreds"""


class EngineConfig(config.Config):
    """The sizes of an engine: rows of its cache, its queue and its prefix cache."""

    rows: int = 64
    """sequences that are decoded together; a request with guidance takes two"""
    waiting: int = 100_000
    """requests that may wait; more are refused"""
    prefix_bytes: int = 64 << 20
    """of ended sequences, for those that go on from them"""
    prefill_tokens: int = 0
    """ids of prompts that are prefilled between two steps; 0: as many as suit the device"""
    compiled: bool = True
    """whether steps run in a kernel that this machine's C compiler builds, if it has one"""
    device: device.DeviceName = "cpu"
    """where the model decodes"""
    positions: int = 0
    """most ids of a sequence, for which a GPU's cache takes memory; 0: as many as the model has"""
    static: bool = False
    """whether a CPU too runs steps in a GPU's fixed shapes, as tests do"""


class _Row:
    """One sequence in the cache."""

    def __init__(self, prompt: list[int]) -> None:
        self.ids, self.length = prompt, 0
        """its ids, and how many of them the cache holds"""
        self.at = -1
        """its index in the cache"""

    @property
    def prefilled(self) -> bool:
        """Return whether the cache holds its whole prompt, before an id is sampled."""
        return self.length == len(self.ids)


class _Active(SampledRequest):
    """A request that has rows in the cache, in prefill or in decode."""

    def __init__(self, handle: RequestHandle) -> None:
        super().__init__(handle)
        self.rows = [_Row(list(prompt)) for prompt in handle.request.prompts]
        self.hidden: list[Tensor] = []
        """the last hidden state [C] of each row whose prompt is prefilled"""


class Engine:
    """A `Backend` (`backend.py`): a model's weights, their cache, and the requests that are
    decoded."""

    def __init__(self, model: nn.Module, settings: EngineConfig | None = None) -> None:
        """Allocate the cache and the prefix cache, and choose the fastest forward pass."""
        self.settings = settings or EngineConfig()
        where = device.find(self.settings.device)
        self.forward: LlamaForward | HFForward | StaticForward
        if where.type == "cuda" or self.settings.static:
            self.cache, self.forward = static_forward.build(
                model, self.settings.rows, where, self.settings.positions
            )
        else:
            self.cache = Cache.of(model, self.settings.rows)
            self.forward = fastest(model, self.cache, self.settings.compiled)
        self.prefixes = PrefixCache(self.settings.prefix_bytes, self.cache)
        self.queue = RequestQueue(self.settings.waiting)
        self.active: list[_Active] = []
        """requests in decode, which sample an id per step; their rows come first in the cache"""
        self.prefilling: _Active | None = None
        self.rows: list[_Row] = []
        """every row in use, at its place in the cache"""
        self.hidden = self.cache.layers[0].new_zeros(0, self.forward.width)
        """the last hidden state of every row in decode, [N, C]"""
        self._lock = threading.Lock()

    def submit(self, request: Request, bounded: bool = True) -> RequestHandle:
        """Queue a request and return its handle. Raises ConfigError where it cannot fit, BusyError
        where it is `bounded` and too many wait."""
        request.check(self.forward.positions)
        if request.guided and self.settings.rows < 2:
            raise ConfigError("guidance", "needs two rows", "give the engine more rows")
        return self.queue.push(request, bounded)

    @property
    def idle(self) -> bool:
        """Return whether nothing waits and nothing is prefilled or decoded."""
        return not (self.active or self.prefilling or len(self.queue))

    @property
    def ready(self) -> bool:
        """Return whether new requests are accepted, which they always are in this process."""
        return True

    def load(self) -> BackendLoad:
        """Return how many requests wait and are active now, and the counters since the start."""
        return BackendLoad(
            waiting=len(self.queue),
            active=len(self.active),
            rows=len(self.rows),
            sampled_tokens=dict(self.queue.sampled_tokens),
            prefix_bytes=self.prefixes.held_bytes,
            prefix_reused_tokens=self.prefixes.reused,
        )

    def run(self, handles: Iterable[RequestHandle]) -> None:
        """Step until all of the handles have ended."""
        for handle in handles:
            while not handle.done:
                self.step()

    def generate(
        self,
        prompts: list[list[int]],
        token_constraint: TokenConstraint,
        sampling: SamplingConfig,
        seeds: list[int],
        unconditional_prompts: list[list[int]] | None = None,
        forced_segments: list[list[list[int]]] | None = None,
    ) -> list[list[int]]:
        """Return the ids that are sampled after each prompt, all under one constraint; blocks until
        all have ended."""
        handles = [
            self.submit(
                Request(
                    prompt=prompt,
                    token_constraint=token_constraint,
                    sampling=sampling,
                    seed=seeds[k],
                    unconditional_prompt=unconditional_prompts[k]
                    if unconditional_prompts
                    else None,
                    forced_segments=forced_segments[k] if forced_segments else [],
                ),
                bounded=False,
            )
            for k, prompt in enumerate(prompts)
        ]
        self.run(handles)
        return [handle.ids for handle in handles]

    def reset(self) -> None:
        """Cancel every request that waits, is prefilled or is decoded, and free all rows."""
        with self._lock:
            handles = self.queue.clear() + [active.handle for active in self.active]
            if self.prefilling:
                handles.append(self.prefilling.handle)
            self.active, self.prefilling, self.rows, self.hidden = [], None, [], self.hidden[:0]
        for handle in handles:
            handle.close("cancelled")

    def close(self) -> None:
        """Cancel every request; there is no thread or process to end."""
        self.reset()

    def step(self) -> None:
        """Prefill some prompts, sample one id per active request, and decode all of them in one
        pass."""
        with self._lock, torch.inference_mode():
            self._evict()
            self._prefill()
            if self.active:
                self._sample()
                self._decode()

    def _evict(self) -> None:
        """Free the rows of requests that were cancelled, and close their handles."""
        self.queue.evict()
        if self.prefilling and self.prefilling.handle.cancelled:
            self._release(self.prefilling)
            self.prefilling.handle.close("cancelled")
            self.prefilling = None
        for active in [active for active in self.active if active.handle.cancelled]:
            self.active.remove(active)
            self._release(active)
            active.handle.close("cancelled")

    def _prefill(self) -> None:
        """Prefill at most `prefill_tokens` ids of prompts; a request whose rows are all prefilled
        becomes active, and is sampled from this step on."""
        left = self.settings.prefill_tokens or PREFILL_TOKENS[self.settings.device]
        chunks: list[tuple[_Active, _Row, PromptChunk]] = []
        ready: list[_Active] = []
        while left > 0 and (prefilling := self.prefilling or self._admit()):
            row = next(row for row in prefilling.rows if not row.prefilled)
            chunk = PromptChunk(row.ids[row.length : row.length + left], row.at, row.length)
            chunks.append((prefilling, row, chunk))
            row.length += len(chunk.ids)
            left -= len(chunk.ids)
            if all(row.prefilled for row in prefilling.rows):
                ready.append(prefilling)
                self.active.append(prefilling)
                self.prefilling = None
        states = self._last_states([chunk for _, _, chunk in chunks])
        for (prefilling, row, _), state in zip(chunks, states, strict=True):
            if row.prefilled:
                prefilling.hidden.append(state)
        for active in ready:
            pairs = zip(active.rows, active.hidden, strict=True)
            placed = [state for _, state in sorted(pairs, key=lambda pair: pair[0].at)]
            self.hidden = torch.cat([self.hidden, torch.stack(placed)])

    def _last_states(self, chunks: list[PromptChunk]) -> list[Tensor]:
        """Prefill chunks of prompts and return the last hidden state [C] of each: on a GPU many in
        one pass, on a CPU one after another, which is as fast there."""
        if isinstance(self.forward, StaticForward):
            return self.forward.prefill_last(chunks, self.cache)
        return [
            self.forward.prefill(torch.tensor(chunk.ids), chunk.row, chunk.at, self.cache)[-1]
            for chunk in chunks
        ]

    def _admit(self) -> _Active | None:
        """Give the next queued request its rows, filled from the prefix cache, and return it; None
        where none waits or there are too few rows."""
        handle = self.queue.pop(self.settings.rows - len(self.rows))
        if handle is None:
            return None
        self.prefilling = _Active(handle)
        for row in self.prefilling.rows:
            row.at = len(self.rows)
            self.rows.append(row)
            row.length = self.prefixes.lookup(row.ids, self.cache, row.at)
        handle.reused = self.prefilling.rows[0].length
        return self.prefilling

    def _sample(self) -> None:
        """Sample one id per active request and tell its listener; a request that ends with it goes
        to the prefix cache and frees its rows."""
        tokens, ended = sample(self.active, self._score), []
        for active in self.active:
            token = active.state.take(tokens.get(active))
            self.queue.count(active.handle)
            for row in active.rows:
                row.ids.append(token)
            if active.request.on_token:
                active.request.on_token(token)
            if active.state.finish:
                ended.append(active)
        for active in ended:
            self.active.remove(active)
            row = active.rows[0]
            self.prefixes.insert(row.ids[: row.length], self.cache, row.at)
            self._release(active)
            assert active.state.finish
            active.handle.close(active.state.finish)

    def _score(
        self, members: list[_Active], unconditional: bool, lo: int, hi: int, extra: int | None
    ) -> Tensor:
        """Return logits [N, hi - lo] of one row per member, its unconditional one if told so, with
        one more column for `extra`, an id beyond [lo, hi)."""
        rows = [member.rows[unconditional].at for member in members]
        hidden = self.hidden
        if rows != list(range(len(hidden))):
            hidden = hidden[rows]
        return self.forward.logits(hidden, lo, hi, extra)

    @property
    def _decoding_rows(self) -> int:
        """Return how many rows are in decode; the rows in prefill come after them."""
        return len(self.rows) - (len(self.prefilling.rows) if self.prefilling else 0)

    def _decode(self) -> None:
        """Run the last id of every row in decode through the model, and keep the hidden states that
        the next step samples from."""
        rows = self.rows[: self._decoding_rows]
        if not rows:
            self.hidden = self.hidden[:0]
            return
        lengths = [row.length for row in rows]
        self.hidden = self.forward.decode([row.ids[-1] for row in rows], lengths, self.cache)
        for row in rows:
            row.length += 1

    def _release(self, active: _Active) -> None:
        """Free a request's rows and close the gaps, so that rows in decode stay before those in
        prefill."""
        for row in active.rows:
            decoding = self._decoding_rows
            if row.at < decoding:
                self._fill(row.at, decoding - 1)
                self._fill(decoding - 1, len(self.rows) - 1)
                self.hidden = self.hidden[: decoding - 1]
            else:
                self._fill(row.at, len(self.rows) - 1)
            self.rows.pop()

    def _fill(self, gap: int, last: int) -> None:
        """Move the last row, with its keys, values and hidden state, to the index `gap`; nothing
        where it is the same."""
        if gap == last:
            return
        row = self.rows[last]
        self.cache.move(last, gap, row.length)
        if last < len(self.hidden):
            self.hidden[gap] = self.hidden[last]
        self.rows[gap], row.at = row, gap

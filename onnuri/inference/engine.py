"""Continuous batching: requests of any length come and go between steps; ids in, ids out. Knows no
media.

Each `step` reads some of a new prompt (`CHUNK` ids at most, so that nobody waits long for somebody
else's), draws one id for every row that has been read, and feeds all of them in one pass. Guidance
gives a request two rows. At every position only the allowed ids are scored: a slice of the tied
embedding. Whoever wants answers steps the engine: `run` until its own tickets are done, or a thread
of its own in a server; a lock lets both happen at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from onnuri import config
from onnuri.errors import ConfigError
from onnuri.inference.cache import Cache, Prefixes
from onnuri.inference.cpu_kernel import fastest
from onnuri.inference.request import Plan, Request, SamplingConfig, Ticket
from onnuri.inference.sampler import Drawing, choose
from onnuri.inference.scheduler import Waiting


class EngineConfig(config.Config):
    """How much the engine holds."""

    rows: int = 64
    """sequences that are decoded together; a request with guidance takes two"""
    waiting: int = 100_000
    """requests that may wait; more are refused"""
    prefix_bytes: int = 64 << 20
    """of ended sequences, for those that go on from them"""
    chunk: int = 256
    """ids of prompts that are read between two steps"""
    compiled: bool = True
    """whether steps run in a kernel that this machine's C compiler builds, if it has one"""


class _Row:
    """One sequence in the cache."""

    def __init__(self, prompt: list[int]) -> None:
        self.ids, self.length = prompt, 0
        """what it is made of, and how much of that the cache holds"""
        self.at = -1
        """its row in the cache"""


class _Active(Drawing):
    """A request that has rows."""

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(ticket)
        self.rows = [_Row(list(prompt)) for prompt in ticket.request.prompts]
        self.hidden: list[Tensor] = []
        """of each row that has been read, [C]"""


class Engine:
    """The weights of a model, and whatever they are decoding."""

    def __init__(self, model: nn.Module, settings: EngineConfig | None = None) -> None:
        self.settings = settings or EngineConfig()
        self.cache = Cache.of(model, self.settings.rows)
        self.forward = f = fastest(model, self.cache, self.settings.compiled)
        self.prefixes, self.queue = (
            Prefixes(self.settings.prefix_bytes, self.cache),
            Waiting(self.settings.waiting),
        )
        self.active: list[_Active] = []
        """those that draw an id a step; their rows come first in the cache"""
        self.reading: _Active | None = None
        self.rows: list[_Row] = []
        """every row in use, at its place in the cache"""
        self.hidden = torch.zeros(0, f.width)
        """of every row that draws, [N, C]"""
        self.drawn: Counter[str] = Counter()
        """ids drawn, by kind"""
        self._lock = threading.Lock()

    def submit(self, request: Request, bounded: bool = True) -> Ticket:
        """Take a request. Raises ConfigError where it cannot fit, BusyError where too many wait."""
        return self.enter(Ticket(request), bounded)

    def enter(self, ticket: Ticket, bounded: bool = True) -> Ticket:
        """`submit` for a ticket that was made before."""
        request = ticket.request
        request.check(self.forward.positions)
        if request.paired and self.settings.rows < 2:
            raise ConfigError("guidance", "needs two rows", "give the engine more rows")
        return self.queue.enter(ticket, bounded)

    @property
    def idle(self) -> bool:
        return not (self.active or self.reading or len(self.queue))

    def run(self, tickets: Iterable[Ticket]) -> None:
        """Step until all of them have ended."""
        for ticket in tickets:
            while not ticket.done:
                self.step()

    def generate(
        self,
        prompts: list[list[int]],
        plan: Plan,
        sampling: SamplingConfig,
        seeds: list[int],
        without: list[list[int]] | None = None,
        scripts: list[list[list[int]]] | None = None,
    ) -> list[list[int]]:
        """Ids that follow each prompt, all under one plan."""
        tickets = [
            self.submit(
                Request(
                    prompt=prompt,
                    plan=plan,
                    sampling=sampling,
                    seed=seeds[k],
                    without=without[k] if without else None,
                    script=scripts[k] if scripts else [],
                ),
                bounded=False,
            )
            for k, prompt in enumerate(prompts)
        ]
        self.run(tickets)
        return [ticket.ids for ticket in tickets]

    def reset(self) -> None:
        """Call off whatever waits or is decoded, and begin anew."""
        with self._lock:
            gone = self.queue.clear()
            gone += [a.ticket for a in [*self.active, *([self.reading] if self.reading else [])]]
            self.active, self.reading, self.rows, self.hidden = [], None, [], self.hidden[:0]
        for ticket in gone:
            ticket.close("cancelled")

    @property
    def ready(self) -> bool:
        """Whether it takes requests: it is here, so it does."""
        return True

    def close(self) -> None:
        """`reset`; there is nothing else to end."""
        self.reset()

    def step(self) -> None:
        """Read some, draw one id for each, feed them."""
        with self._lock, torch.inference_mode():
            self._drop()
            self._read()
            if self.active:
                self._draw()
                self._feed()

    def _drop(self) -> None:
        """Let go of what was called off."""
        for ticket in self.queue.drop():
            ticket.close("cancelled")
        if self.reading and self.reading.ticket.cancelled:
            self._release(self.reading)
            self.reading.ticket.close("cancelled")
            self.reading = None
        for active in [a for a in self.active if a.ticket.cancelled]:
            self._end(active, keep=False)
            active.ticket.close("cancelled")

    def _read(self) -> None:
        """Prompts, `chunk` ids of them at most; those that are read draw from this step on."""
        left = self.settings.chunk
        while left > 0 and (now := self.reading or self._admit()):
            row = now.rows[len(now.hidden)]
            ids = row.ids[row.length : row.length + left]
            hidden = self.forward.chunk(torch.tensor(ids), row.at, row.length, self.cache)
            row.length += len(ids)
            left -= len(ids)
            if row.length == len(row.ids):
                now.hidden.append(hidden[-1])
            if len(now.hidden) == len(now.rows):
                self.active.append(now)
                placed = sorted(range(len(now.rows)), key=lambda k: now.rows[k].at)
                self.hidden = torch.cat([self.hidden, torch.stack([now.hidden[k] for k in placed])])
                self.reading = None

    def _admit(self) -> _Active | None:
        """Give the next in turn its rows, if there is room for them."""
        ticket = self.queue.take(self.settings.rows - len(self.rows))
        if ticket is None:
            return None
        self.reading = _Active(ticket)
        for row in self.reading.rows:
            row.at = len(self.rows)
            self.rows.append(row)
            row.length = self.prefixes.reuse(row.ids, self.cache, row.at)
        ticket.reused = self.reading.rows[0].length
        return self.reading

    def _draw(self) -> None:
        """One id more for every active request; those that end with it leave."""
        chosen, over = choose(self.active, self._score), []
        for active in self.active:
            token = active.course.take(chosen.get(active))
            self.drawn[active.request.kind] += 1
            self.queue.charge(active.ticket)
            for row in active.rows:
                row.ids.append(token)
            if active.request.on_token:
                active.request.on_token(token)
            if active.course.finish:
                over.append(active)
        for active in over:
            self._end(active, keep=True)
            active.ticket.close(active.course.finish)  # type: ignore[arg-type]

    def _score(
        self, members: list[_Active], bare: bool, lo: int, hi: int, extra: int | None
    ) -> Tensor:
        """Logits [N, hi - lo] of each member's row, and one more for an id beyond them."""
        return self.forward.logits(self.hidden[[a.rows[bare].at for a in members]], lo, hi, extra)

    def _feed(self) -> None:
        """The last id of every row that goes on."""
        count = len(self.rows) - (len(self.reading.rows) if self.reading else 0)
        if not count:
            self.hidden = self.hidden[:0]
            return
        rows = self.rows[:count]
        lengths = [row.length for row in rows]
        longest = max(lengths)
        self.hidden = self.forward.one(
            torch.tensor([row.ids[-1] for row in rows]),
            torch.tensor(lengths),
            self.cache,
            longest,
            min(lengths) == longest,
        )
        for row in rows:
            row.length += 1

    def _end(self, active: _Active, keep: bool) -> None:
        self.active.remove(active)
        if keep:
            self.prefixes.keep(
                active.rows[0].ids[: active.rows[0].length], self.cache, active.rows[0].at
            )
        self._release(active)

    def _release(self, gone: _Active) -> None:
        """Close the gaps that rows leave: those that draw stay before those that are read."""
        for row in gone.rows:
            drawing = len(self.rows) - (len(self.reading.rows) if self.reading else 0)
            if row.at < drawing:
                self._fill(row.at, drawing - 1)
                self._fill(drawing - 1, len(self.rows) - 1)
                self.hidden = self.hidden[: drawing - 1]
            else:
                self._fill(row.at, len(self.rows) - 1)
            self.rows.pop()

    def _fill(self, gap: int, last: int) -> None:
        """Move the last row, if that is another, into a gap."""
        if gap == last:
            return
        row = self.rows[last]
        self.cache.move(last, gap, row.length)
        if last < len(self.hidden):
            self.hidden[gap] = self.hidden[last]
        self.rows[gap], row.at = row, gap

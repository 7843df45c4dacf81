"""The database of keys, their usage, and jobs, in SQLite or PostgreSQL. Knows no HTTP and no model.

A key is kept as its SHA-256 only: keys are 256 random bits, so nothing slower is needed. A job's
file lies in a folder beside the database, under its id; the row says that it is whole. Times are
seconds since 1970.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    Integer,
    String,
    create_engine,
    event,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from onnuri.errors import ConfigError
from onnuri.files import make_folder, write_bytes


class _Base(DeclarativeBase):
    """The base of all tables."""


class Key(_Base):
    """A caller's key, with its limits."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[float] = mapped_column(Float)
    requests_per_minute: Mapped[int] = mapped_column(Integer)
    """0: any number"""
    tokens_per_minute: Mapped[int] = mapped_column(BigInteger)
    revoked: Mapped[float | None] = mapped_column(Float, default=None)


class Usage(_Base):
    """The requests and tokens of a key in one minute."""

    __tablename__ = "usage"
    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    requests: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(BigInteger)


class MediaJob(_Base):
    """A job that takes a while: a video or a mesh."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(16))
    """queued, in_progress, completed or failed"""
    progress: Mapped[int] = mapped_column(Integer)
    """per cent"""
    created: Mapped[float] = mapped_column(Float)
    completed: Mapped[float | None] = mapped_column(Float, default=None)
    expires: Mapped[float] = mapped_column(Float)
    about: Mapped[dict[str, Any]] = mapped_column(JSON)
    """prompt, size and the like, as they were asked for"""
    error: Mapped[str | None] = mapped_column(String(500), default=None)


class Store:
    """The database and the folder of files. Raises ConfigError where either cannot be used."""

    def __init__(self, url: str, folder: Path) -> None:
        """Open the database, making its tables, and the folder of files. Raises ConfigError."""
        self.files = folder / "files"
        make_folder(self.files)
        try:
            self.engine = create_engine(url, pool_pre_ping=True)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _set_pragmas)
            _Base.metadata.create_all(self.engine)
        except (SQLAlchemyError, ImportError) as error:
            raise ConfigError(
                url.split("@")[-1],
                f"cannot be used as a database ({str(error).splitlines()[0]})",
                "give an SQLAlchemy URL such as sqlite:///onnuri.db or postgresql+psycopg://…",
            ) from None

    def close(self) -> None:
        """Close the database."""
        self.engine.dispose()

    def add_key(self, name: str, requests_per_minute: int = 0, tokens_per_minute: int = 0) -> str:
        """Return the secret of a new key, which is never told again. A limit of 0 is none."""
        secret = f"onnuri-{secrets.token_urlsafe(32)}"
        with self._session() as session:
            session.add(
                Key(
                    id=secrets.token_hex(8),
                    name=name,
                    sha256=_digest(secret),
                    created=time.time(),
                    requests_per_minute=requests_per_minute,
                    tokens_per_minute=tokens_per_minute,
                )
            )
        return secret

    def all_keys(self) -> list[Key]:
        """Return every key, the oldest first."""
        with self._session() as session:
            return list(session.scalars(select(Key).order_by(Key.created)))

    def revoke(self, which: str) -> list[Key]:
        """Return the keys with an id or a name that are not revoked; where there is exactly one,
        revoke it."""
        with self._session() as session:
            matches = list(
                session.scalars(
                    select(Key).where(
                        (Key.id == which) | (Key.name == which), Key.revoked.is_(None)
                    )
                )
            )
            # an id is never meant as a name
            own = [key for key in matches if key.id == which] or matches
            if len(own) == 1:
                own[0].revoked = time.time()
            return own

    def key_of(self, secret: str) -> Key | None:
        """Return the key of a secret; None where it is not known or was revoked."""
        with self._session() as session:
            return session.scalar(
                select(Key).where(Key.sha256 == _digest(secret), Key.revoked.is_(None))
            )

    def any_key(self) -> bool:
        """Return whether there is a key that is not revoked."""
        with self._session() as session:
            return session.scalar(select(Key.id).where(Key.revoked.is_(None)).limit(1)) is not None

    def ever_key(self) -> bool:
        """Return whether a key was ever made: who made one does not want callers without."""
        with self._session() as session:
            return session.scalar(select(Key.id).limit(1)) is not None

    def use(
        self, key: str, requests: int, tokens: int, now: float | None = None
    ) -> tuple[int, int]:
        """Add requests and tokens to a key's usage in this minute, and return the new sums of both.
        It is one statement, so that no two requests miss each other."""
        values = {
            "key": key,
            "minute": int((now or time.time()) // 60),
            "requests": requests,
            "tokens": tokens,
        }
        insert: Any = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}[
            self.engine.dialect.name
        ](Usage)
        statement = (
            insert.values(values)
            .on_conflict_do_update(
                index_elements=["key", "minute"],
                set_={"requests": Usage.requests + requests, "tokens": Usage.tokens + tokens},
            )
            .returning(Usage.requests, Usage.tokens)
        )
        with self._session() as session:
            row = session.execute(statement).one()
            return int(row[0]), int(row[1])

    def used(self, key: str) -> list[Usage]:
        """Return a key's usage by minute, the latest first, 1,440 minutes at most."""
        with self._session() as session:
            return list(
                session.scalars(
                    select(Usage).where(Usage.key == key).order_by(Usage.minute.desc()).limit(1440)
                )
            )

    def add_job(self, kind: str, key: str, about: dict[str, Any], seconds: float) -> MediaJob:
        """Return a new queued job, whose file expires after so many seconds."""
        now = time.time()
        job = MediaJob(
            id=f"{kind}_{secrets.token_hex(12)}",
            kind=kind,
            key=key,
            status="queued",
            progress=0,
            created=now,
            expires=now + seconds,
            about=about,
        )
        with self._session() as session:
            session.add(job)
        return job

    def job(self, id: str, kind: str, key: str) -> MediaJob | None:
        """Return a job of a kind that belongs to a key, None where there is none."""
        with self._session() as session:
            return session.scalar(
                select(MediaJob).where(
                    MediaJob.id == id, MediaJob.kind == kind, MediaJob.key == key
                )
            )

    def jobs(
        self, kind: str, key: str, limit: int = 20, after: str | None = None, newest: bool = True
    ) -> list[MediaJob]:
        """Return at most `limit` jobs of a kind that belong to a key, the `newest` first or the
        oldest, those behind the job with the id `after`."""
        order = (
            (MediaJob.created.desc(), MediaJob.id.desc())
            if newest
            else (MediaJob.created, MediaJob.id)
        )
        query = select(MediaJob).where(MediaJob.kind == kind, MediaJob.key == key).order_by(*order)
        with self._session() as session:
            if after:
                last = session.get(MediaJob, after)
                if last is None:
                    return []
                query = query.where(
                    MediaJob.created < last.created if newest else MediaJob.created > last.created
                )
            return list(session.scalars(query.limit(limit)))

    def update_job(self, id: str, **values: Any) -> None:
        """Write fields of a job."""
        with self._session() as session:
            session.execute(update(MediaJob).where(MediaJob.id == id).values(**values))

    def finish_job(self, id: str, data: bytes) -> None:
        """Store a job's file, then complete its row: whoever reads `completed` finds the file."""
        write_bytes(data, self.files / id)
        self.update_job(id, status="completed", progress=100, completed=time.time())

    def delete_job(self, id: str) -> None:
        """Delete a job and its file."""
        with self._session() as session:
            if (job := session.get(MediaJob, id)) is not None:
                session.delete(job)
        with contextlib.suppress(FileNotFoundError):
            (self.files / id).unlink()

    def tidy(self, started: bool = False) -> None:
        """Delete jobs, files and usage that have expired. When the server has just `started`, also
        fail jobs that no process works on any more, and delete files without a job, which a killed
        process left."""
        now = time.time()
        with self._session() as session:
            for job in session.scalars(select(MediaJob).where(MediaJob.expires < now)):
                session.delete(job)
            session.flush()
            for job in session.scalars(select(MediaJob)) if started else ():
                if job.status in ("queued", "in_progress"):
                    job.status, job.error = "failed", "the server was stopped; ask again"
                elif job.status == "completed" and not (self.files / job.id).exists():
                    job.status, job.error = "failed", "its file is lost; ask again"
            known_ids = {i for i in session.scalars(select(MediaJob.id))} if started else set()
            expired = session.scalars(
                select(Usage).where(Usage.minute < int(now // 60) - 60 * 24 * 40)
            )
            for usage in expired:
                session.delete(usage)
        for path in self.files.iterdir():
            if started and path.name not in known_ids:
                path.unlink(missing_ok=True)
            elif not started and path.stat().st_mtime < now - 60 and not path.name.startswith("."):
                with self._session() as session:
                    gone = session.get(MediaJob, path.name) is None
                if gone:
                    path.unlink(missing_ok=True)

    def _session(self) -> contextlib.AbstractContextManager[Session]:
        """Return a context with a session that is committed at its end."""
        return _transaction(self.engine)


@contextlib.contextmanager
def _transaction(engine: Any) -> Any:
    """Give a session whose transaction is committed at the end, or rolled back by an error."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def _set_pragmas(connection: Any, _: Any) -> None:
    """Set up a new SQLite connection so that readers do not wait for writers, and writers wait for
    each other."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _digest(secret: str) -> str:
    """Return the SHA-256 of a secret in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()

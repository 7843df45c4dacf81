"""The settings of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from onnuri import LAPTOP, config
from onnuri.errors import ConfigError
from onnuri.media.limits import Limits


class ServeConfig(config.Config):
    """Defaults serve one machine's own users, without a key and without a way out."""

    host: str = "127.0.0.1"
    port: int = 8000
    data: Path = Path("onnuri-data")
    """folder of keys, jobs and their files"""
    database: str = ""
    """an SQLAlchemy URL; without one, SQLite in `data`"""
    name: str = LAPTOP
    """the model's name in the API"""
    beside: Path | None = None
    """folder of a second model, so that two can be compared"""
    beside_name: str = ""
    """the second model's name in the API; without one, its folder's"""
    pictures: Path | None = None
    """folder of a model of pictures, which answers what the first does not know; without one, the
    one that ships, unless the first model or a second is named"""
    rows: int = 24
    """sequences that are decoded together"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where our own engine decodes; cuda: on a GPU"""
    positions: int = 0
    """most tokens of a sequence on a GPU, whose cache takes memory for them; 0: as many as the
    model has and fit"""
    alias: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """another name for a model, such as tts-1=onnuri-laptop, for clients that ask for one; may be
    given more than once"""
    open: bool = False
    """whether callers on this machine need no key even where keys were made; behind a proxy on it,
    that is everyone"""
    requests: int = 96
    """requests that may be under way or wait; more are answered with 429"""
    body_bytes: int = 24 * 2**20
    """of a request"""
    header_seconds: float = 20.0
    """for a request's headers, and between two parts of its body; the connection is closed then"""
    request_seconds: float = 120.0
    """for an answer; it is called off then"""
    drain_seconds: float = 30.0
    """for what is under way when the server is told to stop"""
    job_seconds: float = 24 * 3600.0
    """for which a job's file is kept"""
    fetch: bool = False
    """whether media may be given as http(s) URLs; never from private addresses"""
    backend: Literal["onnuri", "vllm"] = "onnuri"
    """what decodes: our own engine, or vLLM in a process and an environment of its own"""
    vllm_python: str = ""
    """the Python of the environment that has vLLM"""
    vllm_args: str = ""
    """vLLM's own options: --vllm-args="--tensor-parallel-size 2 --dtype bfloat16\""""
    hosts: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """further names by which this server may be called, such as a container's; may be given more
    than once"""
    origins: tuple[str, ...] = ()
    """web pages that may call from a browser; none but our own without them"""
    pixels: int = 16 * 10**6
    """of a picture"""
    seconds: float = 30.0
    """of a sound or video"""
    faces: int = 100_000
    """of a mesh"""

    def check(self) -> None:
        """Raise ConfigError for settings with which nothing could be served, or that contradict
        each other."""
        for name, least in (
            ("rows", 2),
            ("positions", 0),
            ("requests", 1),
            ("body_bytes", 1),
            ("header_seconds", 0.1),
            ("request_seconds", 0.1),
            ("drain_seconds", 0),
            ("job_seconds", 1),
            ("pixels", 1),
            ("seconds", 0.1),
            ("faces", 1),
        ):
            if not getattr(self, name) >= least:  # not a number is refused too
                raise ConfigError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}",
                    f"is less than {least}",
                    "give more",
                )
        if self.pictures and self.beside:
            raise ConfigError(
                f"--pictures {self.pictures}",
                "answers together with the first model, and --beside beside it",
                "leave one of them out",
            )
        if self.beside_name and not self.beside:
            raise ConfigError(
                f"--beside-name {self.beside_name}",
                "names a model that is not given",
                "give its folder as --beside",
            )
        for pair in self.alias:
            if not all(pair.partition("=")[::2]) or any(c.isspace() or c == "/" for c in pair):
                raise ConfigError(
                    f"--alias {pair}", "is not NAME=MODEL", f"give one such as tts-1={self.name}"
                )
        for host in self.hosts:
            if not host or any(c.isspace() or c in "/:@" for c in host):
                raise ConfigError(
                    f"--hosts {host}",
                    "is not a host's name",
                    "give one without scheme and port, such as onnuri",
                )
        if self.beside_name == self.name:
            raise ConfigError(
                f"--beside-name {self.beside_name}", "is the first model's name too", "give another"
            )
        if self.backend == "vllm" and (self.device != "cpu" or self.positions):
            raise ConfigError(
                "--backend vllm",
                "decodes where its own options say, not where --device and --positions do",
                "leave them out, and give vLLM's as --vllm-args",
            )
        if self.device != "cpu":
            from onnuri.inference import device  # here, for torch is slow to import

            device.find(self.device)
        if (self.backend == "vllm") != bool(self.vllm_python) or (
            self.vllm_args and self.backend != "vllm"
        ):
            raise ConfigError(
                f"--backend {self.backend}",
                "and --vllm-python belong together, and --vllm-args to both",
                "give both or neither",
            )

    @property
    def aliases(self) -> dict[str, str]:
        """Return the names of served models by their other names."""
        return dict(pair.split("=", 1) for pair in self.alias)

    @property
    def limits(self) -> Limits:
        """Return the limits on files that are read."""
        return Limits(
            file_bytes=self.body_bytes,
            pixels=self.pixels,
            side=8192,
            frame_side=2048,
            seconds=self.seconds,
            faces=self.faces,
        )

    @property
    def url(self) -> str:
        """Return the SQLAlchemy URL of the database."""
        return self.database or f"sqlite:///{self.data / 'onnuri.db'}"

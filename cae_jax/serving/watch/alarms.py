"""Alarms: a command, and a webhook, for each image that is one.

They wait in the journal, where they are committed with the image's row, and leave it when they are
delivered: what a restart interrupts is delivered after it, so that an alarm comes at least once,
and its id tells one that comes twice. Each kind has a thread of its own; judging never waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from typing import IO, Any

from cae_jax.runs.machine.progress import say
from cae_jax.serving.watch.journal import Journal
from cae_jax.serving.watch.options import Options, words

COMMAND, WEBHOOK = "command", "webhook"
FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds after a failure, doubled each time
_HOPELESS = (400, 413, 415, 422)  # answers that this alarm will get for ever
_LATER = "; tried again later"


class Alarms:
    """Delivers the alarms of a journal; a context manager."""

    def __init__(self, journal: Journal, options: Options) -> None:
        """Takes what is asked for from the options."""
        self._journal, self._options = journal, options
        self._ways: dict[str, Callable[[str], str]] = {}
        if options.alarm_command:
            self._ways[COMMAND] = self._run
        if options.webhook:
            self._ways[WEBHOOK] = self._post
        self._awake = {kind: threading.Event() for kind in self._ways}
        self._leaving = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of alarms that are asked for."""
        return tuple(self._ways)

    def wake(self) -> None:
        """Says that alarms were recorded."""
        for event in self._awake.values():
            event.set()

    def __enter__(self) -> Alarms:
        """Begins with what an earlier start left."""
        self._threads = [
            threading.Thread(target=self._deliver, args=(kind,), daemon=True) for kind in self._ways
        ]
        for thread in self._threads:
            thread.start()
        self.wake()
        return self

    def __exit__(self, *_: object) -> None:
        """Waits until each waiting alarm was tried, but not longer than one may take."""
        self._leaving.set()
        self.wake()
        for thread in self._threads:
            thread.join(self._options.alarm_seconds + 1)

    def _deliver(self, kind: str) -> None:
        wait = FIRST_WAIT
        while True:
            self._awake[kind].wait()
            self._awake[kind].clear()
            with contextlib.suppress(sqlite3.Error):  # of a full disk; the next one tries again
                while alarm := self._journal.next_alarm(kind):
                    number, body = alarm
                    if cause := self._ways[kind](body):
                        say(f"warning: {kind}, image {number}: {cause}")
                    if not cause.endswith(_LATER):
                        self._journal.delivered(number, kind)
                        wait = FIRST_WAIT
                    elif self._leaving.wait(wait):
                        return
                    else:
                        wait = min(2 * wait, _LONGEST_WAIT)
            if self._leaving.is_set():
                return

    def _run(self, body: str) -> str:
        """Runs the command; returns what went wrong, which is not tried again."""
        facts = json.loads(body)
        environment = {f"CAE_JAX_{name.upper()}": _text(value) for name, value in facts.items()}
        command = words(self._options.alarm_command)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | environment,
                start_new_session=True,  # Ctrl-C is not for it, and its children end with it
            )
        except (OSError, ValueError) as error:
            return f"{command[0]}: {error}"
        try:
            process.communicate(body.encode(), timeout=self._options.alarm_seconds)
        except subprocess.TimeoutExpired:
            if hasattr(os, "killpg"):
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
            else:  # Windows: the command alone
                process.kill()
            process.wait()
            return f"{command[0]}: not ended after {self._options.alarm_seconds:g} s, killed"
        return f"{command[0]}: exit code {process.returncode}" if process.returncode else ""

    def _post(self, body: str) -> str:
        """Posts an alarm; returns what went wrong, ending in _LATER if it is to be tried again."""
        request = urllib.request.Request(
            self._options.webhook,
            body.encode(),
            {"Content-Type": "application/json", "Idempotency-Key": json.loads(body)["id"]},
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self._options.alarm_seconds):
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            ending = "; not tried again" if error.code in _HOPELESS else _LATER
            return f"{self._options.webhook} answers {error.code}{ending}"
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            return f"{self._options.webhook}: {' '.join(str(reason).split())}{_LATER}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET that says nothing."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Takes the redirect as an answer."""


def _text(value: Any) -> str:
    """A fact as an environment variable."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)

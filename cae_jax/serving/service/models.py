"""The service's models by name, each replaced when its exported folder is."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cae_jax.runs.machine.progress import say
from cae_jax.serving.detector import Detector
from cae_jax.serving.service.options import Options
from cae_jax.serving.service.window import Window
from cae_jax.serving.service.worker import BusyError, Seats, Worker
from cae_jax.types import CaeError, UsageError, unknown_name

LOOK = 1.0  # seconds between two looks at the folders

_Tree = tuple[tuple[str, int, int, int], ...]  # path, inode, size and time of each file


class Served(NamedTuple):
    """A loaded model."""

    name: str
    detector: Detector
    worker: Worker
    window: Window
    lost: list[str]  # what the log was told of images that lose their shape or borders


class Models:
    """Detectors by name.

    `start` loads them in a thread, which then looks at their folders every LOOK seconds. Of a
    folder whose files were replaced the new model is loaded and warmed up beside the old one, and
    then takes its place; requests under way end on the old one. One that cannot be loaded changes
    nothing. A run's workdir is loaded once.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        load: Callable[[Path], Detector],
        options: Options,
    ) -> None:
        """Takes the models' folders by name, and what loads one."""
        self._folders, self._load, self._options = dict(folders), load, options
        self._served: dict[str, Served] = {}
        self._tried: dict[str, _Tree] = {}  # the folder that was loaded, or could not be
        self._seen: dict[str, _Tree] = {}  # at the last look
        self._retired: list[Worker] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.reloads: Counter[tuple[str, str]] = Counter()  # by name, and "ok" or "failed"

    @property
    def names(self) -> list[str]:
        """The names of all models, loaded or not."""
        return list(self._folders)

    @property
    def ready(self) -> bool:
        """Whether all models are loaded and warmed up."""
        return len(self._served) == len(self._folders)

    @property
    def served(self) -> list[Served]:
        """The models that are loaded."""
        return list(self._served.values())

    def name_of(self, asked: str | None) -> str:
        """Returns the name of the model asked for; of None, the only one.

        Raises UsageError for a name that there is not, and for None of several.
        """
        if asked is None and len(self._folders) > 1:
            raise UsageError(f"say which model: model=NAME, of {', '.join(self._folders)}")
        name = next(iter(self._folders)) if asked is None else asked
        if name not in self._folders:
            raise unknown_name("model", name[:200], self._folders)
        return name

    def get(self, name: str) -> Served:
        """Returns a model by its name; raises BusyError while it is being loaded."""
        if name not in self._served:
            raise BusyError(f"model {name!r} is being loaded")
        return self._served[name]

    @contextlib.contextmanager
    def seats(self, name: str, n: int) -> Iterator[tuple[Served, Seats]]:
        """Yields the model, and seats of its worker for n images, until the block ends.

        Raises BusyError while it is being loaded and when too few seats are left.
        """
        while True:
            served = self.get(name)
            seats = served.worker.book(n)
            if seats is not None:  # else it was replaced between these two lines
                break
        try:
            yield served, seats
        finally:
            seats.leave()

    def start(self, failed: Callable[[CaeError], None]) -> None:
        """Loads the models in a thread and watches their folders; `failed` hears of a first load
        that fails."""
        self._thread = threading.Thread(target=self._run, args=(failed,), daemon=True)
        self._thread.start()

    def load(self) -> None:
        """Loads all models that are not loaded, here and now; raises what loading raises."""
        for name, folder in self._folders.items():
            if name not in self._served and not self._stop.is_set():
                self._tried[name] = _tree(folder)
                self._put(name)

    def look(self) -> None:
        """Looks at the folders once, and loads what has changed and then stayed for one look."""
        for name, folder in self._folders.items():
            tree = _tree(folder)
            settled, self._seen[name] = tree == self._seen.get(name), tree
            if not tree or not settled or tree == self._tried.get(name):
                continue
            self._tried[name] = tree
            try:
                self._put(name)
            except Exception as error:  # whatever is wrong with it, the old one goes on
                self.reloads[name, "failed"] += 1
                say(f"model {name}: the old one stays, the new one cannot be loaded: {error}")
            else:
                self.reloads[name, "ok"] += 1

    def close(self) -> None:
        """Stops looking and waits until all that is under way is judged."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for worker in [*self._retired, *(each.worker for each in self.served)]:
            worker.retire()
            worker.join()

    def _run(self, failed: Callable[[CaeError], None]) -> None:
        try:
            self.load()
        except CaeError as error:
            failed(error)
        except Exception as error:
            failed(CaeError(f"a model cannot be loaded: {type(error).__name__}: {error}"))
        while not self._stop.wait(LOOK):
            self.look()

    def _put(self, name: str) -> None:
        detector = self._load(self._folders[name])
        detector.warm_up()
        worker = Worker(detector, self._options.queue, self._options.max_wait)
        old = self._served.get(name)
        self._served[name] = Served(name, detector, worker, Window(detector.judge), [])
        version = f", version {detector.model.version}" if detector.model.version else ""
        say(f"model {name}: {detector.model.title}{version} is ready")
        if old is not None:
            old.worker.retire()
            self._retired = [each for each in self._retired if each.taken] + [old.worker]


def _tree(folder: Path) -> _Tree:
    """What tells a folder's content from another one's; () where it is no exported one."""
    found = []
    try:
        os.stat(folder / "model.json")
        for root, folders, names in os.walk(folder):
            folders.sort()
            for path in (os.path.join(root, name) for name in sorted(names)):
                stat = os.stat(path)
                found.append((path, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except OSError:  # also one that is just being replaced
        return ()
    return tuple(found)

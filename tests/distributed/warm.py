"""Starts `python -m MODULE ...` as subprocess does, in milliseconds: forked where torch and torchrec are there already.

    process = warm.Popen(command(config), env=environment(), cwd=folder, stdout=PIPE)    # the arguments of subprocess
    done = warm.run(command(config), env=environment(), cwd=folder, capture_output=True, timeout=60)

A launcher is forked from the server of ranks.py, and where its torchrun would start a rank's interpreter, the launcher
forks. Each is what the command makes it: own arguments, environment, folder, session, signals and files, exit code, and
its module run by `runpy`, as `-m` does. What it does not show is the import of the libraries and of what is below
`jobs`: their time, their warnings, and what may be told before they are there. Tests of that use subprocess.
"""

import atexit
import contextlib
import gc
import importlib
import importlib.util
import inspect
import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from multiprocessing import reduction
from types import ModuleType
from typing import Any, NoReturn

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.elastic.rendezvous import dynamic_rendezvous

from tests.distributed.ranks import OWN, fork_server

ANEW = ("jobs", "tests", "sitecustomize")
"""Packages that each process imports for itself."""
_preloaded: dict[str, ModuleType] = {}
"""Those of ours that the server has imported, as no test has patched them."""
_given = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
_filters = list(warnings.filters)


class Popen(subprocess.Popen[Any]):
    """A process forked from the fork server, which reaps it and tells its exit code."""

    def _execute_child(self, *given: Any) -> None:
        asked = _given.bind(self, *given).arguments
        files = [_File(asked[name] if asked[name] != -1 else number) for number, name in _FILES]
        arguments = (asked["args"], asked["env"], asked["cwd"], asked["start_new_session"], files)
        self._process = fork_server.Process(target=_launcher, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid, self._child_created = self._process.pid, True
        self._close_pipe_fds(*(asked[name] for name in _PIPES))  # type: ignore[attr-defined]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            self.returncode = self._process.exitcode
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        self._process.join(timeout)
        if self._internal_poll() is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


class _Rank(subprocess.Popen[Any]):
    """A process forked from this one."""

    def _execute_child(self, *given: Any) -> None:
        asked = _given.bind(self, *given).arguments
        files = [asked[name] if asked[name] != -1 else number for number, name in _FILES]
        sys.stdout.flush()
        sys.stderr.flush()
        # a signal that comes at once must not meet the launcher's handlers in the rank
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.pid = os.fork()
        if self.pid == 0:
            self._become(asked, files)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in _PIPES))  # type: ignore[attr-defined]

    def _become(self, asked: dict[str, Any], files: Sequence[int]) -> NoReturn:
        _become(asked["args"], asked["env"], asked["cwd"], asked["start_new_session"], files, forks=False)


class Nested(_Rank):
    """A launcher forked from a process that was itself forked warm; what such a process starts jobs with."""

    def _become(self, asked: dict[str, Any], files: Sequence[int]) -> NoReturn:
        if asked["preexec_fn"] is not None:
            asked["preexec_fn"]()
        _launcher(asked["args"], asked["env"], asked["cwd"], asked["start_new_session"], files)


_FILES = ((1, "c2pwrite"), (2, "errwrite"))
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def run(
    arguments: Sequence[str], *, timeout: float, capture_output: bool = False, check: bool = False, **more: Any
) -> subprocess.CompletedProcess[Any]:
    """subprocess.run."""
    if capture_output:
        more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(arguments, **more) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class _File:
    """An open file, to be handed to a process of the fork server."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (reduction.DupFd(self.number),)


def _inherited(handed: Any) -> int:
    return handed.detach()


def _launcher(*arguments: Any) -> NoReturn:
    setattr(subprocess_handler, "Popen", _Rank)  # noqa: B010 - what torchrun starts a rank with
    # it names the caller in a record that nobody reads, from every module there is: a second of a launch
    setattr(dynamic_rendezvous, "get_method_name", lambda depth=0: "")  # noqa: B010
    _become(*arguments, forks=True)


def _become(
    command: Sequence[Any],
    environment: dict[str, str] | None,
    folder: Any,
    session: bool,
    files: Sequence[int],
    forks: bool,
) -> NoReturn:
    """Turns a forked process into what the command, [python, "-u"?, "-m", MODULE, ...], makes of a new one."""
    code = 1
    try:
        _as_new(environment, folder, session, files, unbuffered=command[1] == "-u")
        _take_modules(forks)
        dash, module, *arguments = map(str, command[2 if command[1] == "-u" else 1 :])
        assert dash == "-m", command
        code = _run(module, arguments)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _as_new(
    environment: dict[str, str] | None, folder: Any, session: bool, files: Sequence[int], unbuffered: bool
) -> None:
    gc.freeze()  # what the old process holds stays as it is: its files are closed below
    atexit._clear()
    logging.disable(logging.NOTSET)
    warnings.filters[:] = _filters  # type: ignore[index]
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a command in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if session:
        os.setsid()
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number + 1000)  # first out of each other's way
    for number in (1, 2):
        os.dup2(number + 1000, number)
    os.closerange(3, 1 << 12)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = open(number, "wb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
        setattr(sys, name, io.TextIOWrapper(file, "utf-8", write_through=unbuffered, line_buffering=number == 2))
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
    here = [] if os.environ.get("PYTHONSAFEPATH") else [os.getcwd()]
    sys.path[:0] = [*here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def _take_modules(forks: bool) -> None:
    """Those of the server; new ones where tests patch a process that forks others, which are to have the server's."""
    own = {name: module for name, module in sys.modules.items() if name.split(".")[0] in (*ANEW, *OWN)}
    for name in own:
        del sys.modules[name]
    if not _preloaded:  # the first process of this line: as the server has them
        _preloaded.update({name: module for name, module in own.items() if name.split(".")[0] in OWN})
    if not forks or importlib.util.find_spec("sitecustomize") is None:
        sys.modules.update(_preloaded)
    with contextlib.suppress(ImportError):
        importlib.import_module("sitecustomize")


def _run(module: str, arguments: list[str]) -> int:
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0

"""Settings -> a running web service: the function behind `clipret serve`."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable

from clipret.config import ServeConfig
from clipret.errors import UsageError
from clipret.exports.packages import require_package
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.runs import reason
from clipret.service.opening import open_searcher
from clipret.service.searching import Searcher
from clipret.service.terms import Term

_PACKAGES = ("starlette", "uvicorn", "prometheus_client")
# For requests in flight, once it is to stop.
_GRACE_SECONDS = 10
_BACKLOG = 512


def _nothing(*_: str) -> None:
    """What is done where nobody listens."""


class Service:
    """A service whose port is taken and whose encoder is loaded; `run` answers until it is stopped.

    url  of the page
    """

    def __init__(self, searcher: Searcher, config: ServeConfig, *, port: socket.socket):
        from clipret.service.web.state import State

        self._state, self._config, self._port = State(searcher, config), config, port
        self._stop: Callable[[], None] | None = None
        host = config.host.strip("[]")
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port.getsockname()[1]}/"

    @property
    def marks(self) -> str:
        """Where marks are kept."""
        return str(self._state.marks.path)

    def run(self, *, log: Callable[[str], None] = _nothing, on_ready: Callable[[], None] = _nothing) -> None:
        """Answer requests until `stop`, Ctrl-C or SIGTERM; those in flight are answered first, for up to 10 seconds.

        log       called with a line for every error of ours
        on_ready  called once it answers

        Raises UsageError when another process listens on the port by now.
        """
        try:
            asyncio.run(self._run(log, on_ready))
        finally:
            self.close()

    def close(self) -> None:
        """Give the port back, of a service that was never run."""
        self._port.close()

    def stop(self) -> None:
        """End `run`, from any thread."""
        if self._stop is not None:
            # It may just have ended.
            with contextlib.suppress(RuntimeError):
                self._stop()

    async def _run(self, log: Callable[[str], None], on_ready: Callable[[], None]) -> None:
        import uvicorn

        from clipret.service.web.access import Rules
        from clipret.service.web.app import make_app
        from clipret.service.web.connections import PatientProtocol

        config = self._config
        hosts = tuple(name.lower() for name in (*config.allow_host, config.host))
        app = make_app(self._state, rules=Rules(config.token, hosts, config.cors), log=log)
        settings = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = _quiet_server(settings, on_ready)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.should_exit = True

        self._stop = lambda: loop.call_soon_threadsafe(stop)
        for number in (signal.SIGINT, signal.SIGTERM):
            # In another thread, or on Windows, there are no such handlers.
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, stop)
        try:
            self._port.listen(_BACKLOG)
        # Another process may have bound it as well, and listened first.
        except OSError as error:
            raise _not_listening(config, error) from None
        try:
            await server.serve(sockets=[self._port])
        finally:
            app.close()


def _quiet_server(settings, on_ready: Callable[[], None]):
    import uvicorn

    class Server(uvicorn.Server):
        """One that leaves signals to us."""

        @contextlib.contextmanager
        def capture_signals(self):
            """None."""
            yield

        async def startup(self, sockets=None) -> None:
            """Listen, then say so."""
            await super().startup(sockets=sockets)
            on_ready()

    return Server(settings)


def open_service(config: ServeConfig, *, on_progress: ProgressCallback = silent) -> Service:
    """Take the port, embed the gallery, load the encoder: all that can fail, before anyone is answered.

    on_progress  called while the gallery is embedded, with phase "embeddings"

    Raises UsageError when the port is taken or a package is missing, and as search does.
    """
    require_package(_PACKAGES, extra="serve", option="clipret serve")
    port = _taken(config)
    try:
        searcher, _ = open_searcher(config, [*config.head, None], split=config.split, on_progress=on_progress)
        service = Service(searcher, config, port=port)
        for place, head in enumerate(searcher.heads.values(), start=1):
            # Loads the encoder, and computes once what is slow the first time.
            for side in head.kept:
                queries = searcher.embed([(Term(words="a"),), (Term(words="a + b"),)], head.name)
                searcher.search(queries, head=head.name, side=side, k=1)
            on_progress(Progress("heads", place, len(searcher.heads)))
        return service
    except BaseException:
        port.close()
        raise


def serve(config: ServeConfig, *, on_progress: ProgressCallback = silent, log: Callable[[str], None] = print) -> None:
    """Serve searches of a cache, with a page, until Ctrl-C. Settings and errors as of open_service."""
    open_service(config, on_progress=on_progress).run(log=log)


def _taken(config: ServeConfig) -> socket.socket:
    """The port, bound but not listening yet."""
    host = config.host.strip("[]")
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, config.port, type=socket.SOCK_STREAM)[0]
        port = socket.socket(family, kind, number)
        try:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(address)
        except BaseException:
            port.close()
            raise
    except OSError as error:
        raise _not_listening(config, error) from None
    return port


def _not_listening(config: ServeConfig, error: OSError) -> UsageError:
    return UsageError(f"cannot listen on {config.host} port {config.port}: {reason(error)}; give another --port.")

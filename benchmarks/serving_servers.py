"""The servers that `serving.py` measures, each in a process of its own; it prints `ready` once it answers.

Annotations are values here, not texts: FastAPI must read them in the replicas, too.

python benchmarks/serving_servers.py uvicorn --port 8100
python benchmarks/serving_servers.py chain --port 8100
python benchmarks/serving_servers.py ragray --port 8100 --served served.json
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request


def echo_api() -> Any:
    """FastAPI with one route that gives a JSON body back."""
    api = FastAPI()

    @api.post("/echo")
    async def echo(request: Request) -> Any:
        return await request.json()

    return api


def serve_uvicorn(args: argparse.Namespace) -> None:
    """The least that HTTP and FastAPI cost: no Ray."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready()

    Server(uvicorn.Config(echo_api(), port=args.port, log_level="error", access_log=False)).run()


def serve_chain(args: argparse.Namespace) -> None:
    """Serve as it comes: its proxy, a FastAPI ingress, a handle, a second deployment that gives the body back."""
    import ray
    from ray import serve

    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": args.port}, logging_config={"enable_access_log": False})
    api = FastAPI()

    @serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    class Echo:
        async def __call__(self, body: Any) -> Any:
            return body

    @serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    @serve.ingress(api)
    class Ingress:
        def __init__(self, echo: Any) -> None:
            self._echo = echo

        @api.post("/echo")
        async def echo(self, request: Request) -> Any:
            return await self._echo.remote(await request.json())

    serve.run(Ingress.bind(Echo.bind()), route_prefix="/", logging_config={"enable_access_log": False})
    ready()
    wait()


def serve_ragray(args: argparse.Namespace) -> None:
    """ragray's application as `ragray serve` runs it."""
    from ragray.config import EngineConfig, ServeConfig
    from ragray.serve.app import serve_parts
    from ragray.serve.artifacts import Served

    told = json.loads(args.served.read_text(encoding="utf-8"))
    settings = ServeConfig(port=args.port, **told["settings"])
    engine = EngineConfig(**told["engine"])
    serve_parts(Served(**told["served"]), "ragray", settings, engine, block=True, report=lambda _: ready())


def ready() -> None:
    """Tell whoever started this process."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def wait() -> None:
    """Until the process is ended."""
    while True:
        time.sleep(3600)


SERVERS = {"uvicorn": serve_uvicorn, "chain": serve_chain, "ragray": serve_ragray}


def main() -> None:
    """Run one server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("server", choices=sorted(SERVERS))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served", type=Path)
    args = parser.parse_args()
    SERVERS[args.server](args)


if __name__ == "__main__":
    main()

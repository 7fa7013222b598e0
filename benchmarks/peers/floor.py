"""The floor: uvicorn alone. Reads a body, parses it, answers as many bytes as the predictor did; has no model.

python -m benchmarks.peers.floor --port 8080 --answers '{"617": 205}'
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import orjson
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send


def floor(answers: dict[int, int]) -> ASGIApp:
    """An ASGI 3 app with the length of the answer to each length of a body."""
    bodies = {request: b"0" * answer for request, answer in answers.items()}
    heads = {
        request: [(b"content-type", b"application/json"), (b"content-length", str(answer).encode())]
        for request, answer in answers.items()
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        chunks, more = [], True
        while more:
            message = await receive()
            chunks.append(message["body"])
            more = message["more_body"]
        body = b"".join(chunks)
        for name, value in scope["headers"]:
            if name == b"inference-header-content-length":
                orjson.loads(body[: int(value)])
                np.frombuffer(body, offset=int(value))
                break
        else:
            orjson.loads(body)
        await send({"type": "http.response.start", "status": 200, "headers": heads[len(body)]})
        await send({"type": "http.response.body", "body": bodies[len(body)]})

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answers", type=json.loads, required=True)
    options = parser.parse_args()
    uvicorn.run(
        floor({int(request): answer for request, answer in options.answers.items()}),
        interface="asgi3",
        port=options.port,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )

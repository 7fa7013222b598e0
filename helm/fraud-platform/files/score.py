"""Score a transaction and wait until the detector has it; a first model may still be in training."""

import json
import os
import time
import uuid

from fraudkit.client import get, send
from fraudkit.errors import FraudError
from fraudkit.schema import INPUTS

name = f"helm-test-{uuid.uuid4().hex}"
row = dict.fromkeys(INPUTS, 0.0) | {"Time": time.time(), "Amount": 12.5, "id": name}
since = str(time.time() - 60)


def scored() -> object:
    """The model's answer."""
    return json.loads(send("POST", os.environ["MODEL"] + "/v1/models/fraud:predict", {"instances": [row]}))


def logged() -> object:
    """The transaction, as the detector has it."""
    newest = json.loads(get(os.environ["DETECTOR"] + "/v1/transactions", {"since": since, "limit": "1000"}))
    return next(one for one in newest["transactions"] if one["id"] == name)


for what in (scored, logged):
    said = ""
    while True:
        try:
            print(what.__name__, json.dumps(what()), flush=True)  # noqa: T201
            break
        except (FraudError, StopIteration) as error:
            if str(error) != said:
                said = str(error)
                print("not yet", what.__name__, said, flush=True)  # noqa: T201
            time.sleep(2)

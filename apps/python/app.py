"""Polls: ask a question, let people vote, see the count. One file, no framework."""

import json
import uuid

from firm import Request, Response, env, kv


# Called once for every request. Each call runs in a fresh instance, so globals keep nothing: what shall last goes
# into a bucket. Buckets are opened in here because this file's top level already runs while the app is being built.
def handle(request: Request) -> Response:
    match request.method, request.path.strip("/").split("/"):
        case "GET", [""]:
            return Response.json({"message": f"{env.get('GREETING', 'Hello')}! POST a question to /polls"})
        case "GET", ["polls"]:
            return Response.json([key for key in sorted(kv("polls").keys()) if "." not in key])
        case "POST", ["polls"]:
            return ask(request)
        case "GET", ["polls", poll]:
            return count(poll)
        case "POST", ["polls", poll]:
            return vote(poll, request.text().strip())
    return refuse(404, f"there is nothing at {request.path}")


def ask(request: Request) -> Response:
    try:
        asked = request.json()
        question, choices = str(asked["question"]), [str(choice) for choice in asked["choices"]]
    except (ValueError, KeyError, TypeError):
        return refuse(400, 'send {"question": "…", "choices": ["…", "…"]}')
    poll = uuid.uuid4().hex[:8]
    kv("polls").set(poll, json.dumps({"question": question, "choices": choices}).encode())
    print(f"asked {poll}")  # `firm logs -f` shows it
    return Response.json({"poll": f"/polls/{poll}"}, status=201)


# A counter for each choice, raised by the bucket itself: two people who vote at the same moment are both counted,
# where a number that is read, raised and written back here would lose one of them.
def vote(poll: str, choice: str) -> Response:
    asked = read(poll)
    if asked is None or choice not in asked["choices"]:
        return refuse(404, f"poll {poll} has no choice {choice}")
    kv("polls").increment(f"{poll}.{choice}")
    return Response(status=204)


def count(poll: str) -> Response:
    asked = read(poll)
    if asked is None:
        return refuse(404, f"no poll {poll}")
    bucket = kv("polls")
    # Adding nothing reads a counter, whatever form the bucket keeps numbers in.
    votes = {choice: bucket.increment(f"{poll}.{choice}", 0) for choice in asked["choices"]}
    return Response.json({"question": asked["question"], "votes": votes})


def read(poll: str) -> dict | None:
    value = None if "." in poll else kv("polls").get(poll)
    return value and json.loads(value)


def refuse(status: int, error: str) -> Response:
    return Response.json({"error": error}, status)

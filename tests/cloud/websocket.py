"""A WebSocket client hears what is wrong: websocket.py AUTHORITY HOST PORT"""

import asyncio
import ssl
import sys

import websockets


async def main(authority, host, port):
    context = ssl.create_default_context(cafile=authority)
    try:
        async with websockets.connect(f"wss://{host}:{port}/", ssl=context, host="127.0.0.1", port=int(port)):
            raise AssertionError("there is no WebSocket here")
    except websockets.InvalidStatus as refused:
        answer = refused.response
    assert answer.status_code == 501, answer
    assert b"WebSocket" in answer.body, answer.body
    print(f"refused: {answer.status_code}")


asyncio.run(main(*sys.argv[1:]))

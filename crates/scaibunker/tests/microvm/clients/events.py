"""Runs a command and reads its events with an EventSource client."""

import json
import os
import sys
import urllib.request

import sseclient

bunker, command = sys.argv[1:]
request = urllib.request.Request(
    f"{os.environ['SCAIBUNKER_URL']}/v1/modules/scaibunker/bunkers/{bunker}/exec",
    data=json.dumps({"command": command, "stream": True}).encode(),
    headers={
        "Authorization": f"Bearer {os.environ['SCAIBUNKER_API_KEY']}",
        "Content-Type": "application/json",
    },
)
with urllib.request.urlopen(request, timeout=60) as answer:
    for event in sseclient.SSEClient(answer).events():
        if event.data == "[DONE]":
            print(event.data)
            break
        data = json.loads(event.data)
        if event.event in ("stdout", "stderr"):
            assert event.id == str(data["seq"]), (event.id, data)
            print(data["text"], end="")
        elif event.event == "exit":
            print("exit", data["exit_code"])
        else:
            print(event.event)

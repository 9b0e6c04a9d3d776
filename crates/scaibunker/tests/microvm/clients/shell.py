"""Shells over WebSocket: each function is one scenario and asserts what it expects."""

import asyncio
import contextlib
import json
import os
import sys

import websockets

ADDRESS = os.environ["SCAIBUNKER_URL"].replace("http://", "ws://", 1)
KEY = os.environ["SCAIBUNKER_API_KEY"]


def connect(bunker, query="", **options):
    address = f"{ADDRESS}/v1/modules/scaibunker/bunkers/{bunker}/shell?{query}"
    options.setdefault("extra_headers", {"Authorization": f"Bearer {KEY}"})
    return websockets.connect(address, open_timeout=30, **options)


class Shell:
    """What a socket has said so far."""

    def __init__(self, socket):
        self.socket, self.text, self.control = socket, "", []

    async def step(self):
        message = await asyncio.wait_for(self.socket.recv(), 30)
        if isinstance(message, bytes):
            self.text += message.decode(errors="replace")
        else:
            self.control.append(json.loads(message))

    async def until(self, words):
        while words not in self.text:
            await self.step()

    async def ready(self):
        while not self.control:
            await self.step()
        assert self.control[0]["type"] == "ready", self.control
        return self.control[0]["shell_id"]

    async def end(self):
        while not any(message["type"] in ("exit", "error") for message in self.control):
            await self.step()
        return self.control[-1]


async def size_and_exit(bunker, _):
    async with connect(bunker, "cols=91&rows=33&command=stty+size%3B+read+x%3B+stty+size%3B+exit+7") as socket:
        shell = Shell(socket)
        await shell.ready()
        await shell.until("33 91")
        await socket.send(json.dumps({"type": "resize", "cols": 120, "rows": 50}))
        # The resize is a call of its own; what is typed may overtake it.
        await asyncio.sleep(0.2)
        await socket.send(b"\n")
        await shell.until("50 120")
        assert await shell.end() == {"type": "exit", "exit_code": 7}


async def signals(bunker, _):
    async with connect(bunker) as socket:
        shell = Shell(socket)
        await shell.ready()
        await socket.send(b"echo go-$((1+1)); sleep 300; echo after=$?\n")
        await shell.until("go-2")
        await socket.send(b"\x03")
        await socket.send(b"trap 'echo got-$((40+2))' USR1; echo set-$((1+1))\n")
        await shell.until("set-2")
        await socket.send(json.dumps({"type": "signal", "signal": "SIGUSR1"}))
        await socket.send(b"\n")
        await shell.until("got-42")
        # A key that arrives with the signal may end up as part of the line, or nowhere: this shell
        # is about to read one. So the line is cleared first, and typed until it is read.
        ending = None
        for _ in range(10):
            await socket.send(b"\x15exit 9\n")
            with contextlib.suppress(asyncio.TimeoutError):
                ending = await asyncio.wait_for(shell.end(), 3)
                break
        assert ending == {"type": "exit", "exit_code": 9}, ending


async def reconnect(bunker, _):
    async with connect(bunker) as socket:
        shell = Shell(socket)
        shell_id = await shell.ready()
        await socket.send(b"WORD=kept; echo said-$((1+1))\n")
        await shell.until("said-2")
    async with connect(bunker, f"shell_id={shell_id}") as socket:
        shell = Shell(socket)
        assert await shell.ready() == shell_id
        await shell.until("said-2")
        await socket.send(b"echo still-$WORD; exit 5\n")
        await shell.until("still-kept")
        assert await shell.end() == {"type": "exit", "exit_code": 5}
    first = await connect(bunker)
    shell = Shell(first)
    shell_id = await shell.ready()
    async with connect(bunker, f"shell_id={shell_id}") as second:
        assert await Shell(second).ready() == shell_id
        taken = await shell.end()
        assert taken["code"] == "SHELL_TAKEN_OVER", taken
    await first.close()


async def many(bunker, _):
    async def one(number):
        async with connect(bunker, "command=read+x%3B+echo+heard-$x") as socket:
            shell = Shell(socket)
            await shell.ready()
            await socket.send(f"{number}\n".encode())
            await shell.until(f"heard-{number}")
            assert (await shell.end())["exit_code"] == 0

    await asyncio.gather(*(one(number) for number in range(12)))


async def stopped_reader(bunker, server):
    def memory_mb():
        with open(f"/proc/{server}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    async with connect(bunker, "command=yes", max_queue=1, ping_interval=None) as socket:
        shell = Shell(socket)
        await shell.ready()
        await shell.until("y\r\ny\r\n")
        before = memory_mb()
        # Nothing is read for a while: the buffers on the way fill, and then `yes` waits.
        socket.transport.pause_reading()
        await asyncio.sleep(4)
        grown = memory_mb() - before
        assert grown < 24, f"the server grew by {grown:.0f} MiB"
        socket.transport.resume_reading()
        size = len(shell.text)
        while len(shell.text) < size + 1_000_000:
            await shell.step()


async def subprotocol(bunker, _):
    protocol = f"bearer.{KEY}"
    async with connect(
        bunker, "command=echo+hi", extra_headers={}, subprotocols=[protocol]
    ) as socket:
        assert socket.subprotocol == protocol
        shell = Shell(socket)
        await shell.ready()
        await shell.until("hi")
        assert (await shell.end())["exit_code"] == 0
    try:
        async with connect(bunker, extra_headers={}):
            raise AssertionError("a shell without a key")
    except websockets.InvalidStatusCode as refusal:
        assert refusal.status_code == 401, refusal


if __name__ == "__main__":
    name, bunker, server = sys.argv[1:]
    asyncio.run(globals()[name](bunker, server))
    print("ok")

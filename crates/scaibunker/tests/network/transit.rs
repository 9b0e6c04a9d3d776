//! `transit`: bunkers on bridges.

use http::Method;
use serde_json::{Value, json};

use crate::{
    internet::WORKER,
    lab::{self, Lab},
    server::eventually,
};

async fn bridge(lab: &Lab, name: &str) -> String {
    let workers = lab.server.call(Method::GET, "/workers", None).await;
    let worker = workers.data()[0]["id"].as_str().unwrap().to_owned();
    let mut command = lab.server.command();
    let output = command.args(["bridges", "add", name, "--worker", &worker]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A bunker with these interfaces: name, bridge, address.
async fn bunker(lab: &Lab, interfaces: &[(&str, &str, &str)], options: Value) -> String {
    let wanted: Vec<_> = interfaces
        .iter()
        .map(|(name, bridge, _)| json!({ "if_name": name, "bridge_name": bridge }))
        .collect();
    let mut network = json!({ "network_profile": "transit", "interfaces": wanted });
    network.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let id = lab.bunker(network).await;
    for (name, _, address) in interfaces {
        // The image has no `ip`; Python makes the same calls.
        lab.python(&id, &format!("{ADDRESS}address('{name}', '{address}')")).await.unwrap();
    }
    id
}

const ADDRESS: &str = r#"
import fcntl
def address(name, address):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    def request(text):
        return struct.pack('16sHH4s8x', name.encode(), socket.AF_INET, 0, socket.inet_aton(text))
    fcntl.ioctl(s, 0x8916, request(address))
    fcntl.ioctl(s, 0x891c, request('255.255.255.0'))

def route(net, gateway):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    def inet(text):
        return struct.pack('HH4s8x', socket.AF_INET, 0, socket.inet_aton(text))
    fcntl.ioctl(s, 0x890b, struct.pack('Q16s16s16sH6x', 0, inet(net), inet(gateway), inet('255.255.255.0'), 3) + b'\0' * 56)

"#;

/// Takes bytes from one sender, and says when it has them all.
const SINK: &str = r#"
import socket
c, _ = socket.create_server(("", 9000)).accept()
while c.recv(65536):
    pass
c.send(b"x")
"#;

/// Sends three million of them, and tells how long that took.
const SEND: &str = r#"
s = socket.create_connection(('10.2.0.2', 9000))
s.settimeout(30)
start = time.time()
s.sendall(b'x' * 3000000)
s.shutdown(socket.SHUT_WR)
s.recv(1)
print(time.time() - start)
"#;

const SERVE: &str = "nohup python3 -m http.server 8000 --directory /usr/share/misc > /dev/null 2>&1 & \
                     until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000))' 2> /dev/null; do sleep 0.1; done";

#[test]
fn bunkers_on_bridges_reach_each_other_through_a_router_and_nothing_else() {
    lab::run(&[], async |lab| {
        let (lan, _dmz) = (bridge(&lab, "lan").await, bridge(&lab, "dmz").await);
        let router =
            bunker(&lab, &[("in0", "lan", "10.1.0.1"), ("out0", "dmz", "10.2.0.1")], json!({}))
                .await;
        lab.sh(&router, "echo 1 > /proc/sys/net/ipv4/ip_forward").await.unwrap();
        let slow = json!({ "bandwidth_mbit": 8 });
        let inside = bunker(&lab, &[("eth0", "lan", "10.1.0.2")], slow).await;
        let outside = bunker(&lab, &[("eth0", "dmz", "10.2.0.2")], json!({})).await;
        lab.sh(&outside, SERVE).await.unwrap();
        let curl = "curl -sS --max-time 5 -o /dev/null -w '%{http_code}' http://10.2.0.2:8000/";
        assert!(lab.sh(&inside, curl).await.is_err(), "there is no route yet");
        for (id, net, gateway) in
            [(&inside, "10.2.0.0", "10.1.0.1"), (&outside, "10.1.0.0", "10.2.0.1")]
        {
            lab.python(id, &format!("{ADDRESS}route('{net}', '{gateway}')")).await.unwrap();
        }
        eventually("the router forwards", async || {
            lab.sh(&inside, curl).await.as_deref() == Ok("200")
        })
        .await;
        // It sends a megabyte a second.
        lab.sh(&outside, &format!("nohup python3 -c '{SINK}' > /dev/null 2>&1 &")).await.unwrap();
        eventually("the sink is there", async || {
            let sent = lab.python(&inside, SEND).await;
            let Ok(seconds) = sent.as_deref().unwrap_or_default().trim().parse::<f64>() else {
                return false;
            };
            assert!((2.5..8.0).contains(&seconds), "{seconds}");
            true
        })
        .await;
        // Nothing else is on these bridges.
        lab.internet.seen();
        let attempts = [("an address outside", "tcp('151.101.1.1', 4444)")];
        lab.none_gets_out(&inside, &attempts, &[]).await;
        // Not even the host, which would answer for any of its addresses.
        let who_has = |address: &str| format!("{FORGE}who_has('{address}')");
        assert!(lab.python(&inside, &who_has("10.1.0.1")).await.is_ok());
        assert!(lab.python(&inside, &who_has(WORKER)).await.is_err());
        let stays = lab.server.call(Method::DELETE, &format!("/bridges/{lan}"), None).await;
        assert_eq!(stays.error(), (409, "IN_USE"));
        for id in [&router, &inside, &outside] {
            lab.server.delete(id).await.data();
        }
        let devices = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        eventually("no cable is left", async || !devices().contains("sb")).await;
        assert!(devices().contains("lan:"));
        let gone = lab.server.call(Method::DELETE, &format!("/bridges/{lan}"), None).await;
        assert!(gone.status.is_success());
        assert!(!devices().contains("lan:"));
    });
}

/// Frames that a bunker may send, and the forged ones that its neighbour must not see.
const FRAMES: [(&str, &str, &str); 7] = [
    ("a hardware address", "frame()", "frame(source='02:aa:aa:aa:aa:aa')"),
    ("an ARP answer for another card", "arp()", "arp(claimed='02:aa:aa:aa:aa:aa')"),
    ("a neighbour advertisement", "advertise()", "advertise(claimed='02:aa:aa:aa:aa:aa')"),
    (
        "a neighbour advertisement behind another option",
        "advertise()",
        "advertise(claimed='02:aa:aa:aa:aa:aa', before=True)",
    ),
    ("a router advertisement", "advertise()", "advertise(kind=134)"),
    ("a DHCP server's answer", "udp4(68)", "udp4(67)"),
    ("a frame with a VLAN's tag", "frame()", "frame(tag=True)"),
];

const FORGE: &str = r#"
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
card.bind(('eth0', 0))
own = card.getsockname()[4]
everybody = b'\xff' * 6
MARK = b'look at this'

def mac(text):
    return bytes.fromhex(text.replace(':', '')) if text else own

def frame(source=None, tag=False):
    card.send(everybody + mac(source) + (b'\x81\0\0\7' if tag else b'') + b'\x88\xb5' + MARK)

def arp(claimed=None):
    claimed = mac(claimed)
    body = struct.pack('>HHBBH', 1, 0x800, 6, 4, 2) + claimed + bytes([10, 3, 0, 1]) + b'\0' * 6 + bytes([10, 3, 0, 9])
    card.send(everybody + own + b'\x08\x06' + body + MARK)

def advertise(claimed=None, before=False, kind=136):
    option = bytes([2, 1]) + mac(claimed)
    options = (bytes([14, 1]) + b'\0' * 6 if before else b'') + option
    # What is advertised is marked: bridges may cut off what comes behind a packet.
    message = struct.pack('>BBHI', kind, 0, 0, 0x20000000) + b'\xfe\x80\0\0' + MARK + options
    head = struct.pack('>IHBB', 0x60000000, len(message), 58, 255) + b'\xfe\x80' + b'\0' * 13 + b'\x07' + b'\xff\x02' + b'\0' * 13 + b'\x01'
    card.send(everybody + own + b'\x86\xdd' + head + message)

def who_has(address):
    body = struct.pack('>HHBBH', 1, 0x800, 6, 4, 1) + own + bytes([10, 1, 0, 2]) + b'\0' * 6 + socket.inet_aton(address)
    card.send(everybody + own + b'\x08\x06' + body)
    card.settimeout(0.5)
    end = time.time() + 3
    while time.time() < end:
        try:
            answer = card.recv(2000)
        except TimeoutError:
            continue
        if answer[12:14] == b'\x08\x06' and answer[20:22] == b'\0\2' and answer[28:32] == socket.inet_aton(address):
            return
    raise SystemExit('nobody has it')

def udp4(source):
    datagram = struct.pack('>HHHH', source, 68, 8 + len(MARK), 0) + MARK
    head = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(datagram), 7, 0, 64, 17, 0, bytes([10, 3, 0, 1]), b'\xff' * 4)
    total = sum(struct.unpack('>10H', head))
    total = ~((total & 0xffff) + (total >> 16)) & 0xffff
    card.send(everybody + own + b'\x08\0' + head[:10] + struct.pack('>H', total) + head[12:] + datagram)

"#;

/// Waits for a marked frame, and fails if none comes.
const LISTEN: &str = r#"
import subprocess, sys
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
card.bind(('eth0', 0))
card.settimeout(0.5)
open('/tmp/listens', 'w').close()
end = time.time() + 4
while time.time() < end:
    try:
        if b'look at this' in card.recv(2000):
            raise SystemExit(0)
    except TimeoutError:
        pass
raise SystemExit('no frame came')
"#;

#[test]
fn the_documentation_names_every_frame() {
    let text = include_str!("../../../../docs/network.md");
    for (name, ..) in FRAMES {
        assert!(text.contains(&format!("| on a bridge: {name} |")), "{name}");
    }
}

#[test]
fn a_guarded_bunker_speaks_for_itself_alone() {
    lab::run(&[], async |lab| {
        bridge(&lab, "lan").await;
        let sender = lab
            .bunker(json!({
                "network_profile": "transit",
                "interfaces": [{ "if_name": "eth0", "bridge_name": "lan", "mac": "02:00:00:00:00:07" }],
            }))
            .await;
        let open = lab
            .bunker(json!({
                "network_profile": "transit",
                "interfaces": [{ "if_name": "eth0", "bridge_name": "lan", "spoof_guard": false }],
            }))
            .await;
        let own = lab.sh(&sender, "cat /sys/class/net/eth0/address").await;
        assert_eq!(own.as_deref(), Ok("02:00:00:00:00:07\n"));
        let arrives = async |from: &str, to: &str, frame: &str| {
            lab.sh(to, "rm -f /tmp/listens").await.unwrap();
            let script = format!("{FORGE}\nfor n in range(3):\n    {frame}\n    time.sleep(0.1)\n");
            let send = async {
                eventually("the neighbour listens", async || {
                    lab.sh(to, "test -e /tmp/listens").await.is_ok()
                })
                .await;
                lab.python(from, &script).await.unwrap();
            };
            let (heard, ()) = tokio::join!(lab.python(to, LISTEN), send);
            heard.is_ok()
        };
        for (name, ordinary, forged) in FRAMES {
            assert!(arrives(&sender, &open, ordinary).await, "{name}: the ordinary one is lost");
            assert!(!arrives(&sender, &open, forged).await, "{name}: the forged one got through");
        }
        // Without its guard a bunker may send anything.
        assert!(arrives(&open, &sender, "frame(source='02:aa:aa:aa:aa:aa')").await);
    });
}

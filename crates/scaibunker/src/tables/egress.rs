//! What bunkers reached, as a table.

use comfy_table::Table;
use scaibunker_api::egress::{EgressEvent, EgressEventKind, EgressProtocol, EgressVerdict};

use super::{or_dash, table, time};

/// One line for each event.
pub fn egress_events(events: &[EgressEvent]) -> Table {
    table(
        ["TIME", "EVENT", "VERDICT", "NAME", "ADDRESS", "SENT", "RECEIVED", "REASON"],
        events.iter().map(|event| {
            let bytes =
                |bytes: Option<u64>| or_dash(bytes.map(|n| n.to_string()).unwrap_or_default());
            [
                time(event.at),
                format!("{} {}", protocol(event.protocol), kind(event.event)),
                verdict(event.verdict).to_owned(),
                or_dash(event.name.clone().unwrap_or_default()),
                match event.address {
                    Some(address) => std::net::SocketAddr::new(address, event.port).to_string(),
                    None => or_dash(String::new()),
                },
                bytes(event.sent_bytes),
                bytes(event.received_bytes),
                or_dash(event.reason.clone().unwrap_or_default()),
            ]
        }),
    )
}

fn kind(kind: EgressEventKind) -> &'static str {
    match kind {
        EgressEventKind::Lookup => "lookup",
        EgressEventKind::Opened => "opened",
        EgressEventKind::Closed => "closed",
    }
}

fn protocol(protocol: EgressProtocol) -> &'static str {
    match protocol {
        EgressProtocol::Dns => "dns",
        EgressProtocol::Tls => "tls",
        EgressProtocol::Http => "http",
        EgressProtocol::Tcp => "tcp",
        EgressProtocol::Udp => "udp",
    }
}

fn verdict(verdict: EgressVerdict) -> &'static str {
    match verdict {
        EgressVerdict::Allowed => "allowed",
        EgressVerdict::Refused => "refused",
        EgressVerdict::Failed => "failed",
    }
}

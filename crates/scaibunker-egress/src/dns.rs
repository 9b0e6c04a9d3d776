//! The resolver of bunkers: allowed names have addresses, and nothing else is answered.
//!
//! The kernel hands over whatever a bunker sends to port 53, so it makes no difference which server
//! it asks. Of an allowed name, a bunker with an allowlist learns the addresses that it may connect
//! to; other records would carry data past the list, and are empty.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use scaibunker_api::{egress::EgressProtocol, host_name::HostName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    Names,
    bunker::{Attempt, Bunker},
    dial::{Dialer, Refusal},
};

/// Where resolvers listen.
pub const DNS_PORT: u16 = 53;

/// Addresses are looked up again after this, whatever their own time to live.
const MAX_TTL_S: u64 = 300;

/// A stream on which nothing is asked for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Larger datagrams may be cut into fragments on their way (<https://www.dnsflagday.net/2020/>).
const MAX_DATAGRAM_BYTES: u16 = 1232;

/// How an answer gets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Datagram,
    Stream,
}

/// Answers the questions on a connection, one after the other.
pub async fn serve_stream(bunker: &Bunker, dialer: &Dialer, mut guest: TcpStream, aim: SocketAddr) {
    let Some(_talk) = bunker.talk() else { return };
    while let Ok(Ok(question)) = timeout(IDLE_LIMIT, read_framed(&mut guest)).await {
        let answer = answer(bunker, dialer, &question, aim, Transport::Stream).await;
        let Some(answer) = answer else { return };
        let length = (answer.len() as u16).to_be_bytes();
        if guest.write_all(&[&length[..], &answer].concat()).await.is_err() {
            return;
        }
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// The answer to one message; `None` if it is not to be answered.
pub async fn answer(
    bunker: &Bunker,
    dialer: &Dialer,
    message: &[u8],
    aim: SocketAddr,
    transport: Transport,
) -> Option<Vec<u8>> {
    let question = Message::from_vec(message).ok()?;
    if question.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.iter().cloned());
    match question.queries.as_slice() {
        [query] if question.metadata.op_code == OpCode::Query => {
            let name = query.name().to_ascii();
            let name = Some(name.strip_suffix('.').unwrap_or(&name).to_owned());
            let attempt = Attempt { protocol: EgressProtocol::Dns, name, aim };
            if !bunker.may_look_up() {
                bunker.refuse(&attempt, &Refusal::Lookups);
                return None;
            }
            match look_up(bunker, dialer, query, &attempt).await {
                Ok(records) => {
                    answer.add_answers(records);
                }
                Err(refusal) => {
                    answer.metadata.response_code = code_of(&refusal);
                    bunker.refuse(&attempt, &refusal);
                }
            }
        }
        _ => answer.metadata.response_code = ResponseCode::NotImp,
    }
    let max_bytes = match transport {
        Transport::Stream => u16::MAX,
        Transport::Datagram => question.max_payload().min(MAX_DATAGRAM_BYTES),
    };
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= usize::from(max_bytes) {
        return Some(bytes);
    }
    answer.truncate().to_vec().ok()
}

async fn look_up(
    bunker: &Bunker,
    dialer: &Dialer,
    query: &Query,
    attempt: &Attempt,
) -> Result<Vec<Record>, Refusal> {
    if query.query_class() != DNSClass::IN {
        return Err(Refusal::Protocol("it asks for a class other than IN"));
    }
    match &bunker.policy.names {
        Names::Any => {
            bunker.allow(attempt)?;
            let found = dialer.records(query.name().clone(), query.query_type()).await;
            let found = found.map_err(Refusal::Lookup)?;
            public(dialer, found.answers())
        }
        Names::Listed(_) => {
            let name = HostName::parse(&query.name().to_ascii()).ok_or(Refusal::Name)?;
            if !bunker.policy.names.allow(&name) {
                return Err(Refusal::Name);
            }
            bunker.allow(attempt)?;
            addresses(dialer, &name, query).await
        }
    }
}

/// Records that came from elsewhere, without addresses that cannot be connected to.
fn public(dialer: &Dialer, records: &[Record]) -> Result<Vec<Record>, Refusal> {
    let (mut kept, mut denied) = (Vec::new(), None);
    for record in records {
        let address = match &record.data {
            RData::A(A(address)) => Some(IpAddr::V4(*address)),
            RData::AAAA(AAAA(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        };
        match address.map(|address| dialer.addresses.check(address)) {
            Some(Err(why)) => denied = Some(why),
            _ => kept.push(record.clone()),
        }
    }
    denied.map_or(Ok(kept), |why| Err(Refusal::Address(why)))
}

/// Addresses of a name that is allowed; nothing for any other type of record.
async fn addresses(
    dialer: &Dialer,
    name: &HostName,
    query: &Query,
) -> Result<Vec<Record>, Refusal> {
    let kind = query.query_type();
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        return Ok(Vec::new());
    }
    let (addresses, valid_until) = dialer.resolve(name).await?;
    let ttl = valid_until.saturating_duration_since(Instant::now()).as_secs().clamp(1, MAX_TTL_S);
    let data = addresses.into_iter().map(|address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    });
    let data = data.filter(|data| data.record_type() == kind);
    Ok(data.map(|data| Record::from_rdata(query.name().clone(), ttl as u32, data)).collect())
}

fn code_of(refusal: &Refusal) -> ResponseCode {
    match refusal {
        // A name that does not exist is what programs give up on at once.
        Refusal::Name | Refusal::Address(_) => ResponseCode::NXDomain,
        Refusal::Lookup(error) if error.is_nx_domain() => ResponseCode::NXDomain,
        Refusal::Lookup(error) if error.is_no_records_found() => ResponseCode::NoError,
        Refusal::NoAddress => ResponseCode::NoError,
        Refusal::Lookup(_) | Refusal::Unrecorded => ResponseCode::ServFail,
        _ => ResponseCode::Refused,
    }
}

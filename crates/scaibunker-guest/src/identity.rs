//! Becoming unlike the template and every other clone of it.
//!
//! The kernel's boot id cannot be set: it is drawn when it is first read. The agent never reads it, so the
//! clone of a template draws its own after its entropy came. A copy of a guest that has been used may have
//! it already; another one is then mounted over it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    system::{sethostname, uname},
    time::{ClockId, Timespec, clock_settime},
};
use scaibunker_guest_protocol::{
    identity::{ENTROPY_BYTES, Identity},
    network::GuestNetwork,
};

use crate::{check, error::AgentError, network, root::BunkerRoot, root_files};

/// More than the kernel's pool holds is of no use.
const MAX_ENTROPY_BYTES: usize = 512;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Where programs look up the bunker's own name.
const HOST_ADDRESS: &str = "127.0.1.1";

/// In the bunker.
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
/// In the agent's own root.
const OWN_BOOT_ID: &str = "/boot_id";

const FRESH_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// The kernel's random number generator.
#[derive(Debug)]
pub struct EntropyPool {
    device: File,
}

#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    buffer_bytes: libc::c_int,
    buffer: [u8; MAX_ENTROPY_BYTES],
}

/// `_IOW('R', 0x03, int[2])` and `_IO('R', 0x07)` of the kernel's `random.h`.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

impl EntropyPool {
    pub fn open() -> io::Result<Self> {
        Ok(Self { device: File::open("/dev/urandom")? })
    }

    /// Adds bytes and has every generator draw its key anew.
    fn add(&self, entropy: &[u8]) -> io::Result<()> {
        let length = entropy.len().min(MAX_ENTROPY_BYTES);
        let mut info = PoolInfo {
            entropy_bits: (length * 8) as libc::c_int,
            buffer_bytes: length as libc::c_int,
            buffer: [0; MAX_ENTROPY_BYTES],
        };
        info.buffer[..length].copy_from_slice(&entropy[..length]);
        let fd = self.device.as_fd().as_raw_fd();
        // SAFETY: the kernel reads the header and `buffer_bytes` bytes, which `info` holds.
        check(unsafe { libc::ioctl(fd, RNDADDENTROPY, &raw const info) })?;
        // SAFETY: takes no argument.
        check(unsafe { libc::ioctl(fd, RNDRESEEDCRNG) })?;
        Ok(())
    }
}

const LOCAL_RESOLVER: &[u8] = b"nameserver 127.0.0.1\n";

/// Refuses what would leave the clone less than unique.
fn validate(identity: &Identity) -> Result<(), AgentError> {
    let invalid = |what: &str| Err(AgentError::Invalid(format!("the identity's {what}")));
    if identity.entropy.len() < ENTROPY_BYTES {
        return invalid("entropy is too short");
    }
    let name = identity.hostname.as_bytes();
    let is_plain = name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    if name.is_empty() || name.len() > 64 || !is_plain {
        return invalid("host name is not one");
    }
    let id = identity.machine_id.as_bytes();
    if id.len() != 32 || !id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return invalid("machine id is not 32 hexadecimal digits");
    }
    let is_uuid_byte = |b: u8| b == b'-' || b.is_ascii_hexdigit();
    if identity.boot_id.as_ref().is_some_and(|id| id.len() != 36 || !id.bytes().all(is_uuid_byte)) {
        return invalid("boot id is no UUID");
    }
    Ok(())
}

/// Makes `/etc/resolv.conf` where the image has none: programs that insist on one find one, and
/// a lookup without a network fails at once.
pub fn provide_resolver(root: &BunkerRoot) -> Result<(), AgentError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mode = Mode::from_raw_mode(0o644);
    match root_files::open(root.dir(), "etc/resolv.conf", flags, mode) {
        Ok(file) => rustix::io::write(file, LOCAL_RESOLVER).map(drop),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(AgentError::io("make /etc/resolv.conf"))
}

/// Applies all of `identity`, or fails.
pub fn apply(identity: &Identity, pool: &EntropyPool, root: &BunkerRoot) -> Result<(), AgentError> {
    validate(identity)?;
    pool.add(&identity.entropy).map_err(AgentError::io("add entropy"))?;
    set_clock(identity.unix_time_ns)?;
    write_names(identity, root.dir())?;
    if let Some(boot_id) = &identity.boot_id {
        let replaced = replace_boot_id(boot_id, root.dir());
        replaced.map_err(AgentError::io("replace the boot id"))?;
    }
    match &identity.network {
        Some(network) => join(network, root),
        None => Ok(()),
    }
}

/// Becomes a part of its networks.
fn join(network: &GuestNetwork, root: &BunkerRoot) -> Result<(), AgentError> {
    network::configure(network).map_err(AgentError::io("configure the network"))?;
    let Some(resolver) = network.resolver else { return Ok(()) };
    let text = format!("nameserver {resolver}\n");
    // In many images it is a link to a file of a service that is not running.
    root_files::replace(root.dir(), "etc/resolv.conf", &text)
        .map_err(AgentError::io("write /etc/resolv.conf"))
}

/// Has the kernel's boot id read as this one in the bunker.
fn replace_boot_id(boot_id: &str, root: &OwnedFd) -> io::Result<()> {
    std::fs::write(OWN_BOOT_ID, format!("{boot_id}\n"))?;
    let place = || {
        let point = root_files::open(root, BOOT_ID, OFlags::PATH, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", point.as_raw_fd());
        Ok::<_, Errno>((point, path))
    };
    // That of the guest that this one was copied from.
    let (_point, path) = place()?;
    let _ = unmount(path, UnmountFlags::DETACH);
    let (_point, path) = place()?;
    Ok(mount_bind(OWN_BOOT_ID, path)?)
}

/// Sets the wall clock.
pub fn set_clock(unix_time_ns: i64) -> Result<(), AgentError> {
    clock_settime(ClockId::Realtime, timespec(unix_time_ns))
        .map_err(AgentError::io("set the clock"))
}

fn timespec(unix_time_ns: i64) -> Timespec {
    Timespec {
        tv_sec: unix_time_ns.div_euclid(NANOS_PER_SECOND),
        tv_nsec: unix_time_ns.rem_euclid(NANOS_PER_SECOND),
    }
}

fn write_names(identity: &Identity, root: &OwnedFd) -> Result<(), AgentError> {
    let Identity { hostname, machine_id, .. } = identity;
    let failed = || AgentError::io("write the bunker's names");
    root_files::write(root, "etc/machine-id", &format!("{machine_id}\n")).map_err(failed())?;
    if uname().nodename().to_bytes() != hostname.as_bytes() {
        sethostname(hostname.as_bytes()).map_err(AgentError::io("set the host name"))?;
        root_files::write(root, "etc/hostname", &format!("{hostname}\n")).map_err(failed())?;
        let hosts = root_files::read(root, "etc/hosts").map_err(failed())?;
        root_files::write(root, "etc/hosts", &name_host(&hosts, hostname)).map_err(failed())?;
    }
    Ok(())
}

/// `hosts` with the line of the bunker's own name replaced or added.
fn name_host(hosts: &str, hostname: &str) -> String {
    let hosts = if hosts.trim().is_empty() { FRESH_HOSTS } else { hosts };
    let others = hosts.lines().filter(|line| line.split_whitespace().next() != Some(HOST_ADDRESS));
    let mut text: String = others.flat_map(|line| [line, "\n"]).collect();
    text.push_str(&format!("{HOST_ADDRESS}\t{hostname}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            entropy: vec![1; ENTROPY_BYTES],
            unix_time_ns: 0,
            hostname: "bnk-1".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            network: None,
            boot_id: None,
        }
    }

    #[test]
    fn an_incomplete_identity_is_refused() {
        assert!(validate(&identity()).is_ok());
        let broken: [fn(&mut Identity); 5] = [
            |i| i.entropy.truncate(ENTROPY_BYTES - 1),
            |i| i.hostname.clear(),
            |i| i.hostname = "a\nb".to_owned(),
            |i| i.machine_id.push('0'),
            |i| i.machine_id = i.machine_id.to_uppercase(),
        ];
        for spoil in broken {
            let mut identity = identity();
            spoil(&mut identity);
            assert!(validate(&identity).is_err(), "{identity:?}");
        }
    }

    #[test]
    fn a_time_is_whole_seconds_and_the_nanoseconds_after_them() {
        for (unix_time_ns, seconds, nanos) in
            [(0, 0, 0), (1_700_000_000_000_000_007, 1_700_000_000, 7), (-1, -1, 999_999_999)]
        {
            let time = timespec(unix_time_ns);
            assert_eq!((time.tv_sec, time.tv_nsec), (seconds, nanos));
        }
    }

    #[test]
    fn the_own_name_is_one_line_of_hosts() {
        let first = name_host("", "a");
        assert!(first.starts_with("127.0.0.1\tlocalhost\n"));
        let second = name_host(&format!("{first}10.0.0.1 db\n"), "b");
        assert!(second.ends_with("10.0.0.1 db\n127.0.1.1\tb\n"));
        assert_eq!(second.matches(HOST_ADDRESS).count(), 1);
    }
}

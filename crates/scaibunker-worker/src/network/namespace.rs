//! One bunker's network namespace.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Command, Stdio},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::place::Place;
use crate::assets::program::{IP, NFT, Program};

/// The bunker's side of its network device.
pub const TAP: &str = "tap0";

/// What the kernel is told in a new namespace, where it starts with what the host has.
const SYSCTLS: [(&str, &str); 6] = [
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
];

/// A network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot {what}")]
    Io { what: &'static str, source: io::Error },
    #[error("`{}` cannot be run; it is in Debian's package `{}`", .program.name, .program.package)]
    NoProgram { program: Program, source: io::Error },
    #[error("`{0}` is no interface that a bunker may have")]
    NoInterface(String),
    #[error("the host has no bridge `{0}`")]
    NoBridge(String),
    #[error("`{program}` refused: {said}")]
    Refused { program: &'static str, said: String },
}

pub fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> NetworkError {
    move |source| NetworkError::Io { what, source: source.into() }
}

/// Holds a namespace.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    /// A new one with a tap device, which carries nothing yet. Blocks for some milliseconds.
    pub fn create(place: &Place) -> Result<(Self, Vec<OwnedFd>), NetworkError> {
        let tap = || open_tap(TAP).map_err(failed("make a tap device"));
        let (namespace, tap) = Self::create_around(place, tap)?;
        Ok((namespace, vec![tap]))
    }

    /// A new one for the bunker at the end of the device that `make` makes, called [`TAP`].
    pub(super) fn create_around<T: Send>(
        place: &Place,
        make: impl FnOnce() -> Result<T, NetworkError> + Send,
    ) -> Result<(Self, T), NetworkError> {
        on_own_thread(|| {
            let namespace = unshare()?;
            let device = make()?;
            run(IP, &["-batch", "-"], &place.ip_batch())?;
            run(IP, &["-6", "-batch", "-"], &place.ip6_batch())?;
            run(NFT, &["-f", "-"], &place.nft_ruleset())?;
            Ok((namespace, device))
        })
    }

    /// A new one with nothing in it.
    pub fn create_empty() -> Result<Self, NetworkError> {
        on_own_thread(unshare)
    }

    /// How other programs name it while this value lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// A new one with so many tap devices, which lead nowhere yet. It has no addresses itself.
    pub fn create_bridged(taps: u32) -> Result<(Self, Vec<OwnedFd>), NetworkError> {
        on_own_thread(|| {
            let namespace = unshare()?;
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
                .map_err(failed("configure a network namespace"))?;
            let taps = (0..taps).map(|index| open_tap(&format!("tap{index}")));
            let taps = taps.collect::<io::Result<_>>().map_err(failed("make a tap device"))?;
            Ok((namespace, taps))
        })
    }

    /// The one that a tap device is in.
    pub fn of_tap(tap: &OwnedFd) -> io::Result<Self> {
        // SAFETY: takes no argument, and returns a new descriptor or -1.
        let fd = unsafe { libc::ioctl(tap.as_raw_fd(), SIOCGSKNS) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Runs something in it, in a thread of its own: sockets that are made there belong there.
    pub fn enter<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetworkError> + Send,
    ) -> Result<T, NetworkError> {
        on_own_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(failed("enter a network namespace"))?;
            work()
        })
    }
}

/// Moves this thread, which ends soon, into a new namespace.
fn unshare() -> Result<Namespace, NetworkError> {
    // SAFETY: no descriptors are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(failed("make a network namespace"))?;
    let own = File::open("/proc/thread-self/ns/net");
    for (path, value) in SYSCTLS {
        fs::write(format!("/proc/sys/{path}"), value)
            .map_err(failed("configure a network namespace"))?;
    }
    Ok(Namespace(own.map_err(failed("open a network namespace"))?.into()))
}

/// `_IO(0x89, 0x4c)` of the kernel's `sockios.h`.
const SIOCGSKNS: libc::Ioctl = 0x894c;

fn on_own_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".to_owned());
        let thread = thread.spawn_scoped(scope, work).map_err(failed("start a thread"))?;
        let lost = |_| NetworkError::Io {
            what: "finish in a network namespace",
            source: io::Error::other("the thread panicked"),
        };
        thread.join().unwrap_or_else(|panic| Err(lost(panic)))
    })
}

/// Makes the device in this thread's namespace. It goes when the last copy of the descriptor does.
fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // With the header, the guest may send pieces that are larger than a packet.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: reads one `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tun.into())
}

/// Runs a program in this thread's namespace with `input`; what it printed.
pub fn run(program: Program, args: &[&str], input: &str) -> Result<Vec<u8>, NetworkError> {
    let mut child = Command::new(program.name)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| NetworkError::NoProgram { program, source })?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed("wait for a program"))?;
    if output.status.success() && matches!(written, Some(Ok(()))) {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Refused { program: program.name, said })
}

//! What the gateway may ask of the kernel once it serves. Everything else fails as what it may not do.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// No files but those that it was given, no programs, no other processes, no namespaces, no devices.
const ALLOWED: [libc::c_long; 59] = [
    // What it was given and what it connects.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    // Waiting.
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, and its own end.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_membarrier,
    libc::SYS_prctl,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // What time it is, and chance.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_uname,
];

/// Older ones, which newer machines have not got.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: [libc::c_long; 2] = [libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: [libc::c_long; 0] = [];

/// Connections, lookups, and the list of this host's own addresses.
const FAMILIES: [libc::c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Holds for this thread and those that it starts. Until its end.
pub fn restrict() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(&program()?)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let plain = ALLOWED.into_iter().chain(ALLOWED_HERE).map(|number| (number, Vec::new()));
    let mut rules: BTreeMap<_, _> = plain.collect();
    let families = FAMILIES.into_iter().map(|family| {
        let is_it = SeccompCmpOp::Eq;
        // A family is no negative number.
        let family = family.unsigned_abs().into();
        let is_family = SeccompCondition::new(0, SeccompCmpArgLen::Dword, is_it, family)?;
        SeccompRule::new(vec![is_family])
    });
    rules.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        net::{TcpListener, UdpSocket},
        process::Command,
        thread,
    };

    use jiff::Timestamp;
    use scaibunker_api::egress::{EgressEvent, EgressEventKind, EgressProtocol, EgressVerdict};

    use super::*;
    use crate::audit::AuditLog;

    #[test]
    fn a_restricted_thread_connects_and_writes_its_log_and_does_nothing_else() {
        let event = EgressEvent {
            at: Timestamp::UNIX_EPOCH,
            event: EgressEventKind::Opened,
            protocol: EgressProtocol::Tcp,
            name: None,
            address: None,
            port: 443,
            verdict: EgressVerdict::Allowed,
            reason: None,
            sent_bytes: None,
            received_bytes: None,
        };
        let log = AuditLog::new(tempfile::tempfile().unwrap());
        let tried = thread::spawn(move || {
            restrict().unwrap();
            let written = log.write(&event);
            let socket = UdpSocket::bind("127.0.0.1:0").map(drop);
            let own = nix::ifaddrs::getifaddrs().map(drop).map_err(io::Error::from);
            let file = fs::read("/etc/hostname").map(drop);
            let program = Command::new("/bin/true").spawn().map(drop);
            let local = std::os::unix::net::UnixDatagram::unbound().map(drop);
            let listener = TcpListener::bind("127.0.0.1:0").map(drop);
            let tried = [written, socket, own, file, program, local, listener];
            tried.map(|tried| tried.map_err(|error| error.kind()))
        });
        let refused = Err(io::ErrorKind::PermissionDenied);
        assert_eq!(
            tried.join().unwrap(),
            [Ok(()), Ok(()), Ok(()), refused, refused, refused, refused]
        );
    }
}

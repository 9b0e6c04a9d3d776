//! Which ids of the host are behind those of the helper's user namespace.

use std::{fs, io, process::Command};

use rustix::process::{getgid, getuid};

use super::limits::MAX_ID;
use crate::assets::program::{NEWGIDMAP, NEWUIDMAP, Program};

/// First host id of the range that root takes. Nothing else on the host has these ids: they lie
/// above those of systemd's containers and below those of the VMM jails.
pub const FIRST_ID: u32 = 1_000_000_000;

/// Maps the ids of a process that has just entered its user namespace.
///
/// Root gives it a range of ids that own nothing. An ordinary user is the namespace's root
/// himself, and gives it the ids that `/etc/subuid` and `/etc/subgid` say are his.
pub fn map(pid: u32) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let line = format!("0 {FIRST_ID} {MAX_ID}");
        fs::write(format!("/proc/{pid}/uid_map"), &line)?;
        return fs::write(format!("/proc/{pid}/gid_map"), &line);
    }
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    map_own(NEWUIDMAP, pid, uid, "/etc/subuid")?;
    map_own(NEWGIDMAP, pid, gid, "/etc/subgid")
}

fn map_own(program: Program, pid: u32, own: u32, ranges: &str) -> io::Result<()> {
    let text = fs::read_to_string(ranges).unwrap_or_default();
    let (first, count) = range(&text, getuid().as_raw(), &user_name()).ok_or_else(|| {
        io::Error::other(format!("this user has no range in {ranges}; as root: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`"))
    })?;
    let path = program.find().ok_or_else(|| {
        let Program { name, package } = program;
        io::Error::other(format!(
            "`{name}` is not installed: run `apt-get install {package}` as root"
        ))
    })?;
    let numbers = [pid, 0, own, 1, 1, first, count].map(|number| number.to_string());
    let output = Command::new(path).args(numbers).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn user_name() -> String {
    let uid = getuid().as_raw().to_string();
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.get(2) == Some(&uid.as_str()));
    found.and_then(|fields| fields.first().map(|name| (*name).to_owned())).unwrap_or_default()
}

/// The first range of a user in the form of subuid(5).
fn range(text: &str, uid: u32, name: &str) -> Option<(u32, u32)> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let whose = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (whose == uid || (whose == name && !name.is_empty())).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_first_range_under_name_or_number() {
        let text = "root:1:2\n# a comment\nann:100000:65536\n1001:200000:65536\n";
        assert_eq!(range(text, 1000, "ann"), Some((100_000, 65536)));
        assert_eq!(range(text, 1001, "bob"), Some((200_000, 65536)));
        assert_eq!(range(text, 1002, ""), None);
    }
}

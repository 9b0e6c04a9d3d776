//! Who a command runs as, by the bunker's own passwd and group files. The C library's lookups
//! are not used: in a static program they load plugins, and they would read the agent's root.

use crate::{error::AgentError, root::BunkerRoot, root_files};

/// An identity to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub home: String,
    pub shell: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines that do not have the format are skipped, as the C library does.
fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (_password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?);
        let (_gecos, home, shell) = (fields.next()?, fields.next()?, fields.next()?);
        Some(PasswdEntry { name, uid: parse_id(uid)?, gid: parse_id(gid)?, home, shell })
    })
}

fn group_entries(group: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (_password, gid, members) = (fields.next()?, fields.next()?, fields.next()?);
        Some(GroupEntry { name, gid: parse_id(gid)?, members })
    })
}

/// [`look_up`] in the files of `root`.
pub fn find(user: &str, root: &BunkerRoot) -> Result<Account, AgentError> {
    let read = |path: &str| {
        root_files::read(root.dir(), path).map_err(AgentError::io(format!("read /{path}")))
    };
    look_up(user, &read("etc/passwd")?, &read("etc/group")?)
}

/// Looks up `name` or `uid`, each with an optional `:group` or `:gid`.
///
/// A number needs no entry; without one its group is the same number. Supplementary groups come
/// with a looked-up group only: who names the group gets that one alone.
pub fn look_up(user: &str, passwd: &str, group: &str) -> Result<Account, AgentError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let number = parse_id(user);
    let entry = passwd_entries(passwd).find(|entry| match number {
        Some(uid) => entry.uid == uid,
        None => entry.name == user,
    });
    let mut account = match (entry, number) {
        (Some(entry), _) => Account {
            name: entry.name.to_owned(),
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: or_default(entry.home, "/"),
            shell: or_default(entry.shell, "/bin/sh"),
        },
        (None, Some(uid)) => Account {
            name: uid.to_string(),
            uid,
            gid: uid,
            groups: Vec::new(),
            home: "/".to_owned(),
            shell: "/bin/sh".to_owned(),
        },
        (None, None) => return Err(AgentError::Invalid(format!("no user `{user}` in the bunker"))),
    };
    match wanted_group {
        Some(wanted) => account.gid = group_id(wanted, group)?,
        None => {
            let memberships = group_entries(group)
                .filter(|entry| entry.members.split(',').any(|m| m.trim() == account.name));
            account.groups = memberships.map(|entry| entry.gid).collect();
            account.groups.truncate(MAX_GROUPS);
        }
    }
    Ok(account)
}

/// The kernel takes no more.
const MAX_GROUPS: usize = 65_536;

fn group_id(wanted: &str, group: &str) -> Result<u32, AgentError> {
    parse_id(wanted)
        .or_else(|| group_entries(group).find(|e| e.name == wanted).map(|e| e.gid))
        .ok_or_else(|| AgentError::Invalid(format!("no group `{wanted}` in the bunker")))
}

/// The largest number means "unchanged" to the kernel, so it names nobody.
fn parse_id(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&id| is_number && id != u32::MAX)
}

fn or_default(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        broken line\n\
        user:x:1000:1000:,,,:/home/user:\n\
        nohome:x:1001:100:::/bin/false\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:user,other\nusers:x:100:other, user\nuser:x:1000:\n";

    fn found(user: &str) -> Account {
        look_up(user, PASSWD, GROUP).unwrap()
    }

    #[test]
    fn a_name_brings_home_shell_and_groups() {
        let account = found("user");
        assert_eq!((account.uid, account.gid, account.groups), (1000, 1000, vec![27, 100]));
        assert_eq!((account.home.as_str(), account.shell.as_str()), ("/home/user", "/bin/sh"));
        assert_eq!(found("nohome").home, "/");
    }

    #[test]
    fn a_number_is_as_good_as_its_name_and_needs_no_entry() {
        assert_eq!(found("1000"), found("user"));
        let stranger = found("4242");
        assert_eq!((stranger.uid, stranger.gid, stranger.home.as_str()), (4242, 4242, "/"));
        assert!(stranger.groups.is_empty());
    }

    #[test]
    fn a_named_group_replaces_all_others() {
        let account = found("user:sudo");
        assert_eq!((account.gid, account.groups), (27, vec![]));
        assert_eq!(found("7:8").gid, 8);
    }

    #[test]
    fn strangers_and_impossible_numbers_are_refused() {
        for user in ["nobody", "", "user:none", "-1", "+5", "4294967295", "4294967296", "0x0"] {
            assert!(look_up(user, PASSWD, GROUP).is_err(), "{user}");
        }
    }

    #[test]
    fn hostile_files_are_survived() {
        bolero::check!()
            .with_type::<(String, String, String)>()
            .with_test_time(std::time::Duration::from_secs(1))
            .for_each(|(user, passwd, group)| {
                if let Ok(account) = look_up(user, passwd, group) {
                    assert!(account.groups.len() <= MAX_GROUPS);
                    assert_ne!(account.uid, u32::MAX);
                }
            });
    }

    proptest! {
        #[test]
        fn any_files_are_survived(user in ".{0,16}", passwd in "(?s).{0,256}", group in "(?s).{0,256}") {
            let _ = look_up(&user, &passwd, &group);
        }
    }
}

//! The image `busybox`: one static program of a megabyte under all its names, for quick tests.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::Duration,
};

use super::{
    AssetError, ImageConfig, Progress, archive, blocking,
    image::{PACK, ROOTFS, environment, root_config},
    io_failed,
    program::{Call, DEBUGFS, SHELL},
    slot::Workshop,
};

const PACKAGE: &str = "busybox-static";
const LIMIT: Duration = Duration::from_secs(60);

/// Path and mode of what the tree has beside the applets.
const DIRECTORIES: [(&str, u32); 17] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("home/bunker", 0o755),
    ("mnt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];

/// No password opens any account.
const FILES: [(&str, &str); 7] = [
    (
        "etc/passwd",
        "root:*:0:0:root:/root:/bin/sh\nbunker:*:1000:1000::/home/bunker:/bin/sh\n\
         nobody:*:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nbunker:x:1000:\nnogroup:x:65534:\n"),
    ("etc/hostname", "bunker\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost bunker\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    ("etc/machine-id", ""),
    ("etc/resolv.conf", ""),
    ("etc/shells", "/bin/sh\n"),
];

/// What belongs to the default user; all else is root's.
const USERS_OWN: &str = "home/bunker";

pub fn config() -> ImageConfig {
    ImageConfig {
        root: root_config(environment()),
        warm_up: vec![["/bin/sh", "-c", "true"].map(str::to_owned).into()],
        default_cpu_millicores: 1000,
        default_memory_mb: 256,
        default_disk_mb: 256,
    }
}

/// What decides the result.
pub fn ingredients() -> Vec<String> {
    let mut ingredients = vec![PACKAGE.to_owned(), PACK.to_owned(), USERS_OWN.to_owned()];
    ingredients.extend(DIRECTORIES.map(|(path, mode)| format!("{path} {mode:o}")));
    ingredients.extend(FILES.iter().flat_map(|(path, text)| [path, text]).map(|&x| x.to_owned()));
    ingredients
}

/// Leaves the root file system in the workshop's result.
pub async fn bake(workshop: &Workshop, progress: &Progress) -> Result<(), AssetError> {
    progress("baking busybox from Debian's package, the first time only");
    let files = archive::unpacked(PACKAGE, &workshop.temporary).await?;
    let Some(program) = ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| files.join(path))
        .find(|path| path.is_file())
    else {
        return Err(AssetError::Contents { path: files, what: "the busybox program" });
    };
    let args = ["-c".into(), "exec \"$0\" --list-full".into(), program.clone().into()];
    let list = Call::new::<OsString>(SHELL, &files, LIMIT, args).run().await?;
    let applets = applets(&String::from_utf8_lossy(&list));
    if !applets.iter().any(|applet| applet == "bin/sh") {
        return Err(AssetError::Contents { path: program, what: "a shell" });
    }

    let tree = workshop.temporary.join("tree");
    let rootfs = workshop.result.join(ROOTFS);
    let owners = workshop.temporary.join("owners");
    let (tree_path, owners_path) = (tree.clone(), owners.clone());
    blocking(move || {
        plant(&tree_path, &program, &applets).map_err(io_failed("make", &tree_path))?;
        fs::write(&owners_path, owner_commands(&applets)).map_err(io_failed("write", &owners_path))
    })
    .await?;

    let script = format!("set -eu\n{PACK}\npack \"$1\" \"$2\"");
    let args = ["-c".into(), script.into(), "sh".into(), tree.into(), rootfs.clone().into()];
    Call::new::<OsString>(SHELL, &workshop.temporary, LIMIT, args).run().await?;
    let args = ["-w".into(), "-f".into(), owners.into(), rootfs.into()];
    Call::new::<OsString>(DEBUGFS, &workshop.temporary, LIMIT, args).run().await?;
    Ok(())
}

/// The paths that `busybox --list-full` offers, without any that would leave the tree.
fn applets(list: &str) -> Vec<String> {
    let directories = ["bin", "sbin", "usr/bin", "usr/sbin"];
    let is_plain = |name: &str| {
        name != "busybox" && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let offered = list.lines().filter(|line| {
        line.rsplit_once('/').is_some_and(|(directory, name)| {
            directories.contains(&directory) && is_plain(name) && !name.contains(['"', '\\'])
        })
    });
    offered.map(str::to_owned).collect()
}

fn plant(tree: &Path, program: &Path, applets: &[String]) -> std::io::Result<()> {
    fs::create_dir(tree)?;
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set_mode(tree, 0o755)?;
    for (path, mode) in DIRECTORIES {
        fs::create_dir(tree.join(path))?;
        set_mode(&tree.join(path), mode)?;
    }
    for (path, text) in FILES {
        fs::write(tree.join(path), text)?;
        set_mode(&tree.join(path), 0o644)?;
    }
    fs::copy(program, tree.join("bin/busybox"))?;
    set_mode(&tree.join("bin/busybox"), 0o755)?;
    for applet in applets {
        symlink("/bin/busybox", tree.join(applet))?;
    }
    Ok(())
}

/// debugfs commands that give every file its owner: `mkfs.ext4 -d` takes the owners of the tree,
/// which is an ordinary user's when the server is one.
fn owner_commands(applets: &[String]) -> String {
    let directories = DIRECTORIES.iter().map(|(path, _)| *path);
    let files = FILES.iter().map(|(path, _)| *path);
    let paths = directories.chain(files).chain(["bin/busybox"]);
    let mut commands = String::new();
    for path in paths.chain(applets.iter().map(String::as_str)) {
        let id = if path == USERS_OWN { 1000 } else { 0 };
        for field in ["uid", "gid"] {
            let _ = writeln!(commands, "set_inode_field \"/{path}\" {field} {id}");
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applets_stay_inside_the_tree() {
        let list = "bin/sh\nusr/bin/[\n../../etc/x\nbin/../x\nlinuxrc\nbin/busybox\nbin/a b\n";
        assert_eq!(applets(list), ["bin/sh", "usr/bin/["]);
    }

    /// Bakes a tree around another program, which needs no network.
    #[tokio::test]
    async fn the_file_system_has_the_right_owners_and_passes_fsck() {
        use super::super::program::E2FSCK;

        let dir = tempfile::tempdir().unwrap();
        let (tree, rootfs) = (dir.path().join("tree"), dir.path().join(ROOTFS));
        let applets = ["bin/sh".to_owned(), "usr/bin/[".to_owned()];
        plant(&tree, Path::new("/bin/true"), &applets).unwrap();
        let owners = dir.path().join("owners");
        fs::write(&owners, owner_commands(&applets)).unwrap();
        let script = format!("set -eu\n{PACK}\npack tree {ROOTFS}");
        Call::new(SHELL, dir.path(), LIMIT, ["-c", &script]).run().await.unwrap();
        let debugfs = |args: &'static [&str]| {
            Call::new(DEBUGFS, dir.path(), LIMIT, args.iter().copied()).run()
        };
        debugfs(&["-w", "-f", "owners", ROOTFS]).await.unwrap();
        let check = [OsString::from("-fn"), rootfs.into()];
        Call::new(E2FSCK, dir.path(), LIMIT, check).run().await.unwrap();
        let stat = |path: &'static str| async move {
            let args: &'static [&str] = Box::leak(Box::new(["-R", path, ROOTFS]));
            let text = String::from_utf8(debugfs(args).await.unwrap()).unwrap();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let home = stat("stat /home/bunker").await;
        assert!(home.contains("User: 1000 Group: 1000") && home.contains("Mode: 0755"), "{home}");
        let tmp = stat("stat /tmp").await;
        assert!(tmp.contains("User: 0 Group: 0") && tmp.contains("Mode: 01777"), "{tmp}");
        assert!(stat("stat /usr/bin/[").await.contains("/bin/busybox"));
    }
}

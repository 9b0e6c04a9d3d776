//! The image `debian-12`: Python, git and curl on a small Debian.
//!
//! mmdebstrap installs Debian's own packages into a directory, in namespaces of its own; its last
//! hook makes the ext4 file there, where every file has its right owner even when the server is an
//! ordinary user.

use std::{path::Path, time::Duration};

use super::{
    AssetError, ImageConfig, Progress,
    archive::{RELEASE, proxy_environment, sources},
    image::{ROOTFS, environment, root_config},
    program::{Call, MMDEBSTRAP},
    slot::Workshop,
};

/// Handed over in the environment, because mmdebstrap repeats its arguments in every error.
const HOOK_VARIABLE: &str = "SCAIBUNKER_BAKE_HOOK";
const HOOK: &str = concat!(include_str!("pack.sh"), include_str!("debian_12.sh"));

/// Beside Debian's essential packages and apt. No compilers: they double the size.
const PACKAGES: &str = "ca-certificates,curl,git,less,netbase,procps,python3,python3-pip,python3-venv,\
                        tzdata,unzip,xz-utils";

/// Nobody reads manuals in a bunker; the licences stay.
const DPKG_OPTIONS: [&str; 6] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/lintian/*",
];

const BAKE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// What decides the result.
pub fn ingredients() -> Vec<&'static str> {
    [RELEASE, HOOK, PACKAGES].into_iter().chain(DPKG_OPTIONS).collect()
}

pub fn config() -> ImageConfig {
    let mut env = environment();
    // A check for a newer pip only waits for a network that most bunkers do not have.
    env.insert("PIP_DISABLE_PIP_VERSION_CHECK".to_owned(), "1".to_owned());
    ImageConfig {
        root: root_config(env),
        warm_up: vec![["/bin/sh", "-c", "python3 -c pass"].map(str::to_owned).into()],
        default_cpu_millicores: 1000,
        default_memory_mb: 512,
        default_disk_mb: 1024,
    }
}

/// Leaves the root file system in the workshop's result.
pub async fn bake(workshop: &Workshop, progress: &Progress) -> Result<(), AssetError> {
    progress("baking debian-12 from Debian's packages: about a minute, the first time only");
    let dpkg_options = DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}"));
    let result = workshop.result.join(ROOTFS);
    let mut args = vec![
        // Also as root: the mounts are then in a namespace that ends with the program.
        "--mode=unshare".to_owned(),
        "--format=null".to_owned(),
        // Essential packages and apt.
        "--variant=apt".to_owned(),
        "--architectures=amd64".to_owned(),
        format!("--include={PACKAGES}"),
    ];
    args.extend(dpkg_options);
    args.push(format!("--customize-hook=eval \"${HOOK_VARIABLE}\""));
    args.push(format!("--customize-hook=download /{ROOTFS} {ROOTFS}"));
    args.extend([RELEASE.to_owned(), "-".to_owned()]);
    args.extend(sources().await);

    let watch = |text: &str| report_steps(text, progress);
    // mmdebstrap's special hooks have no way to quote a path, so it runs in the directory.
    let mut call = Call::new(MMDEBSTRAP, &workshop.result, BAKE_LIMIT, args);
    call.env = proxy_environment().await;
    call.env.push((HOOK_VARIABLE.to_owned(), HOOK.into()));
    call.env.extend(temporary_directory(&workshop.temporary));
    call.watch = &watch;
    call.run().await?;
    if result.is_file() {
        Ok(())
    } else {
        Err(AssetError::Contents { path: workshop.result.clone(), what: "the baked image" })
    }
}

/// Where the tree is made. An ordinary user's tree belongs to ids that cannot reach into the
/// cache, so it stays where mmdebstrap puts it.
fn temporary_directory(workshop: &Path) -> Option<(String, std::ffi::OsString)> {
    let name = "TMPDIR";
    let dir = match rustix::process::geteuid().is_root() {
        true => Some(workshop.as_os_str().to_owned()),
        false => std::env::var_os(name),
    };
    dir.map(|dir| (name.to_owned(), dir))
}

/// mmdebstrap announces its few steps in lines that begin with `I: `.
fn report_steps(text: &str, progress: &Progress) {
    let steps = ["running apt-get update", "downloading", "extracting", "installing"];
    for line in text.lines().filter_map(|line| line.strip_prefix("I: ")) {
        if steps.iter().any(|step| line.starts_with(step)) {
            progress(&format!("debian-12: {}", line.trim_end_matches('.')));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_the_steps_of_the_bake_are_reported() {
        let (sender, seen) = mpsc::channel();
        let progress = move |text: &str| sender.send(text.to_owned()).unwrap();
        let output = "I: running apt-get update...\nGet:1 something\nI: success in 28 seconds\n";
        report_steps(output, &progress);
        drop(progress);
        assert_eq!(seen.iter().collect::<Vec<_>>(), ["debian-12: running apt-get update"]);
    }
}

//! Looks a host over: what works, what is missing, and what to do about it.

mod agent_file;
mod host;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    assets::program::{self, Call, Program},
    chain,
    config::WorkerConfig,
    engine::qemu,
    jail::CgroupRoot,
};

const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How much a finding matters. Ordered: the worst of all findings is their maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// Good to know; nothing is wrong.
    Info,
    /// Bunkers run, with less protection, speed or room than they could have.
    Warn,
    /// Bunkers cannot run until this is put right.
    Fail,
}

/// One thing the doctor looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Short stable name, for programs.
    pub check: String,
    pub level: Level,
    pub message: String,
    /// The next step, where there is one.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(check: &str, level: Level, message: impl Into<String>) -> Self {
        Self { check: check.to_owned(), level, message: message.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Looks at everything; takes a second at most where nothing hangs.
pub async fn examine(config: &WorkerConfig) -> Vec<Finding> {
    let is_root = rustix::process::geteuid().is_root();
    let mut findings = vec![identity(is_root), host::kernel()];
    findings.extend(host::cores_and_memory());
    findings.extend(engine(config).await);
    findings.push(control_groups(is_root));
    if !is_root {
        findings.extend(ordinary_user().await);
    }
    findings.extend(programs());
    findings.push(guest_agent(&config.guest_agent));
    findings.push(host::space("data_space", &config.data_dir));
    findings.push(host::space("cache_space", &config.cache_dir));
    findings.extend(network(config));
    findings
}

fn identity(is_root: bool) -> Finding {
    if is_root {
        let message = "runs as root: each microVM gets a uid and a control group of its own";
        return Finding::new("identity", Level::Ok, message);
    }
    let uid = rustix::process::geteuid().as_raw();
    let message = format!("runs as an ordinary user (uid {uid}): isolated bunkers work");
    Finding::new("identity", Level::Info, message).remedy(
        "run as root to add a uid of its own for each microVM, hard CPU and memory bounds \
         outside the guest, and networks",
    )
}

async fn engine(config: &WorkerConfig) -> Vec<Finding> {
    let version = match qemu::version(&config.qemu).await {
        Ok(version) => version,
        Err(error) => {
            let message = format!("{} does not run: {}", config.qemu.display(), chain(&error));
            let missing = Finding::new("qemu", Level::Fail, message);
            return vec![missing.remedy("run `apt-get install qemu-system-x86` as root")];
        }
    };
    let found = Finding::new("qemu", Level::Ok, format!("QEMU {version}"));
    let verdict = qemu::remembered(&config.data_dir, &version);
    let accelerator = match verdict {
        Some(verdict) if verdict.accelerator == qemu::Accelerator::Kvm => {
            Finding::new("accelerator", Level::Ok, verdict.reason)
        }
        Some(verdict) => {
            let message = format!("tcg, which emulates the processor: {}", verdict.reason);
            Finding::new("accelerator", Level::Info, message)
        }
        None => unprobed(rustix::fs::access("/dev/kvm", read_write()).map_err(io::Error::from)),
    };
    vec![found, accelerator]
}

fn read_write() -> rustix::fs::Access {
    rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK
}

/// What `/dev/kvm` promises before a microVM has been booted with it.
fn unprobed(access: io::Result<()>) -> Finding {
    match access {
        Ok(()) => {
            let message = "/dev/kvm is there; the first start measures whether it really works";
            Finding::new("accelerator", Level::Info, message)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = "this user may not use /dev/kvm, so microVMs are emulated (slower)";
            Finding::new("accelerator", Level::Warn, message)
                .remedy("run `usermod --append --groups kvm USER` as root, then log in again")
        }
        Err(_) => {
            let message =
                "no /dev/kvm: microVMs are emulated (tcg), computing several times slower";
            Finding::new("accelerator", Level::Info, message)
        }
    }
}

fn control_groups(is_root: bool) -> Finding {
    match CgroupRoot::detect(Path::new("/sys/fs/cgroup")) {
        Some(CgroupRoot::V2(_)) => Finding::new("cgroups", Level::Ok, "control groups version 2"),
        Some(CgroupRoot::V1(_)) => Finding::new("cgroups", Level::Ok, "control groups version 1"),
        None => {
            let message = "no control groups that this user may write: a microVM's CPU time and \
                           memory are bounded by its own machine only";
            let remedy = match is_root {
                true => "mount cgroup2 with the controllers cpu, memory and pids on /sys/fs/cgroup",
                false => "run as root, or in a user session to which systemd delegates them",
            };
            let level = if is_root { Level::Warn } else { Level::Info };
            Finding::new("cgroups", level, message).remedy(remedy)
        }
    }
}

/// What takes the place of root's powers.
async fn ordinary_user() -> Vec<Finding> {
    const UNSHARE: Program = Program { name: "unshare", package: "util-linux" };
    let args = ["--user", "--map-root-user", "--mount", "true"];
    let jail = match Call::new(UNSHARE, Path::new("/"), CALL_LIMIT, args).run().await {
        Ok(_) => Finding::new("user_namespaces", Level::Ok, "user namespaces work"),
        Err(error) => {
            let message = format!("microVMs need user namespaces for their jail: {error}");
            Finding::new("user_namespaces", Level::Fail, message).remedy(
                "allow them: `sysctl user.max_user_namespaces=15000`, and on some systems \
                 `sysctl kernel.unprivileged_userns_clone=1` or \
                 `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run as root",
            )
        }
    };
    let subordinate_ids = match program::NEWUIDMAP.find() {
        Some(_) => Finding::new("uidmap", Level::Ok, "newuidmap is installed"),
        None => {
            let message = "newuidmap is missing: an ordinary user cannot bake debian-12 without it";
            Finding::new("uidmap", Level::Warn, message)
                .remedy("run `apt-get install uidmap` as root")
        }
    };
    vec![jail, subordinate_ids]
}

fn programs() -> Vec<Finding> {
    let always = [(program::MKFS_EXT4, "every bunker's disk is made with it")];
    let for_assets = "kernel and images are made with it, unless they are in the cache";
    let first_time = [
        program::APT_GET,
        program::DPKG_DEB,
        program::DEBUGFS,
        program::E2FSCK,
        program::MMDEBSTRAP,
    ];
    let always = always.map(|(program, why)| (program, Level::Fail, why));
    let first_time = first_time.map(|program| (program, Level::Warn, for_assets));
    always
        .into_iter()
        .chain(first_time)
        .map(|(program, level, why)| installed(program, program.find(), level, why))
        .collect()
}

fn installed(program: Program, found: Option<PathBuf>, level: Level, why: &str) -> Finding {
    match found {
        Some(path) => Finding::new(program.name, Level::Ok, path.display().to_string()),
        None => Finding::new(program.name, level, format!("{} is missing: {why}", program.name))
            .remedy(format!("run `apt-get install {}` as root", program.package)),
    }
}

fn guest_agent(path: &Path) -> Finding {
    const CHECK: &str = "guest_agent";
    let rebuild = "build it with `./scripts/up`, or name another file";
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("cannot read the guest agent {}: {error}", path.display());
            return Finding::new(CHECK, Level::Fail, message).remedy(rebuild);
        }
    };
    match agent_file::linkage(&bytes) {
        Some(agent_file::Linkage::Static) => {
            let kib = bytes.len() / 1024;
            Finding::new(CHECK, Level::Ok, format!("{}, {kib} KiB, static", path.display()))
        }
        Some(agent_file::Linkage::Dynamic) => {
            let message = format!("{} needs libraries, and a guest has none", path.display());
            Finding::new(CHECK, Level::Fail, message).remedy(rebuild)
        }
        None => {
            let message = format!("{} is no x86-64 program", path.display());
            Finding::new(CHECK, Level::Fail, message).remedy(rebuild)
        }
    }
}

fn network(config: &WorkerConfig) -> [Finding; 4] {
    let why = "networks need it; isolated bunkers do not";
    let tun = match rustix::fs::access("/dev/net/tun", read_write()) {
        Ok(()) => Finding::new("tun", Level::Ok, "/dev/net/tun is usable"),
        Err(error) => {
            let message = format!("/dev/net/tun is not usable ({error}): {why}");
            Finding::new("tun", Level::Info, message)
        }
    };
    let hosts = config.registry_hosts();
    let registry_hosts = if hosts.is_empty() {
        let message = "bunkers with the network profile `registry` reach nothing: apt, pip, npm and \
                       cargo name no hosts in their settings here";
        Finding::new("registry_hosts", Level::Info, message)
            .remedy("name the mirrors: `--registry-host NAME`")
    } else {
        let message = format!("the network profile `registry` reaches {}", hosts.join(", "));
        Finding::new("registry_hosts", Level::Ok, message)
    };
    let [nft, ip] = [program::NFT, program::IP]
        .map(|program| installed(program, program.find(), Level::Info, why));
    [tun, nft, ip, registry_hosts]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_maximum() {
        assert!(Level::Ok < Level::Info && Level::Info < Level::Warn && Level::Warn < Level::Fail);
    }

    #[test]
    fn findings_are_json_for_programs() {
        let finding = Finding::new("x", Level::Warn, "m").remedy("r");
        let json = serde_json::to_value(&finding).unwrap();
        let expected =
            serde_json::json!({ "check": "x", "level": "warn", "message": "m", "remedy": "r" });
        assert_eq!(json, expected);
    }

    #[test]
    fn kvm_is_believed_only_once_measured() {
        assert_eq!(unprobed(Ok(())).level, Level::Info);
        let denied = unprobed(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(denied.level, Level::Warn);
        assert!(denied.remedy.unwrap().contains("kvm"));
        assert_eq!(unprobed(Err(io::ErrorKind::NotFound.into())).level, Level::Info);
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let finding = installed(program::MMDEBSTRAP, None, Level::Warn, "needed");
        assert_eq!(finding.level, Level::Warn);
        assert!(finding.remedy.unwrap().contains("install mmdebstrap"));
    }

    #[test]
    fn a_guest_agent_that_is_not_there_fails() {
        let finding = guest_agent(Path::new("/no/such/agent"));
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.remedy.is_some());
    }

    #[tokio::test]
    async fn a_missing_vmm_fails_with_its_package() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let engine = engine_findings(&missing).await;
        assert_eq!((engine.len(), engine[0].level), (1, Level::Fail));
    }

    async fn engine_findings(program: &Path) -> Vec<Finding> {
        let config = WorkerConfig {
            name: "test".to_owned(),
            data_dir: program.to_path_buf(),
            cache_dir: program.to_path_buf(),
            guest_agent: program.to_path_buf(),
            qemu: program.to_path_buf(),
            accelerator: crate::config::AcceleratorChoice::Probe,
            controller_urls: Vec::new(),
            storage_url: None,
            worker_token: String::new(),
            import_dir: program.to_path_buf(),
            image_cache_mb: None,
            registries: crate::oci::RegistrySettings::default(),
            program: program.to_path_buf(),
            images: Vec::new(),
            pool_size: 0,
            overcommit: crate::config::Overcommit::default(),
            gpu_type: None,
            egress_allow: Vec::new(),
            registry_hosts: None,
            keep_bunkers: false,
        };
        engine(&config).await
    }
}

//! Which accelerator really works.
//!
//! A `/dev/kvm` that exists can still be useless: on some nested hosts it runs guest kernel code
//! thousands of times too slowly, or stops with an emulation failure. So a template is booted
//! with it once, against a limit that real hardware meets ten times over, and the answer is kept
//! for as long as host kernel and QEMU stay the same.

use std::{fs, io, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::Instant};

use super::{Accelerator, Qemu, io_failed};
use crate::{
    assets::BakedImage,
    chain,
    channel::GuestChannel,
    engine::{DiskStart, Engine as _, EngineError, Nics, Shape},
    scratch::ScratchDisk,
    seat::Seat,
};

/// kvm boots the template in under half a second.
const KVM_BOOT_LIMIT: Duration = Duration::from_secs(6);
const KVM_DEVICE: &str = "/dev/kvm";
const FILE: &str = "accelerator.json";

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub accelerator: Accelerator,
    /// Why, in a sentence for operators.
    pub reason: String,
    /// What the answer holds for: the host's boot and QEMU's version.
    host: String,
}

/// What an earlier probe on this host, since its last boot, found.
#[must_use]
pub fn remembered(data_dir: &Path, qemu_version: &str) -> Option<Verdict> {
    let verdict: Verdict = serde_json::from_slice(&fs::read(data_dir.join(FILE)).ok()?).ok()?;
    (verdict.host == host(qemu_version)).then_some(verdict)
}

fn host(qemu_version: &str) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{} {qemu_version}", boot.trim())
}

/// QEMU's version, such as `7.2.22`.
pub async fn version(program: &Path) -> Result<String, EngineError> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(io_failed("run QEMU; install qemu-system-x86"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.split_whitespace().skip_while(|word| *word != "version");
    words.skip(1).map(str::to_owned).next().ok_or_else(|| {
        EngineError::Protocol(format!("{} does not tell its version", program.display()))
    })
}

impl Qemu {
    /// The same engine with the accelerator that works here, found out by booting `image` in
    /// `seat` if no earlier server has.
    pub async fn probed(
        mut self,
        data_dir: &Path,
        image: &BakedImage,
        seat: &mut Seat,
        scratch: ScratchDisk,
    ) -> Result<Self, EngineError> {
        if let Some(verdict) = remembered(data_dir, &self.version) {
            tracing::info!(reason = verdict.reason, "accelerator known from an earlier start");
            self.accelerator = verdict.accelerator;
            return Ok(self);
        }
        self.accelerator = Accelerator::Kvm;
        let (accelerator, reason) = self.try_kvm(image, seat, scratch).await;
        tracing::info!(accelerator = accelerator.as_str(), reason, "accelerator probed");
        let verdict = Verdict { accelerator, reason, host: host(&self.version) };
        remember(data_dir, &verdict).map_err(io_failed("remember the accelerator"))?;
        self.accelerator = accelerator;
        Ok(self)
    }

    async fn try_kvm(
        &self,
        image: &BakedImage,
        seat: &mut Seat,
        scratch: ScratchDisk,
    ) -> (Accelerator, String) {
        if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(KVM_DEVICE) {
            return (Accelerator::Tcg, format!("{KVM_DEVICE} cannot be opened: {error}"));
        }
        let began = Instant::now();
        let refused = match self.boot(&probe_shape(image), image, seat, scratch).await {
            Ok(_vm) => match GuestChannel::connect(&seat.home, KVM_BOOT_LIMIT).await {
                Ok(_channel) => {
                    let took_ms = began.elapsed().as_millis();
                    let reason = format!("a microVM booted with kvm in {took_ms} ms");
                    return (Accelerator::Kvm, reason);
                }
                Err(error) => chain(&error),
            },
            Err(error) => chain(&error),
        };
        let reason = format!("{KVM_DEVICE} exists but no microVM boots with it: {refused}");
        (Accelerator::Tcg, reason)
    }
}

/// The smallest VM that boots.
#[must_use]
pub fn probe_shape(image: &BakedImage) -> Shape {
    Shape {
        image: image.digest.clone(),
        vcpus: 1,
        memory_mb: 256,
        disk_mb: 64,
        nics: Nics::None,
        disk: DiskStart::Fresh,
    }
}

fn remember(data_dir: &Path, verdict: &Verdict) -> io::Result<()> {
    let next = data_dir.join(format!("{FILE}.next"));
    fs::write(&next, serde_json::to_vec(verdict)?)?;
    fs::rename(next, data_dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_one_boot_and_one_qemu() {
        let dir = tempfile::tempdir().unwrap();
        let verdict = Verdict {
            accelerator: Accelerator::Tcg,
            reason: "tested".to_owned(),
            host: host("7.2.22"),
        };
        remember(dir.path(), &verdict).unwrap();
        assert_eq!(remembered(dir.path(), "7.2.22"), Some(verdict));
        assert_eq!(remembered(dir.path(), "8.0.0"), None);
    }
}

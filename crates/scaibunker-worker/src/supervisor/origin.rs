//! Where a bunker's VM comes from.

use std::sync::Arc;

use scaibunker_api::{
    bunker::NetworkProfile,
    worker::{StartBunker, StartNetwork},
};

use scaibunker_snapshot::{Layout, link::RestoreSnapshot};

use crate::{
    engine::{DiskStart, Nics, Shape, Template},
    execs,
    pool::{Pool, Restore},
    snapshots::{RestoreError, Snapshots},
    vm::{Past, Vm, VmError},
    vm_home::Claim,
};

/// What a bunker starts as.
pub enum Origin {
    /// Its image.
    Image,
    /// A snapshot; with a memory, that of the bunker itself if it goes on.
    Snapshot { from: RestoreSnapshot, snapshots: Snapshots, goes_on: bool },
    /// A bunker at one moment.
    Moment { template: Arc<Template>, past: Past },
}

/// Makes the bunker's VM.
pub(super) async fn make(
    pool: &Pool,
    origin: Origin,
    spec: &StartBunker,
    claim: Claim,
    request_id: &str,
) -> Result<Vm, VmError> {
    let shape = shape(spec);
    match origin {
        Origin::Snapshot { from, snapshots, goes_on } => {
            let manifest = snapshots.manifest(&from).await?;
            let has_memory = manifest.layout.has_memory();
            check_sizes(&manifest.layout, spec)?;
            if has_memory {
                let image = pool.images().image(&spec.image).ok_or(VmError::NoImage)?;
                let moment = snapshots.moment(&from, &manifest, shape, image).await?;
                let vm = pool.make_from_moment(&Arc::new(moment)).await?;
                let past = if goes_on { Past::Own } else { Past::Anothers };
                let vm = give(vm, claim, past, spec, request_id).await?;
                execs::leave(vm.home().path(), manifest.execs).await;
                return Ok(vm);
            }
            let shape = Shape { disk: DiskStart::Restored, ..shape };
            let vm = pool.make_restored(&shape, &Restore { from, manifest, snapshots }).await?;
            give(vm, claim, Past::None, spec, request_id).await
        }
        Origin::Moment { template, past } => {
            let vm = pool.make_from_moment(&template).await?;
            give(vm, claim, past, spec, request_id).await
        }
        Origin::Image if spec.gpu_count > 0 => {
            let vm = pool.make_with_gpus(&shape, spec.gpu_count).await?;
            give(vm, claim, Past::None, spec, request_id).await
        }
        Origin::Image => {
            if let Some(vm) = pool.take_ready(&shape) {
                match give(vm, claim.clone(), Past::None, spec, request_id).await {
                    Ok(vm) => return Ok(vm),
                    // It died on the shelf, which need not concern the caller.
                    Err(error) => {
                        tracing::warn!(error = %crate::chain(&error), "a ready VM was unusable");
                    }
                }
            }
            let vm = pool.make_now(&shape).await?;
            give(vm, claim, Past::None, spec, request_id).await
        }
    }
}

fn check_sizes(layout: &Layout, spec: &StartBunker) -> Result<(), RestoreError> {
    let of_mb = |mb: u32| u64::from(mb) << 20;
    let is_it = layout.disk_bytes == of_mb(spec.disk_mb)
        && (!layout.has_memory() || layout.memory_bytes == of_mb(spec.memory_mb));
    if is_it { Ok(()) } else { Err(RestoreError::Size) }
}

/// That of a bunker's VM, whose disk starts empty.
pub(super) fn shape(spec: &StartBunker) -> Shape {
    Shape {
        image: spec.image.clone(),
        vcpus: spec.cpu_millicores.div_ceil(1000).max(1),
        memory_mb: spec.memory_mb,
        disk_mb: spec.disk_mb,
        nics: nics(&spec.network),
        disk: DiskStart::Fresh,
    }
}

/// The devices that a bunker's network wants.
fn nics(network: &StartNetwork) -> Nics {
    match network.profile {
        NetworkProfile::Isolated => Nics::None,
        NetworkProfile::Registry | NetworkProfile::Allowlisted | NetworkProfile::Unrestricted => {
            Nics::Gateway
        }
        NetworkProfile::Transit => Nics::Bridges(network.interfaces.len() as u32),
    }
}

/// Makes the VM the bunker's, or frees it.
async fn give(
    mut vm: Vm,
    claim: Claim,
    past: Past,
    spec: &StartBunker,
    request_id: &str,
) -> Result<Vm, VmError> {
    let limits = (spec.cpu_millicores, spec.memory_mb);
    let claimed = vm.claim(claim, past, limits, request_id).await;
    vm.unless_failed(claimed).await
}

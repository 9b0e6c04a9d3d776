//! What a create request must look like, and what it becomes.

use scaibunker_api::{
    bunker::{BunkerStatus, CreateBunker, LifecycleMode, NetworkProfile},
    error::{ErrorBody, ErrorCode},
    image::Image,
    permission::Permission,
};

use super::{
    actor::Actor,
    bunker::{Bunker, Spec},
    network,
    violations::Violations,
};

/// A guest with less does not reach its agent.
pub const MIN_MEMORY_MB: u64 = 128;
pub const MIN_CPU_MILLICORES: u64 = 100;
/// The smallest ext4 file system that holds an overlay's directories.
pub const MIN_DISK_MB: u64 = 16;
pub const MAX_DISK_MB: u64 = 1_048_576;
const MAX_GPUS: u64 = 64;
const MAX_CHILDREN: u64 = 100;
pub const MAX_LABELS: usize = 64;
/// Ten years: longer than any machine, and far from the end of every clock.
pub const MAX_SECONDS: u64 = 315_360_000;
/// How long a bunker may be paused before it is written out.
pub const DEFAULT_EVICT_AFTER_S: u64 = 3_600;

/// The lifetime and idle limits of a mode, in seconds.
#[must_use]
pub fn default_limits_s(mode: LifecycleMode) -> (Option<u64>, Option<u64>) {
    match mode {
        LifecycleMode::Ephemeral => (Some(3_600), Some(300)),
        LifecycleMode::Session => (Some(86_400), Some(1_800)),
        LifecycleMode::Persistent => (None, None),
    }
}

/// The checks that need nothing but the request and its sender, in the contract's order: body,
/// permissions, interfaces and allowlist.
pub fn check(actor: &Actor, request: &CreateBunker) -> Result<(), ErrorBody> {
    check_shape(request)?;
    authorise(actor, request)?;
    network::check_options(request)
}

fn check_shape(request: &CreateBunker) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    match (&request.snapshot_id, request.image.as_str()) {
        (Some(_), "") => {}
        (Some(_), _) => faults.add("image", "leave it out: the snapshot's own is used"),
        (None, "") => faults.add("image", "is required: the name, name@digest or id of an image"),
        (None, image) => faults.text("image", Some(image), 1..=255),
    }
    faults.text("name", request.name.as_deref(), 1..=128);
    faults.text("session_ref", request.session_ref.as_deref(), 1..=255);
    faults.text("gpu_type", request.gpu_type.as_deref(), 1..=64);
    faults.number("gpu_count", Some(request.gpu_count.into()), 0..=MAX_GPUS);
    if request.gpu_type.is_some() && request.gpu_count == 0 {
        faults.add("gpu_type", "needs a `gpu_count` of at least 1");
    }
    if request.snapshot_id.is_some() && request.gpu_count > 0 {
        faults.add("gpu_count", "a bunker from a snapshot has no GPUs");
    }
    check_labels(&mut faults, &request.label_set);
    faults.environment("env_vars", &request.env_vars);
    let cpu = request.cpu_millicores.map(u64::from);
    faults.number("cpu_millicores", cpu, MIN_CPU_MILLICORES..=1_024_000);
    let memory = request.memory_mb.map(u64::from);
    faults.number("memory_mb", memory, MIN_MEMORY_MB..=u64::from(u32::MAX));
    if memory.is_some_and(|memory| memory % 2 != 0) {
        faults.add("memory_mb", "must be even: a microVM's memory comes in pages of 2 MiB");
    }
    faults.number("disk_mb", request.disk_mb.map(u64::from), MIN_DISK_MB..=MAX_DISK_MB);
    faults.number("bandwidth_mbit", request.bandwidth_mbit.map(u64::from), 1..=10_000);
    faults.number("max_lifetime_s", request.max_lifetime_s, 1..=MAX_SECONDS);
    faults.number("idle_timeout_s", request.idle_timeout_s, 1..=MAX_SECONDS);
    faults.number("pause_evict_after_s", request.pause_evict_after_s, 1..=MAX_SECONDS);
    faults.into_result()
}

/// Labels as create and patch take them.
pub fn check_labels(faults: &mut Violations, labels: &std::collections::BTreeMap<String, String>) {
    if labels.len() > MAX_LABELS {
        faults.add("label_set", format!("at most {MAX_LABELS} labels are taken"));
    }
    for (name, value) in labels {
        faults.text("label_set", Some(name), 1..=63);
        if name.contains(['=', ',']) {
            faults.add("label_set", format!("the name {name:?} must not contain `=` or `,`"));
        }
        faults.text(&format!("label_set.{name}"), Some(value), 0..=255);
    }
}

fn authorise(actor: &Actor, request: &CreateBunker) -> Result<(), ErrorBody> {
    actor.require(Permission::Create)?;
    let mode = match request.lifecycle_mode {
        LifecycleMode::Ephemeral => None,
        LifecycleMode::Session => Some(Permission::CreateSession),
        LifecycleMode::Persistent => Some(Permission::CreatePersistent),
    };
    if let Some(permission) = mode.filter(|&permission| !actor.may(permission)) {
        let message = format!(
            "the lifecycle mode `{}` needs the permission `{}`; ask a tenant admin for it",
            request.lifecycle_mode.as_str(),
            permission.key()
        );
        return Err(ErrorBody::new(ErrorCode::LifecycleModeDenied, message));
    }
    network::authorise(actor, request)
}

/// Whether somebody may fork a bunker, and the bunker can be.
pub fn check_fork(actor: &Actor, parent: &Bunker, count: u32) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    faults.number("count", Some(count.into()), 1..=MAX_CHILDREN);
    faults.into_result()?;
    let spec = &parent.spec;
    authorise(
        actor,
        &CreateBunker {
            lifecycle_mode: spec.lifecycle_mode,
            network_profile: spec.network_profile,
            ..CreateBunker::default()
        },
    )?;
    let refused = |what: &str| Err(ErrorBody::new(ErrorCode::CannotBeCopied, what));
    match parent.status() {
        _ if spec.network_profile == NetworkProfile::Transit => {
            refused("a bunker on bridges has addresses that are not ours to give to its children")
        }
        _ if spec.gpu_count > 0 => refused("what a bunker has in its GPUs cannot be copied"),
        BunkerStatus::Running | BunkerStatus::Paused => Ok(()),
        status => {
            let status = status.as_str();
            let message =
                format!("the bunker is {status}; only one that runs or is paused can fork");
            Err(ErrorBody::new(ErrorCode::BunkerNotRunning, message))
        }
    }
}

/// The request with what a snapshot's bunker was, where it says nothing.
#[must_use]
pub fn from_snapshot(request: CreateBunker, was: &Spec) -> CreateBunker {
    let mut env_vars = was.env_vars.clone();
    env_vars.extend(request.env_vars);
    CreateBunker {
        image: was.image.clone(),
        cpu_millicores: request.cpu_millicores.or(Some(was.cpu_millicores)),
        memory_mb: request.memory_mb.or(Some(was.memory_mb)),
        disk_mb: Some(was.disk_mb),
        env_vars,
        ..request
    }
}

/// The bunker that the request asks for: the image's and the mode's defaults filled in.
#[must_use]
pub fn resolve(request: CreateBunker, image: &Image) -> Spec {
    let (max_lifetime_s, idle_timeout_s) = default_limits_s(request.lifecycle_mode);
    Spec {
        image: request.image,
        image_id: image.id,
        snapshot_id: request.snapshot_id,
        parent_id: None,
        lifecycle_mode: request.lifecycle_mode,
        name: request.name,
        label_set: request.label_set,
        network_profile: request.network_profile,
        network_allowlist: request.network_allowlist,
        interfaces: request.interfaces,
        cpu_millicores: request.cpu_millicores.unwrap_or(image.default_cpu_millicores),
        memory_mb: request.memory_mb.unwrap_or(image.default_memory_mb),
        disk_mb: request.disk_mb.unwrap_or(image.default_disk_mb),
        gpu_count: request.gpu_count,
        gpu_type: request.gpu_type,
        max_lifetime_s: request.max_lifetime_s.or(max_lifetime_s),
        idle_timeout_s: request.idle_timeout_s.or(idle_timeout_s),
        on_idle: request.on_idle,
        pause_evict_after_s: request.pause_evict_after_s.or(Some(DEFAULT_EVICT_AFTER_S)),
        session_type: request.session_type,
        session_ref: request.session_ref,
        env_vars: request.env_vars,
        bandwidth_mbit: request.bandwidth_mbit,
        egress_audit: request.egress_audit,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use scaibunker_api::{bunker::NetworkProfile, ids::SnapshotId};

    use super::*;
    use crate::domain::{actor::tests::actor, image};

    fn request() -> CreateBunker {
        CreateBunker { image: "busybox".to_owned(), ..CreateBunker::default() }
    }

    fn faults(request: &CreateBunker) -> Vec<String> {
        let error = check(&actor(Permission::ALL), request).unwrap_err();
        assert_eq!(error.code, ErrorCode::ValidationError);
        error.details.into_iter().map(|detail| detail.field).collect()
    }

    #[test]
    fn a_plain_request_passes() {
        assert_eq!(check(&actor(&[Permission::Create]), &request()), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_named() {
        let zero = Some(0);
        assert_eq!(
            faults(&CreateBunker {
                cpu_millicores: zero,
                memory_mb: zero,
                disk_mb: zero,
                bandwidth_mbit: zero,
                max_lifetime_s: Some(0),
                idle_timeout_s: Some(u64::MAX),
                ..request()
            }),
            [
                "cpu_millicores",
                "memory_mb",
                "disk_mb",
                "bandwidth_mbit",
                "max_lifetime_s",
                "idle_timeout_s"
            ]
        );
        assert_eq!(faults(&CreateBunker { memory_mb: Some(129), ..request() }), ["memory_mb"]);
        assert_eq!(faults(&CreateBunker::default()), ["image"]);
        let snapshot_id = Some(SnapshotId::generate());
        assert_eq!(faults(&CreateBunker { snapshot_id, ..request() }), ["image"]);
        let image = String::new();
        let with_gpu = CreateBunker { snapshot_id, image, gpu_count: 1, ..request() };
        assert_eq!(faults(&with_gpu), ["gpu_count"]);
        let name = Some("x".repeat(129));
        assert_eq!(faults(&CreateBunker { name, ..request() }), ["name"]);
        let label_set = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(faults(&CreateBunker { label_set, ..request() }), ["label_set"]);
        let env_vars = BTreeMap::from([("A=".to_owned(), String::new())]);
        assert_eq!(faults(&CreateBunker { env_vars, ..request() }), ["env_vars"]);
    }

    #[test]
    fn modes_and_profiles_need_their_own_permission() {
        let plain = actor(&[Permission::Create]);
        let session = CreateBunker { lifecycle_mode: LifecycleMode::Session, ..request() };
        let refusal = check(&plain, &session).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::LifecycleModeDenied);
        assert!(refusal.message.contains("scaibunker:create:session"));
        assert!(check(&actor(&[Permission::Create, Permission::CreateSession]), &session).is_ok());

        let registry = CreateBunker { network_profile: NetworkProfile::Registry, ..request() };
        let refusal = check(&plain, &registry).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::NetworkProfileDenied);
        assert!(refusal.message.contains("scaibunker:network:registry"));

        let refusal = check(&actor(&[]), &request()).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Forbidden);
    }

    #[test]
    fn the_body_is_checked_before_the_permissions_and_those_before_the_network() {
        let bad = CreateBunker {
            memory_mb: Some(0),
            network_profile: NetworkProfile::Transit,
            ..request()
        };
        let code = |actor: &Actor, request| check(actor, request).unwrap_err().code;
        assert_eq!(code(&actor(&[]), &bad), ErrorCode::ValidationError);
        let denied = CreateBunker { memory_mb: None, ..bad.clone() };
        let plain = actor(&[Permission::Create]);
        assert_eq!(code(&plain, &denied), ErrorCode::NetworkProfileDenied);
        let admin = actor(Permission::ALL);
        assert_eq!(code(&admin, &denied), ErrorCode::TransitMissingInterfaces);
    }

    #[test]
    fn defaults_come_from_the_image_and_the_mode() {
        let image = Image {
            default_cpu_millicores: 500,
            default_memory_mb: 128,
            default_disk_mb: 64,
            ..image::tests::built_in()
        };
        let asked = CreateBunker {
            memory_mb: Some(256),
            lifecycle_mode: LifecycleMode::Session,
            idle_timeout_s: Some(5),
            ..request()
        };
        let spec = resolve(asked, &image);
        assert_eq!((spec.cpu_millicores, spec.memory_mb, spec.disk_mb), (500, 256, 64));
        assert_eq!((spec.max_lifetime_s, spec.idle_timeout_s), (Some(86_400), Some(5)));
    }

    #[test]
    fn a_kind_of_gpu_needs_a_number() {
        let kind = CreateBunker { gpu_type: Some("a100".to_owned()), ..request() };
        assert_eq!(check_shape(&kind).unwrap_err().details[0].field, "gpu_type");
        check_shape(&CreateBunker { gpu_count: 1, ..kind.clone() }).unwrap();
        let many = CreateBunker { gpu_count: 65, ..kind };
        assert_eq!(check_shape(&many).unwrap_err().details[0].field, "gpu_count");
    }
}

//! Images: what a request for one may say, who sees it, what becomes of it.

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{PartnerId, TenantId, WorkerId},
    image::{
        CreateImage, Image, ImageOrigin, ImageScope, ImageSource, ImageStatus, PatchImage,
        RegistryAuth,
    },
    worker::BakedRoot,
};

use super::{
    actor::{Actor, Reach},
    capability::{self, UPLOADS},
    violations::Violations,
};

const MAX_NAME_BYTES: usize = 128;
const MAX_REFERENCE_BYTES: usize = 512;
const MAX_PATH_BYTES: usize = 1024;
const SIZES_MIB: std::ops::RangeInclusive<u64> = 16..=65_536;

/// An image as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// What clients see of it.
    pub image: Image,
    /// Raised by every change.
    pub generation: i64,
    /// Credentials for the registry, sealed.
    pub registry_auth: Option<String>,
    /// Key of the compressed root file system in the object store.
    pub stored_key: Option<String>,
    /// The worker that bakes it.
    pub baker_id: Option<WorkerId>,
}

/// What happens to an image.
///
/// ```text
/// pending ──BakeBegan──▶ baking ──Stored──▶ ready
///    ▲ ▲                   │ │
///    │ └─────BakerLost─────┘ └─Failed─▶ failed
///    └──────────────Retried───────────────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageEvent {
    BakeBegan { worker_id: WorkerId },
    BakerLost,
    Stored(Box<BakedRoot>),
    Failed { reason: String },
    Retried,
}

impl ImageRecord {
    /// The image after `event`; `None` if it changes nothing.
    #[must_use]
    pub fn apply(&self, event: ImageEvent) -> Option<Self> {
        use ImageStatus::{Baking, Failed, Pending, Ready};
        let mut next = self.clone();
        next.generation += 1;
        let image = &mut next.image;
        match (image.status, event) {
            (Pending, ImageEvent::BakeBegan { worker_id }) => {
                image.status = Baking;
                next.baker_id = Some(worker_id);
            }
            (Baking, ImageEvent::BakerLost) => {
                image.status = Pending;
                next.baker_id = None;
            }
            // Whoever has baked it, it is baked.
            (Pending | Baking | Failed, ImageEvent::Stored(baked)) => {
                image.status = Ready;
                image.status_reason = None;
                image.digest = Some(baked.digest);
                image.manifest_digest = baked.manifest_digest;
                image.size_bytes = Some(baked.size_bytes);
                image.config = Some(baked.config);
                next.stored_key = Some(baked.key);
                next.baker_id = None;
            }
            (Pending | Baking, ImageEvent::Failed { reason }) => {
                image.status = Failed;
                image.status_reason = Some(reason);
                next.baker_id = None;
            }
            (Failed, ImageEvent::Retried) => {
                image.status = Pending;
                image.status_reason = None;
            }
            _ => return None,
        }
        Some(next)
    }

    /// What another worker is told to fetch.
    #[must_use]
    pub fn baked(&self) -> Option<BakedRoot> {
        Some(BakedRoot {
            key: self.stored_key.clone()?,
            digest: self.image.digest.clone()?,
            size_bytes: self.image.size_bytes?,
            manifest_digest: self.image.manifest_digest.clone(),
            config: self.image.config.clone()?,
        })
    }
}

/// Whom an image belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub tenant_id: Option<TenantId>,
    pub partner_id: Option<PartnerId>,
}

/// Whose images a caller sees and names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    pub tenant_id: TenantId,
    pub partner_id: PartnerId,
}

/// Checks a new image and says whose it will be.
pub fn check_create(actor: &Actor, home: Home, request: &CreateImage) -> Result<Owner, ErrorBody> {
    let mut faults = Violations::default();
    check_name(&mut faults, Some(&request.name));
    faults.number("size_mib", Some(request.size_mib.into()), SIZES_MIB);
    check_defaults(
        &mut faults,
        [request.default_cpu_millicores, request.default_memory_mb, request.default_disk_mb],
    );
    faults.environment("entrypoint_env", &request.entrypoint_env);
    match &request.source {
        ImageSource::Oci { reference, registry_auth } => {
            faults.text("source.ref", Some(reference), 3..=MAX_REFERENCE_BYTES);
            if !reference.contains('/') || reference.contains("://") || reference.contains(' ') {
                let message = "names the registry and the image, as in `registry.example/app:1.2`";
                faults.add("source.ref", message);
            }
            if let Some(auth) = registry_auth {
                check_auth(&mut faults, "source.registry_auth", auth);
            }
        }
        ImageSource::Tar { path, key } => {
            faults.text("source.path", path.as_deref(), 1..=MAX_PATH_BYTES);
            faults.text("source.key", key.as_deref(), 1..=MAX_PATH_BYTES);
            if path.is_some() == key.is_some() {
                faults.add("source", "of `path` and `key` exactly one is given");
            }
        }
    }
    faults.into_result()?;
    check_source(actor, &request.source)?;
    owner(actor, home, request.scope)
}

/// Checks a change of an image.
pub fn check_patch(patch: &PatchImage) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    check_name(&mut faults, patch.name.as_deref());
    check_defaults(
        &mut faults,
        [patch.default_cpu_millicores, patch.default_memory_mb, patch.default_disk_mb],
    );
    if let Some(env) = &patch.entrypoint_env {
        faults.environment("entrypoint_env", env);
    }
    if let Some(auth) = &patch.registry_auth {
        check_auth(&mut faults, "registry_auth", auth);
    }
    faults.into_result()
}

fn check_auth(faults: &mut Violations, field: &str, auth: &RegistryAuth) {
    faults.text(&format!("{field}.username"), Some(&auth.username), 1..=256);
    faults.text(&format!("{field}.password"), Some(&auth.password), 1..=16_384);
}

fn check_name(faults: &mut Violations, name: Option<&str>) {
    faults.text("name", name, 1..=MAX_NAME_BYTES);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/:-".contains(&byte);
    if name.is_some_and(|name| !name.bytes().all(is_plain)) {
        faults.add("name", "has letters, digits and `._/:-`");
    }
    if name.is_some_and(|name| name.starts_with("img_")) {
        faults.add("name", "must not begin as ids do");
    }
}

fn check_defaults(faults: &mut Violations, [cpu, memory, disk]: [Option<u32>; 3]) {
    faults.number("default_cpu_millicores", cpu.map(u64::from), 100..=256_000);
    faults.number("default_memory_mb", memory.map(u64::from), 64..=1_048_576);
    faults.number("default_disk_mb", disk.map(u64::from), 16..=1_048_576);
}

/// Files of workers are the platform's; uploads are their tenant's.
fn check_source(actor: &Actor, source: &ImageSource) -> Result<(), ErrorBody> {
    match source {
        ImageSource::Tar { path: Some(_), .. } if actor.reach != Reach::Platform => {
            let message = "archives on workers are the platform's; upload yours: mint a token with \
                           `POST /storage/capabilities` and give its object as `key`";
            Err(ErrorBody::new(ErrorCode::Forbidden, message))
        }
        // The object goes with its image, so it must be one that was uploaded for it.
        ImageSource::Tar { key: Some(key), .. } if !key.starts_with(UPLOADS) => {
            Err(ErrorBody::invalid(
                "source.key",
                format!("is not an upload: it begins with `{UPLOADS}`"),
            ))
        }
        ImageSource::Tar { key: Some(key), .. } => capability::check_prefix(actor, key),
        _ => Ok(()),
    }
}

fn owner(actor: &Actor, home: Home, scope: ImageScope) -> Result<Owner, ErrorBody> {
    let refused = |who: &str| {
        let message = format!("images with this scope are made by {who}");
        Err(ErrorBody::new(ErrorCode::Forbidden, message))
    };
    match (scope, &actor.reach) {
        (ImageScope::Tenant, _) => Ok(Owner { tenant_id: Some(home.tenant_id), partner_id: None }),
        (ImageScope::Partner, Reach::Partner(partner, _)) => {
            Ok(Owner { tenant_id: None, partner_id: Some(*partner) })
        }
        (ImageScope::Partner, Reach::Platform) => {
            Ok(Owner { tenant_id: None, partner_id: Some(home.partner_id) })
        }
        (ImageScope::Platform, Reach::Platform) => Ok(Owner { tenant_id: None, partner_id: None }),
        (ImageScope::Partner, Reach::Tenant(_)) => refused("the partner's admins"),
        (ImageScope::Platform, _) => refused("the platform's admins"),
    }
}

/// Whether the image exists as far as the caller is concerned.
#[must_use]
pub fn sees(actor: &Actor, home: Home, image: &Image) -> bool {
    match image.scope {
        ImageScope::Platform => true,
        ImageScope::Partner => match &actor.reach {
            Reach::Platform => true,
            Reach::Partner(partner, _) => image.partner_id == Some(*partner),
            Reach::Tenant(_) => image.partner_id == Some(home.partner_id),
        },
        ImageScope::Tenant => image.tenant_id.is_some_and(|tenant| actor.reach.covers(tenant)),
    }
}

/// Refuses a caller that sees an image and is not the one to change it.
pub fn check_change(actor: &Actor, image: &Image) -> Result<(), ErrorBody> {
    if image.source == ImageOrigin::BuiltIn {
        let message = "built-in images come with the workers and cannot be changed";
        return Err(ErrorBody::new(ErrorCode::Forbidden, message));
    }
    let is_own = match (image.scope, &actor.reach) {
        (_, Reach::Platform) => true,
        (ImageScope::Partner, Reach::Partner(partner, _)) => image.partner_id == Some(*partner),
        (ImageScope::Tenant, reach) => image.tenant_id.is_some_and(|tenant| reach.covers(tenant)),
        _ => false,
    };
    if is_own {
        return Ok(());
    }
    let message = "this image is not your tenant's; whoever made it can change it";
    Err(ErrorBody::new(ErrorCode::Forbidden, message))
}

/// Of images with one name, the one that a caller at `home` means: its tenant's, then its
/// partner's, then the platform's, and of several there the newest.
#[must_use]
pub fn meant<'a>(home: Home, images: impl Iterator<Item = &'a Image>) -> Option<&'a Image> {
    let nearness = |image: &Image| match image.scope {
        ImageScope::Tenant if image.tenant_id == Some(home.tenant_id) => Some(2),
        ImageScope::Partner if image.partner_id == Some(home.partner_id) => Some(1),
        ImageScope::Platform => Some(0),
        _ => None,
    };
    let near = images.filter_map(|image| Some((nearness(image)?, image.id, image)));
    near.max_by_key(|(nearness, id, _)| (*nearness, *id)).map(|(_, _, image)| image)
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use scaibunker_api::{
        ids::ImageId,
        image::{DEFAULT_SIZE_MIB, ScanStatus},
    };
    use serde_json::json;

    use super::*;
    use crate::domain::actor::tests::actor;

    /// An image that comes with the workers.
    pub fn built_in() -> Image {
        Image {
            id: ImageId::generate(),
            name: "busybox".to_owned(),
            scope: ImageScope::Platform,
            tenant_id: None,
            partner_id: None,
            created_by: None,
            created_at: Timestamp::UNIX_EPOCH,
            source: ImageOrigin::BuiltIn,
            status: ImageStatus::Ready,
            status_reason: None,
            digest: Some("sha256:0".to_owned()),
            manifest_digest: None,
            size_bytes: Some(1),
            size_mib: DEFAULT_SIZE_MIB,
            default_cpu_millicores: 1000,
            default_memory_mb: 256,
            default_disk_mb: 256,
            lazy_pull: false,
            entrypoint_env: BTreeMap::new(),
            config: None,
            scan_status: ScanStatus::Pending,
        }
    }

    fn baked() -> Box<BakedRoot> {
        Box::new(BakedRoot {
            key: "images/x/y.ext4.zst".to_owned(),
            digest: "sha256:1".to_owned(),
            size_bytes: 5,
            manifest_digest: None,
            config: Default::default(),
        })
    }

    pub fn pending() -> ImageRecord {
        let image = Image {
            source: ImageOrigin::Oci { reference: "r.test/a:1".into(), has_registry_auth: false },
            status: ImageStatus::Pending,
            digest: None,
            size_bytes: None,
            ..built_in()
        };
        ImageRecord { image, generation: 0, registry_auth: None, stored_key: None, baker_id: None }
    }

    #[test]
    fn a_ready_image_stays_as_it_is() {
        let worker_id = WorkerId::generate();
        let baking = pending().apply(ImageEvent::BakeBegan { worker_id }).unwrap();
        assert_eq!(baking.baker_id, Some(worker_id));
        assert_eq!(baking.apply(ImageEvent::BakeBegan { worker_id }), None);
        let failed = baking.apply(ImageEvent::Failed { reason: "x".into() }).unwrap();
        assert_eq!(failed.apply(ImageEvent::BakeBegan { worker_id }), None);
        let again = failed.apply(ImageEvent::Retried).unwrap();
        assert_eq!((again.image.status, again.image.status_reason), (ImageStatus::Pending, None));
        let ready = baking.apply(ImageEvent::Stored(baked())).unwrap();
        assert_eq!(
            ready.baked(),
            Some(*baked()).map(|b| BakedRoot { config: Default::default(), ..b })
        );
        for event in [
            ImageEvent::BakerLost,
            ImageEvent::Retried,
            ImageEvent::Failed { reason: "x".into() },
            ImageEvent::Stored(baked()),
        ] {
            assert_eq!(ready.apply(event), None);
        }
    }

    #[test]
    fn a_name_means_the_nearest_image() {
        let home = Home { tenant_id: TenantId::generate(), partner_id: PartnerId::generate() };
        let platform = built_in();
        let partner = Image {
            scope: ImageScope::Partner,
            partner_id: Some(home.partner_id),
            id: ImageId::generate(),
            ..built_in()
        };
        let tenant = Image {
            scope: ImageScope::Tenant,
            tenant_id: Some(home.tenant_id),
            id: ImageId::generate(),
            ..built_in()
        };
        let other = Image {
            scope: ImageScope::Tenant,
            tenant_id: Some(TenantId::generate()),
            id: ImageId::generate(),
            ..built_in()
        };
        let of = |images: &[&Image]| meant(home, images.iter().copied()).map(|image| image.id);
        assert_eq!(of(&[&platform, &tenant, &partner, &other]), Some(tenant.id));
        assert_eq!(of(&[&platform, &partner, &other]), Some(partner.id));
        assert_eq!(of(&[&other, &platform]), Some(platform.id));
        assert_eq!(of(&[&other]), None);
    }

    #[test]
    fn an_image_has_a_plain_name_and_one_source() {
        let home = Home { tenant_id: TenantId::generate(), partner_id: PartnerId::generate() };
        let admin = Actor { reach: Reach::Platform, ..actor(&[]) };
        let request =
            |json: serde_json::Value| serde_json::from_value::<CreateImage>(json).unwrap();
        let fields = |json| match check_create(&admin, home, &request(json)) {
            Ok(_) => Vec::new(),
            Err(error) => error.details.into_iter().map(|detail| detail.field).collect(),
        };
        let oci = json!({ "kind": "oci", "ref": "r.test/a:1" });
        assert!(fields(json!({ "name": "team/app:1.2", "source": oci })).is_empty());
        for name in ["", "a b", "a@b", "img_x"] {
            assert_eq!(fields(json!({ "name": name, "source": oci })), ["name"], "{name}");
        }
        let none = json!({ "kind": "tar" });
        assert_eq!(fields(json!({ "name": "a", "source": none })), ["source"]);
        let both = json!({ "kind": "tar", "path": "a", "key": "b" });
        assert_eq!(fields(json!({ "name": "a", "source": both })), ["source"]);
        let small = json!({ "name": "a", "source": oci, "size_mib": 1 });
        assert_eq!(fields(small), ["size_mib"]);
        let snapshot = json!({ "kind": "tar", "key": "snapshots/a" });
        assert_eq!(fields(json!({ "name": "a", "source": snapshot })), ["source.key"]);
        let url = json!({ "kind": "oci", "ref": "https://r.test/a" });
        assert_eq!(fields(json!({ "name": "a", "source": url })), ["source.ref"]);
    }

    #[test]
    fn scopes_and_worker_files_are_for_those_who_reach_them() {
        let home = Home { tenant_id: TenantId::generate(), partner_id: PartnerId::generate() };
        let caller = Actor { reach: Reach::Tenant(home.tenant_id), ..actor(&[]) };
        let request = |scope: &str, source| {
            let json = json!({ "name": "a", "scope": scope, "source": source });
            serde_json::from_value::<CreateImage>(json).unwrap()
        };
        let oci = json!({ "kind": "oci", "ref": "r.test/a:1" });
        let check = |request: CreateImage| check_create(&caller, home, &request);
        let own = Owner { tenant_id: Some(home.tenant_id), partner_id: None };
        assert_eq!(check(request("tenant", oci.clone())), Ok(own));
        for scope in ["partner", "platform"] {
            let error = check(request(scope, oci.clone())).unwrap_err();
            assert_eq!(error.code, ErrorCode::Forbidden);
        }
        for source in [
            json!({ "kind": "tar", "path": "a.tar" }),
            json!({ "kind": "tar", "key": "images/uploads/x/a" }),
        ] {
            assert_eq!(check(request("tenant", source)).unwrap_err().code, ErrorCode::Forbidden);
        }
        let key = format!("images/uploads/{}/a.tar", home.tenant_id);
        assert!(check(request("tenant", json!({ "kind": "tar", "key": key }))).is_ok());
    }
}

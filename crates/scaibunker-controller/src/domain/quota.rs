//! Quotas: what a bunker costs, which profiles apply to its owner, and what they leave.
//!
//! A profile's caps hold for a *bucket*: one user's bunkers, or those of a group or tenant together.
//! A bunker is charged to every bucket of the profiles that apply to its owner, once each.

use std::{fmt, str::FromStr};

use scaibunker_api::{
    bunker::LifecycleMode,
    error::{ErrorBody, ErrorCode, ErrorDetail},
    ids::{GroupId, QuotaProfileId, TenantId, UserId, WorkerId},
    quota::{Assignment, AssignmentMode, Caps, QuotaProfile, Resource, ResourceUsage},
    worker::Capacity,
};
use serde::{Deserialize, Serialize};

use super::bunker::Spec;

/// Where use is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    User(UserId),
    Group(GroupId),
    Tenant(TenantId),
    /// What bunkers take of a worker. Its capacity is the cap.
    Worker(WorkerId),
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Group(id) => write!(f, "group:{id}"),
            Self::Tenant(id) => write!(f, "tenant:{id}"),
            Self::Worker(id) => write!(f, "worker:{id}"),
        }
    }
}

/// The text was not a bucket's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a quota bucket: {0:?}")]
pub struct InvalidBucket(String);

impl FromStr for Bucket {
    type Err = InvalidBucket;

    fn from_str(text: &str) -> Result<Self, InvalidBucket> {
        let parsed = match text.split_once(':') {
            Some(("user", id)) => id.parse().ok().map(Self::User),
            Some(("group", id)) => id.parse().ok().map(Self::Group),
            Some(("tenant", id)) => id.parse().ok().map(Self::Tenant),
            Some(("worker", id)) => id.parse().ok().map(Self::Worker),
            _ => None,
        };
        parsed.ok_or_else(|| InvalidBucket(text.chars().take(80).collect()))
    }
}

impl Serialize for Bucket {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bucket {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount of each resource, in the order of [`Resource::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amounts([u64; Resource::ALL.len()]);

impl Amounts {
    /// What a bunker takes while it runs.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        let persistent = spec.lifecycle_mode == LifecycleMode::Persistent;
        Self([
            1,
            u64::from(persistent),
            spec.cpu_millicores.into(),
            spec.memory_mb.into(),
            spec.disk_mb.into(),
            spec.gpu_count.into(),
        ])
    }

    /// The amount of one resource.
    #[must_use]
    pub fn get(&self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }

    /// The same without CPU: what a paused bunker keeps.
    #[must_use]
    pub fn without_cpu(mut self) -> Self {
        self.0[Resource::CpuMillicores as usize] = 0;
        self
    }

    /// Nothing but the CPU: what a paused bunker takes when it resumes.
    #[must_use]
    pub fn only_cpu(self) -> Self {
        let mut cpu = Self::default();
        cpu.0[Resource::CpuMillicores as usize] = self.get(Resource::CpuMillicores);
        cpu
    }

    /// The sums.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_add(other.0[at])))
    }

    /// The differences, none below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_sub(other.0[at])))
    }

    /// The numbers, in the order of [`Resource::ALL`].
    #[must_use]
    pub fn numbers(&self) -> [u64; Resource::ALL.len()] {
        self.0
    }
}

impl From<[u64; Resource::ALL.len()]> for Amounts {
    fn from(numbers: [u64; Resource::ALL.len()]) -> Self {
        Self(numbers)
    }
}

/// What one bunker is charged, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Charge {
    /// Each at most once.
    pub buckets: Vec<Bucket>,
    /// What it takes while it runs.
    pub amounts: Amounts,
    pub paused: bool,
}

impl Charge {
    /// Of a bunker that is about to run on a worker, or that no worker has.
    #[must_use]
    pub fn new(buckets: &[Bucket], worker: Option<WorkerId>, spec: &Spec) -> Self {
        let buckets = buckets.iter().copied().chain(worker.map(Bucket::Worker)).collect();
        Self { buckets, amounts: Amounts::of(spec), paused: false }
    }

    /// What counts now in one of the buckets. A paused bunker gives its CPU back to its owner's
    /// quota, and keeps it on its worker: it can resume whatever else runs there.
    #[must_use]
    pub fn counted_in(&self, bucket: Bucket) -> Amounts {
        match bucket {
            Bucket::Worker(_) => self.amounts,
            _ if self.paused => self.amounts.without_cpu(),
            _ => self.amounts,
        }
    }
}

/// The ceiling of the whole installation, over every profile: `PLATFORM_MAX_*`.
pub type PlatformMax = Caps;

/// A profile that applies to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedProfile {
    pub id: QuotaProfileId,
    pub name: String,
    pub bucket: Bucket,
    /// The profile's caps, none above the platform's.
    pub caps: Caps,
}

impl AppliedProfile {
    /// A worker's capacity, which holds its bucket as a profile holds a user's.
    #[must_use]
    pub fn of_worker(id: WorkerId, capacity: Capacity) -> Self {
        Self {
            id: QuotaProfileId::from(id.uuid()),
            name: format!("capacity of {id}"),
            bucket: Bucket::Worker(id),
            caps: Caps {
                max_cpu_millicores: Some(capacity.cpu_millicores),
                max_memory_mb: Some(capacity.memory_mb),
                max_disk_mb: Some(capacity.disk_mb),
                max_gpu_count: Some(capacity.gpu_count),
                ..Caps::default()
            },
        }
    }

    /// The cap on the sum of one resource in the bucket.
    #[must_use]
    pub fn cap(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::ConcurrentBunkers => self.caps.max_concurrent_bunkers,
            Resource::PersistentBunkers => self.caps.max_persistent_bunkers,
            Resource::CpuMillicores => self.caps.max_cpu_millicores,
            Resource::MemoryMb => self.caps.max_memory_mb,
            Resource::DiskMb => self.caps.max_disk_mb,
            Resource::GpuCount => self.caps.max_gpu_count,
        }
    }

    fn per_bunker_cap(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::CpuMillicores => self.caps.per_bunker_max_cpu,
            Resource::MemoryMb => self.caps.per_bunker_max_memory,
            Resource::DiskMb => self.caps.per_bunker_max_disk,
            Resource::GpuCount => self.caps.per_bunker_max_gpu,
            Resource::ConcurrentBunkers | Resource::PersistentBunkers => None,
        }
    }

    /// What `current` leaves of the caps.
    #[must_use]
    pub fn usage(&self, resource: Resource, current: Amounts) -> ResourceUsage {
        let (current, cap) = (current.get(resource), self.cap(resource));
        let headroom = cap.map(|cap| cap.saturating_sub(current));
        ResourceUsage { current, cap, headroom }
    }

    /// The first resource that `asked` more would take over its cap.
    #[must_use]
    pub fn exceeded(&self, current: Amounts, asked: Amounts) -> Option<Exceeded> {
        Resource::ALL.into_iter().find_map(|resource| {
            let (current, requested) = (current.get(resource), asked.get(resource));
            let cap = self.cap(resource).filter(|cap| current.saturating_add(requested) > *cap)?;
            // Who asks for none of it does not make it worse.
            (requested > 0).then(|| self.refusal(resource, current, cap, requested, false))
        })
    }

    /// The first resource of which a single bunker may not have as much as `asked`.
    #[must_use]
    pub fn exceeded_by_one(&self, asked: Amounts) -> Option<Exceeded> {
        Resource::ALL.into_iter().find_map(|resource| {
            let requested = asked.get(resource);
            let cap = self.per_bunker_cap(resource).filter(|cap| requested > *cap)?;
            Some(self.refusal(resource, 0, cap, requested, true))
        })
    }

    /// The refusal that this profile's cap on a resource leads to.
    #[must_use]
    pub fn refusal(
        &self,
        resource: Resource,
        current: u64,
        cap: u64,
        requested: u64,
        per_bunker: bool,
    ) -> Exceeded {
        let (profile_id, profile, bucket) = (self.id, self.name.clone(), self.bucket);
        Exceeded { profile_id, profile, bucket, resource, current, cap, requested, per_bunker }
    }
}

/// A cap that a request would exceed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub profile_id: QuotaProfileId,
    pub profile: String,
    pub bucket: Bucket,
    pub resource: Resource,
    pub current: u64,
    pub cap: u64,
    pub requested: u64,
    /// The cap is one bunker's, not the bucket's.
    pub per_bunker: bool,
}

impl From<Exceeded> for ErrorBody {
    fn from(exceeded: Exceeded) -> Self {
        let Exceeded { profile_id, profile, bucket, resource, current, cap, requested, per_bunker } =
            exceeded;
        let resource = resource.as_str();
        let message = if per_bunker {
            format!(
                "the quota profile `{profile}` lets one bunker have at most {cap} {resource}, not \
                 {requested}; ask for less, or ask a tenant admin to raise it"
            )
        } else {
            format!(
                "the quota profile `{profile}` allows {cap} {resource} in {bucket}; {current} are \
                 in use and {requested} more were asked for: end bunkers that idle, or ask a tenant \
                 admin to raise it (`GET /quota-profiles/usage` has what is left)"
            )
        };
        let detail =
            |(field, message): (&str, String)| ErrorDetail { field: field.to_owned(), message };
        let details = [
            ("profile", format!("{profile} ({profile_id})")),
            ("bucket", bucket.to_string()),
            ("resource", resource.to_owned()),
            ("current", current.to_string()),
            ("cap", cap.to_string()),
            ("requested", requested.to_string()),
        ];
        let details = details.into_iter().map(detail).collect();
        Self { code: ErrorCode::BunkerQuotaExceeded, message, retry_after: None, details }
    }
}

/// Whom profiles can be assigned to so that they apply to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    pub user_id: UserId,
    pub tenant_id: TenantId,
    /// Every group the user belongs to, nested ones expanded.
    pub group_ids: &'a [GroupId],
}

/// The profiles that apply to `member`: those assigned to it, to its groups and to its tenant. A
/// user to whom none of its own or its groups' is assigned gets the platform's default.
#[must_use]
pub fn applied(
    member: &Member<'_>,
    assigned: &[(Assignment, QuotaProfile)],
    default: &QuotaProfile,
    platform: &PlatformMax,
) -> Vec<AppliedProfile> {
    let apply = |profile: &QuotaProfile, bucket| AppliedProfile {
        id: profile.id,
        name: profile.name.clone(),
        bucket,
        caps: lowest(profile.caps, *platform),
    };
    let mut found: Vec<_> = assigned
        .iter()
        .filter_map(|(assignment, profile)| Some(apply(profile, bucket_of(member, assignment)?)))
        .collect();
    if !found.iter().any(|profile| !matches!(profile.bucket, Bucket::Tenant(_))) {
        found.push(apply(default, Bucket::User(member.user_id)));
    }
    found
}

/// Where an assignment counts the member's bunkers; `None` when it is not the member's.
fn bucket_of(member: &Member<'_>, assignment: &Assignment) -> Option<Bucket> {
    use scaibunker_api::quota::TargetKind;
    let target = assignment.target_id.as_str();
    match assignment.target_kind {
        TargetKind::User => {
            (target == member.user_id.to_string()).then_some(Bucket::User(member.user_id))
        }
        TargetKind::Group => {
            let group = target.parse().ok().filter(|group| member.group_ids.contains(group))?;
            match assignment.mode {
                AssignmentMode::PerUser => Some(Bucket::User(member.user_id)),
                AssignmentMode::Shared | AssignmentMode::Individual => Some(Bucket::Group(group)),
            }
        }
        TargetKind::Tenant => {
            (target == member.tenant_id.to_string()).then_some(Bucket::Tenant(member.tenant_id))
        }
    }
}

/// The buckets of `profiles`, each once.
#[must_use]
pub fn buckets(profiles: &[AppliedProfile]) -> Vec<Bucket> {
    let mut buckets: Vec<_> = profiles.iter().map(|profile| profile.bucket).collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

fn lowest(a: Caps, b: Caps) -> Caps {
    let min = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Caps {
        max_concurrent_bunkers: min(a.max_concurrent_bunkers, b.max_concurrent_bunkers),
        max_persistent_bunkers: min(a.max_persistent_bunkers, b.max_persistent_bunkers),
        max_cpu_millicores: min(a.max_cpu_millicores, b.max_cpu_millicores),
        max_memory_mb: min(a.max_memory_mb, b.max_memory_mb),
        max_disk_mb: min(a.max_disk_mb, b.max_disk_mb),
        max_gpu_count: min(a.max_gpu_count, b.max_gpu_count),
        per_bunker_max_cpu: min(a.per_bunker_max_cpu, b.per_bunker_max_cpu),
        per_bunker_max_memory: min(a.per_bunker_max_memory, b.per_bunker_max_memory),
        per_bunker_max_disk: min(a.per_bunker_max_disk, b.per_bunker_max_disk),
        per_bunker_max_gpu: min(a.per_bunker_max_gpu, b.per_bunker_max_gpu),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use scaibunker_api::{ids::QuotaAssignmentId, quota::TargetKind};

    use super::*;

    fn profile(name: &str, max_concurrent_bunkers: Option<u64>) -> QuotaProfile {
        QuotaProfile {
            id: QuotaProfileId::generate(),
            tenant_id: None,
            name: name.to_owned(),
            description: None,
            is_default: name == "default",
            caps: Caps { max_concurrent_bunkers, ..Caps::default() },
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn assigned(
        profile: QuotaProfile,
        target_kind: TargetKind,
        target_id: impl ToString,
        mode: AssignmentMode,
    ) -> (Assignment, QuotaProfile) {
        let assignment = Assignment {
            id: QuotaAssignmentId::generate(),
            profile_id: profile.id,
            target_kind,
            target_id: target_id.to_string(),
            mode,
            created_at: Timestamp::UNIX_EPOCH,
        };
        (assignment, profile)
    }

    #[test]
    fn each_assignment_counts_in_its_bucket_and_the_default_only_without_one() {
        let (user_id, tenant_id) = (UserId::generate(), TenantId::generate());
        let (shared, own) = (GroupId::generate(), GroupId::generate());
        let groups = [shared, own];
        let member = Member { user_id, tenant_id, group_ids: &groups };
        let default = profile("default", None);
        let names = |assigned: &[(Assignment, QuotaProfile)]| -> Vec<_> {
            let found = applied(&member, assigned, &default, &Caps::default());
            found.into_iter().map(|profile| (profile.name, profile.bucket)).collect()
        };
        let of_user = Bucket::User(user_id);
        assert_eq!(names(&[]), [("default".to_owned(), of_user)]);
        let all = [
            assigned(profile("a", None), TargetKind::User, user_id, AssignmentMode::Individual),
            assigned(profile("b", None), TargetKind::Group, shared, AssignmentMode::Shared),
            assigned(profile("c", None), TargetKind::Group, own, AssignmentMode::PerUser),
            assigned(profile("d", None), TargetKind::Tenant, tenant_id, AssignmentMode::Shared),
            assigned(
                profile("not the user's", None),
                TargetKind::Group,
                GroupId::generate(),
                AssignmentMode::Shared,
            ),
        ];
        let expected = [
            ("a".to_owned(), of_user),
            ("b".to_owned(), Bucket::Group(shared)),
            ("c".to_owned(), of_user),
            ("d".to_owned(), Bucket::Tenant(tenant_id)),
        ];
        assert_eq!(names(&all), expected);
        // A tenant's profile bounds all of it; who has no other still has the default's caps.
        let of_tenant = names(&all[3..4]);
        assert_eq!(of_tenant[1], ("default".to_owned(), of_user));
        let profiles = applied(&member, &all, &default, &Caps::default());
        assert_eq!(buckets(&profiles).len(), 3, "two profiles share the user's bucket");
    }

    proptest! {
        #[test]
        fn no_profile_is_above_the_platforms_ceiling(cap: Option<u64>, ceiling: Option<u64>) {
            let (user_id, tenant_id) = (UserId::generate(), TenantId::generate());
            let member = Member { user_id, tenant_id, group_ids: &[] };
            let platform = Caps { max_concurrent_bunkers: ceiling, ..Caps::default() };
            let found = applied(&member, &[], &profile("default", cap), &platform);
            let effective = found[0].cap(Resource::ConcurrentBunkers);
            prop_assert_eq!(effective, cap.into_iter().chain(ceiling).min());
        }

        #[test]
        fn what_is_refused_would_exceed_and_what_is_not_does_not(
            current in 0u64..20,
            asked in 0u64..20,
            cap in proptest::option::of(0u64..30),
        ) {
            let applied = AppliedProfile {
                id: QuotaProfileId::generate(),
                name: "p".to_owned(),
                bucket: Bucket::User(UserId::generate()),
                caps: Caps { max_memory_mb: cap, per_bunker_max_memory: cap, ..Caps::default() },
            };
            let amounts = |memory| Amounts::from([0, 0, 0, memory, 0, 0]);
            let refused = applied.exceeded(amounts(current), amounts(asked));
            let exceeds = asked > 0 && cap.is_some_and(|cap| current + asked > cap);
            prop_assert_eq!(refused.is_some(), exceeds);
            let alone = applied.exceeded_by_one(amounts(asked));
            prop_assert_eq!(alone.is_some(), cap.is_some_and(|cap| asked > cap));
            let usage = applied.usage(Resource::MemoryMb, amounts(current));
            prop_assert_eq!(usage.headroom, cap.map(|cap| cap.saturating_sub(current)));
        }

        #[test]
        fn no_text_makes_a_bucket_panic(text in ".{0,60}") {
            let _ = text.parse::<Bucket>();
        }
    }

    #[test]
    fn a_refusal_names_all_six_things() {
        let exceeded = Exceeded {
            profile_id: QuotaProfileId::generate(),
            profile: "small".to_owned(),
            bucket: Bucket::User(UserId::generate()),
            resource: Resource::CpuMillicores,
            current: 1,
            cap: 2,
            requested: 3,
            per_bunker: false,
        };
        let error = ErrorBody::from(exceeded);
        assert_eq!(error.code, ErrorCode::BunkerQuotaExceeded);
        let fields: Vec<_> = error.details.iter().map(|detail| detail.field.as_str()).collect();
        assert_eq!(fields, ["profile", "bucket", "resource", "current", "cap", "requested"]);
    }

    #[test]
    fn a_paused_bunker_counts_all_but_its_cpu() {
        let amounts = Amounts::from([1, 1, 1000, 256, 64, 0]);
        let charge = Charge { buckets: Vec::new(), amounts, paused: true };
        let counted = charge.counted_in(Bucket::User(UserId::generate()));
        assert_eq!(counted, Amounts::from([1, 1, 0, 256, 64, 0]));
        assert_eq!(counted.plus(amounts.only_cpu()), amounts);
        assert_eq!(charge.counted_in(Bucket::Worker(WorkerId::generate())), amounts);
        assert_eq!(amounts.minus(amounts), Amounts::default());
    }
}

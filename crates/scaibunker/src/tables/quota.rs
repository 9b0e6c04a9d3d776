//! Quotas as tables.

use comfy_table::{Cell, Table};
use jiff::Timestamp;
use scaibunker_api::quota::{Assignment, Caps, ProfileUsage, QuotaProfile, Resource};

use super::{ago, bare, cores, fields, mib, or_dash, spaced, table, time};
use crate::{bar::Style, output::printable};

/// An amount of a resource, in the unit that people use.
fn amount(resource: Resource, amount: u64) -> String {
    match resource {
        Resource::ConcurrentBunkers | Resource::PersistentBunkers | Resource::GpuCount => {
            amount.to_string()
        }
        Resource::CpuMillicores => cores(amount),
        Resource::MemoryMb | Resource::DiskMb => mib(amount),
    }
}

fn label(resource: Resource) -> &'static str {
    match resource {
        Resource::ConcurrentBunkers => "bunkers",
        Resource::PersistentBunkers => "persistent bunkers",
        Resource::CpuMillicores => "CPU cores",
        Resource::MemoryMb => "memory",
        Resource::DiskMb => "disk",
        Resource::GpuCount => "GPUs",
    }
}

fn cap(resource: Resource, cap: Option<u64>) -> String {
    cap.map_or_else(|| "-".to_owned(), |cap| amount(resource, cap))
}

/// Which profile it is, and who shares it.
pub fn usage_heading(usage: &ProfileUsage) -> String {
    printable(&format!("{}  {}  ({})", usage.profile_name, usage.bucket, usage.profile_id))
}

/// What is used of each resource of a profile, with a bar where there is a cap.
pub fn usage(profile: &ProfileUsage, style: Style) -> Table {
    let mut table = bare();
    for (&resource, usage) in &profile.resources {
        let current = amount(resource, usage.current);
        let (bar, used, left) = match usage.cap {
            None => (Cell::new(""), current, "no cap".to_owned()),
            Some(cap) => {
                let left = usage.headroom.unwrap_or_else(|| cap.saturating_sub(usage.current));
                (
                    style.cell(usage.current, cap),
                    format!("{current}/{}", amount(resource, cap)),
                    format!("{} left", amount(resource, left)),
                )
            }
        };
        let name = Cell::new(format!("  {}", label(resource)));
        table.add_row([name, bar, Cell::new(used), Cell::new(left)]);
    }
    spaced(table)
}

/// Quota profiles with their age at `now`.
pub fn quota_profiles(profiles: &[QuotaProfile], now: Timestamp) -> Table {
    let header = [
        "ID",
        "NAME",
        "TENANT",
        "BUNKERS",
        "PERSISTENT",
        "CPU",
        "MEMORY",
        "DISK",
        "GPUS",
        "CREATED",
    ];
    table(
        header,
        profiles.iter().map(|profile| {
            let [bunkers, persistent, cpu, memory, disk, gpus] = aggregate(&profile.caps);
            [
                profile.id.to_string(),
                profile.name.clone(),
                owner(profile),
                bunkers,
                persistent,
                cpu,
                memory,
                disk,
                gpus,
                ago(profile.created_at, now),
            ]
        }),
    )
}

fn aggregate(caps: &Caps) -> [String; 6] {
    [
        cap(Resource::ConcurrentBunkers, caps.max_concurrent_bunkers),
        cap(Resource::PersistentBunkers, caps.max_persistent_bunkers),
        cap(Resource::CpuMillicores, caps.max_cpu_millicores),
        cap(Resource::MemoryMb, caps.max_memory_mb),
        cap(Resource::DiskMb, caps.max_disk_mb),
        cap(Resource::GpuCount, caps.max_gpu_count),
    ]
}

fn owner(profile: &QuotaProfile) -> String {
    match profile.tenant_id {
        Some(tenant) => tenant.to_string(),
        None if profile.is_default => "(platform, default)".to_owned(),
        None => "(platform)".to_owned(),
    }
}

/// All of one quota profile.
pub fn quota_profile(profile: &QuotaProfile) -> Table {
    let caps = &profile.caps;
    let [bunkers, persistent, cpu, memory, disk, gpus] = aggregate(caps);
    fields([
        ("id", profile.id.to_string()),
        ("name", profile.name.clone()),
        ("description", or_dash(profile.description.clone().unwrap_or_default())),
        ("tenant", owner(profile)),
        ("max bunkers", bunkers),
        ("max persistent bunkers", persistent),
        ("max CPU cores", cpu),
        ("max memory", memory),
        ("max disk", disk),
        ("max GPUs", gpus),
        ("max CPU cores of one bunker", cap(Resource::CpuMillicores, caps.per_bunker_max_cpu)),
        ("max memory of one bunker", cap(Resource::MemoryMb, caps.per_bunker_max_memory)),
        ("max disk of one bunker", cap(Resource::DiskMb, caps.per_bunker_max_disk)),
        ("max GPUs of one bunker", cap(Resource::GpuCount, caps.per_bunker_max_gpu)),
        ("created", time(profile.created_at)),
    ])
}

/// Assignments with their age at `now`.
pub fn assignments(assignments: &[Assignment], now: Timestamp) -> Table {
    table(
        ["ID", "TO", "TARGET", "MODE", "CREATED"],
        assignments.iter().map(|assignment| {
            [
                assignment.id.to_string(),
                assignment.target_kind.as_str().to_owned(),
                assignment.target_id.clone(),
                assignment.mode.as_str().to_owned(),
                ago(assignment.created_at, now),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use scaibunker_api::{ids::QuotaProfileId, quota::ResourceUsage};

    use super::*;

    #[test]
    fn usage_has_bars_only_below_caps() {
        let of = |current, cap: Option<u64>| ResourceUsage {
            current,
            cap,
            headroom: cap.map(|cap| cap - current),
        };
        let profile = ProfileUsage {
            profile_id: QuotaProfileId::generate(),
            profile_name: "team\u{1b}".to_owned(),
            bucket: "user:usr_1".to_owned(),
            resources: [
                (Resource::ConcurrentBunkers, of(5, Some(10))),
                (Resource::CpuMillicores, of(1500, Some(1500))),
                (Resource::MemoryMb, of(512, None)),
            ]
            .into(),
        };
        let style = Style { is_unicode: true, is_coloured: false };
        let shown = usage(&profile, style).trim_fmt();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "  bunkers    █████░░░░░  5/10     5 left",
                "  CPU cores  ██████████  1.5/1.5  0 left",
                "  memory                 512 MiB  no cap",
            ]
        );
        assert!(usage_heading(&profile).starts_with("team   user:usr_1  (qpf_"));
    }
}

//! A bunker as its owner sees it.

use scaibunker_api::bunker;

use super::bunker::Bunker;

impl From<&Bunker> for bunker::Bunker {
    fn from(bunker: &Bunker) -> Self {
        let (spec, life) = (bunker.spec.clone(), bunker.life().clone());
        Self {
            id: bunker.id,
            tenant_id: bunker.tenant_id,
            owner_id: bunker.owner_id,
            status: life.status,
            status_reason: life.status_reason,
            worker_id: bunker.worker(),
            image_id: spec.image_id,
            image: spec.image,
            snapshot_id: spec.snapshot_id,
            parent_id: spec.parent_id,
            lifecycle_mode: spec.lifecycle_mode,
            name: spec.name,
            label_set: spec.label_set,
            network_profile: spec.network_profile,
            network_allowlist: spec.network_allowlist,
            interfaces: spec.interfaces,
            cpu_millicores: spec.cpu_millicores,
            memory_mb: spec.memory_mb,
            disk_mb: spec.disk_mb,
            gpu_count: spec.gpu_count,
            gpu_type: spec.gpu_type,
            max_lifetime_s: spec.max_lifetime_s,
            idle_timeout_s: spec.idle_timeout_s,
            on_idle: spec.on_idle,
            pause_evict_after_s: spec.pause_evict_after_s,
            session_type: spec.session_type,
            session_ref: spec.session_ref,
            env_vars: spec.env_vars,
            bandwidth_mbit: spec.bandwidth_mbit,
            egress_audit: spec.egress_audit,
            created_at: bunker.created_at,
            started_at: life.started_at,
            last_active_at: bunker.last_active_at,
            expires_at: bunker.expires_at(),
            terminated_at: life.terminated_at,
            evicted: life.evicted_to.is_some(),
            // An isolated bunker has no network, hence no address.
            ip_address: life.ip_address,
        }
    }
}

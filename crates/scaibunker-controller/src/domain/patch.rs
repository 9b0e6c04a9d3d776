//! Changes that an owner makes to a bunker while it lives.

use scaibunker_api::{
    bunker::PatchBunker,
    error::{ErrorBody, ErrorCode},
};

use super::{
    bunker::Bunker,
    create::{DEFAULT_EVICT_AFTER_S, MAX_SECONDS, check_labels, default_limits_s},
    violations::Violations,
};

/// The bunker after `patch`, one generation later.
pub fn apply(bunker: &Bunker, patch: PatchBunker) -> Result<Bunker, ErrorBody> {
    check(&patch)?;
    if bunker.status().is_terminal() {
        let message = format!("the bunker is {}; it changes no more", bunker.status().as_str());
        return Err(ErrorBody::new(ErrorCode::BunkerNotRunning, message));
    }
    let mut changed = bunker.clone();
    let (max_lifetime_s, idle_timeout_s) = default_limits_s(bunker.spec.lifecycle_mode);
    if let Some(name) = patch.name {
        changed.spec.name = name;
    }
    if let Some(labels) = patch.label_set {
        changed.spec.label_set = labels.unwrap_or_default();
    }
    if let Some(limit) = patch.max_lifetime_s {
        changed.spec.max_lifetime_s = limit.or(max_lifetime_s);
    }
    if let Some(limit) = patch.idle_timeout_s {
        changed.spec.idle_timeout_s = limit.or(idle_timeout_s);
    }
    if let Some(on_idle) = patch.on_idle {
        changed.spec.on_idle = on_idle.unwrap_or_default();
    }
    if let Some(limit) = patch.pause_evict_after_s {
        changed.spec.pause_evict_after_s = limit.or(Some(DEFAULT_EVICT_AFTER_S));
    }
    changed.generation += 1;
    Ok(changed)
}

fn check(patch: &PatchBunker) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    faults.text("name", patch.name.as_ref().and_then(Option::as_deref), 1..=128);
    if let Some(Some(labels)) = &patch.label_set {
        check_labels(&mut faults, labels);
    }
    faults.number("max_lifetime_s", patch.max_lifetime_s.flatten(), 1..=MAX_SECONDS);
    faults.number("idle_timeout_s", patch.idle_timeout_s.flatten(), 1..=MAX_SECONDS);
    let evict_after = patch.pause_evict_after_s.flatten();
    faults.number("pause_evict_after_s", evict_after, 1..=MAX_SECONDS);
    faults.into_result()
}

#[cfg(test)]
mod tests {
    use scaibunker_api::bunker::BunkerStatus;

    use super::*;
    use crate::domain::bunker::tests::bunker_in;

    #[test]
    fn absent_stays_and_null_goes_back_to_the_default() {
        let bunker = bunker_in(BunkerStatus::Running);
        let named = PatchBunker { name: Some(Some("a".to_owned())), ..PatchBunker::default() };
        let limits = PatchBunker { max_lifetime_s: Some(Some(9)), ..PatchBunker::default() };
        let reset = PatchBunker { max_lifetime_s: Some(None), ..PatchBunker::default() };

        let bunker = apply(&apply(&bunker, named).unwrap(), limits).unwrap();
        assert_eq!(bunker.spec.name.as_deref(), Some("a"));
        assert_eq!(bunker.expires_at().unwrap().as_second(), 9);
        assert_eq!(bunker.generation, 9);
        assert_eq!(apply(&bunker, reset).unwrap().spec.max_lifetime_s, Some(3_600));
    }

    #[test]
    fn what_has_ended_and_what_is_wrong_is_refused() {
        let ended = apply(&bunker_in(BunkerStatus::Failed), PatchBunker::default()).unwrap_err();
        assert_eq!(ended.code, ErrorCode::BunkerNotRunning);
        let zero = PatchBunker { idle_timeout_s: Some(Some(0)), ..PatchBunker::default() };
        let refusal = apply(&bunker_in(BunkerStatus::Running), zero).unwrap_err();
        assert_eq!(refusal.details[0].field, "idle_timeout_s");
    }
}

//! Bunkers as people name them: by id, by the beginning of one, or by name.

use scaibunker_api::{bunker::Bunker, ids::BunkerId};

use crate::{client::Client, exit::Failure};

/// Why a text names no bunker.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum RefError {
    #[error("no live bunker has the id or name `{0}`; `scaibunker ls` shows those there are")]
    NoneFound(String),
    #[error("`{text}` names more than one bunker: {}", candidates.join(", "))]
    Ambiguous { text: String, candidates: Vec<String> },
}

/// The bunker that `text` names. A complete id is taken as it is, also of an ended bunker.
pub async fn resolve(client: &Client, text: &str) -> Result<BunkerId, Failure> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => pick(text, &client.live_bunkers().await?).map_err(failed),
    }
}

/// The bunkers that `texts` name, each once, in their order.
pub async fn resolve_all(client: &Client, texts: &[String]) -> Result<Vec<BunkerId>, Failure> {
    let mut live: Option<Vec<Bunker>> = None;
    let mut ids = Vec::new();
    for text in texts {
        let id = match (text.parse(), &live) {
            (Ok(id), _) => id,
            (Err(_), Some(bunkers)) => pick(text, bunkers).map_err(failed)?,
            (Err(_), None) => {
                let bunkers = live.insert(client.live_bunkers().await?);
                pick(text, bunkers).map_err(failed)?
            }
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn failed(error: RefError) -> Failure {
    Failure::Error(error.into())
}

/// A name that fits exactly comes before ids that begin with the text.
fn pick(text: &str, bunkers: &[Bunker]) -> Result<BunkerId, RefError> {
    let named: Vec<_> =
        bunkers.iter().filter(|bunker| bunker.name.as_deref() == Some(text)).collect();
    let found = if named.is_empty() {
        bunkers.iter().filter(|bunker| is_beginning(text, bunker.id)).collect()
    } else {
        named
    };
    match found.as_slice() {
        [] => Err(RefError::NoneFound(text.to_owned())),
        [only] => Ok(only.id),
        several => Err(RefError::Ambiguous {
            text: text.to_owned(),
            candidates: several.iter().map(|bunker| bunker.id.to_string()).collect(),
        }),
    }
}

/// The prefix that all ids share may be left out, but is no beginning by itself.
fn is_beginning(text: &str, id: BunkerId) -> bool {
    let digits = text.strip_prefix(BunkerId::PREFIX).unwrap_or(text);
    !digits.is_empty()
        && id.to_string().strip_prefix(BunkerId::PREFIX).is_some_and(|id| id.starts_with(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bunker(id: &str, name: Option<&str>) -> Bunker {
        serde_json::from_value(serde_json::json!({
            "id": format!("bnk_{id:0<26}"),
            "tenant_id": "ten_00000000000000000000000000",
            "owner_id": "usr_00000000000000000000000000",
            "image_id": "img_00000000000000000000000000",
            "status": "running", "status_reason": null, "worker_id": null, "image": "busybox",
            "lifecycle_mode": "ephemeral", "name": name, "label_set": {},
            "network_profile": "isolated", "cpu_millicores": 1000, "memory_mb": 256,
            "disk_mb": 64, "max_lifetime_s": null, "idle_timeout_s": null,
            "session_type": "standalone", "session_ref": null, "env_vars": {},
            "created_at": "2026-01-01T00:00:00Z", "started_at": null, "last_active_at": null,
            "expires_at": null, "terminated_at": null, "ip_address": null,
        }))
        .unwrap()
    }

    #[test]
    fn a_unique_beginning_or_name_is_enough() {
        let all = [bunker("01a", None), bunker("01b", Some("web")), bunker("02", Some("01a"))];
        assert_eq!(pick("bnk_01b", &all), Ok(all[1].id));
        assert_eq!(pick("02", &all), Ok(all[2].id));
        assert_eq!(pick("web", &all), Ok(all[1].id));
        assert_eq!(pick("01a", &all), Ok(all[2].id), "a name comes before a beginning");
    }

    #[test]
    fn what_is_not_unique_or_not_there_is_refused() {
        let all = [bunker("01a", Some("x")), bunker("01b", Some("x"))];
        for text in ["01", "bnk_0", "x"] {
            assert!(matches!(pick(text, &all), Err(RefError::Ambiguous { .. })), "{text}");
        }
        for text in ["", "bnk_", "03", "we"] {
            let one = &all[..1];
            assert_eq!(pick(text, one), Err(RefError::NoneFound(text.to_owned())), "{text}");
        }
    }
}

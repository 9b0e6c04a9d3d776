//! What charges, caps and refusals look like in Redis.

use std::collections::HashMap;

use scaibunker_api::quota::Resource;

use super::{LedgerError, LedgerSnapshot, Reserved};
use crate::domain::quota::{AppliedProfile, Bucket, Charge};

/// Numbers that a Lua script keeps exact.
const MAX_EXACT: u64 = 1 << 53;

/// A charge as words: whether it is paused, its amounts, its buckets.
pub(super) fn text_of(charge: &Charge) -> String {
    let mut text = String::from(if charge.paused { "1" } else { "0" });
    for amount in charge.amounts.numbers() {
        text.push(' ');
        text.push_str(&amount.min(MAX_EXACT).to_string());
    }
    for bucket in &charge.buckets {
        text.push(' ');
        text.push_str(&bucket.to_string());
    }
    text
}

/// Reads what [`text_of`] wrote.
pub(super) fn charge_of(text: &str) -> Option<Charge> {
    let mut words = text.split(' ');
    let paused = match words.next()? {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    let mut numbers = [0; Resource::ALL.len()];
    for number in &mut numbers {
        *number = words.next()?.parse().ok()?;
    }
    let buckets = words.map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Charge { buckets, amounts: numbers.into(), paused })
}

/// A profile's caps in the order of [`Resource::ALL`], -1 for none.
pub(super) fn caps_of(profile: &AppliedProfile) -> [i64; Resource::ALL.len()] {
    Resource::ALL.map(|resource| {
        profile
            .cap(resource)
            .map_or(-1, |cap| i64::try_from(cap.min(MAX_EXACT)).unwrap_or(i64::MAX))
    })
}

/// What a script said of a reservation: nothing, or the profile, the resource, what is counted and
/// what was asked for.
pub(super) fn exceeded_of(
    refusal: &[u64],
    profiles: &[AppliedProfile],
) -> Result<Reserved, LedgerError> {
    let &[profile, resource, current, asked] = refusal else {
        return if refusal.is_empty() { Ok(Ok(())) } else { Err(unreadable()) };
    };
    let at = |number: u64| usize::try_from(number).map_err(|_| unreadable());
    let profile = profiles.get(at(profile)?).ok_or_else(unreadable)?;
    let resource = *Resource::ALL.get(at(resource)?).ok_or_else(unreadable)?;
    let cap = profile.cap(resource).ok_or_else(unreadable)?;
    Ok(Err(profile.refusal(resource, current, cap, asked, false)))
}

fn unreadable() -> LedgerError {
    LedgerError::Corrupt { what: "a refusal" }
}

/// Everything, from the two hashes.
pub(super) fn snapshot_of(
    charges: &HashMap<String, String>,
    counters: &HashMap<String, u64>,
) -> Result<LedgerSnapshot, LedgerError> {
    let mut snapshot = LedgerSnapshot::default();
    for (id, text) in charges {
        let charge = id.parse().ok().zip(charge_of(text));
        let (id, charge) = charge.ok_or(LedgerError::Corrupt { what: "a charge" })?;
        snapshot.charges.insert(id, charge);
    }
    let mut sums: HashMap<Bucket, [u64; Resource::ALL.len()]> = HashMap::new();
    for (field, sum) in counters {
        let slot = field.split_once('#').and_then(|(bucket, number)| {
            let at = number.parse::<usize>().ok()?.checked_sub(1)?;
            sums.entry(bucket.parse().ok()?).or_default().get_mut(at)
        });
        *slot.ok_or(LedgerError::Corrupt { what: "a counter" })? = *sum;
    }
    snapshot.counters = sums.into_iter().map(|(bucket, sums)| (bucket, sums.into())).collect();
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scaibunker_api::ids::{GroupId, UserId};

    use super::*;

    proptest! {
        #[test]
        fn a_charge_is_read_back(amounts: [u32; 6], paused: bool, shared: bool) {
            let mut buckets = vec![Bucket::User(UserId::generate())];
            buckets.extend(shared.then(|| Bucket::Group(GroupId::generate())));
            let charge = Charge { buckets, amounts: amounts.map(u64::from).into(), paused };
            prop_assert_eq!(charge_of(&text_of(&charge)), Some(charge));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}", number in ".{0,8}") {
            let _ = charge_of(&text);
            let charges = HashMap::from([(text.clone(), text.clone())]);
            let _ = snapshot_of(&charges, &HashMap::from([(format!("{text}#{number}"), 1)]));
        }

        #[test]
        fn no_refusal_makes_it_panic(refusal: Vec<u64>) {
            let _ = exceeded_of(&refusal, &[]);
        }
    }
}

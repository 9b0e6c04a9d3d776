//! What goes when room is needed.

use std::time::SystemTime;

/// One thing in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<T> {
    pub what: T,
    pub size_bytes: u64,
    pub last_used: SystemTime,
    pub in_use: bool,
}

/// What has to go, least recently used first, so that everything else and `needed_bytes` more fit
/// into `budget_bytes`. `None` if that much cannot go.
pub fn choose<T: Clone>(
    mut items: Vec<Item<T>>,
    needed_bytes: u64,
    budget_bytes: u64,
) -> Option<Vec<T>> {
    let mut used = items.iter().fold(needed_bytes, |sum, item| sum.saturating_add(item.size_bytes));
    items.retain(|item| !item.in_use);
    items.sort_by_key(|item| item.last_used);
    let mut going = Vec::new();
    for item in items {
        if used <= budget_bytes {
            break;
        }
        used -= item.size_bytes;
        going.push(item.what);
    }
    (used <= budget_bytes).then_some(going)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn items() -> impl Strategy<Value = Vec<Item<usize>>> {
        proptest::collection::vec((0..100u64, 0..50u64, any::<bool>()), 0..30).prop_map(|items| {
            let item = |(what, (size_bytes, used, in_use))| Item {
                what,
                size_bytes,
                last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(used),
                in_use,
            };
            items.into_iter().enumerate().map(item).collect()
        })
    }

    proptest! {
        #[test]
        fn the_oldest_unused_go_and_no_more_than_must(
            items in items(), needed in 0..500u64, budget in 0..2000u64
        ) {
            let total: u64 = items.iter().map(|item| item.size_bytes).sum();
            let fixed: u64 = items.iter().filter(|i| i.in_use).map(|item| item.size_bytes).sum();
            match choose(items.clone(), needed, budget) {
                None => prop_assert!(fixed + needed > budget),
                Some(going) => {
                    let size = |what: &usize| items[*what].size_bytes;
                    let freed: u64 = going.iter().map(size).sum();
                    prop_assert!(total - freed + needed <= budget);
                    if let Some(last) = going.last() {
                        prop_assert!(total - (freed - size(last)) + needed > budget);
                    }
                    let oldest_kept = items.iter().enumerate()
                        .filter(|(number, item)| !item.in_use && !going.contains(number))
                        .map(|(_, item)| item.last_used).min();
                    for what in &going {
                        prop_assert!(!items[*what].in_use);
                        prop_assert!(oldest_kept.is_none_or(|kept| items[*what].last_used <= kept));
                    }
                }
            }
        }
    }
}

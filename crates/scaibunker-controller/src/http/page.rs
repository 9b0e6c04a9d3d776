//! Lists a page at a time. A cursor is the id of a page's last object, so objects that are made
//! meanwhile move nothing.

use std::{fmt::Display, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use scaibunker_api::error::ErrorBody;
use schemars::JsonSchema;
use serde::Deserialize;

use super::answer::ListAnswer;

/// The query of a list without filters.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Objects in a page; 50 unless given.
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// Which page of a list is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<Id> {
    pub limit: usize,
    /// The last object of the page before.
    pub after: Option<Id>,
}

impl<Id: FromStr + Display> Page<Id> {
    /// Reads the query parameters of a list.
    pub(super) fn parse(limit: Option<usize>, cursor: Option<&str>) -> Result<Self, ErrorBody> {
        let limit = limit_of(limit)?;
        let invalid = || ErrorBody::invalid("cursor", "is not a `next_cursor` of this list");
        let after = cursor.map(|cursor| decode(cursor).ok_or_else(invalid)).transpose()?;
        Ok(Self { limit, after })
    }

    /// The answer with the first `limit` of `found`, which holds one more if there is more.
    pub(super) fn answer<T>(&self, mut found: Vec<T>, id: impl Fn(&T) -> Id) -> ListAnswer<T> {
        let has_more = found.len() > self.limit;
        found.truncate(self.limit);
        let last = found.last().filter(|_| has_more);
        let next_cursor = last.map(|last| URL_SAFE_NO_PAD.encode(id(last).to_string()));
        ListAnswer { data: found, next_cursor }
    }

    /// The page of a list that is in memory, newest first.
    pub(super) fn cut<T>(&self, all: Vec<T>, id: impl Fn(&T) -> Id) -> ListAnswer<T>
    where
        Id: Ord,
    {
        let is_after = |object: &T| self.after.as_ref().is_none_or(|after| id(object) < *after);
        let found = all.into_iter().filter(is_after).take(self.limit + 1).collect();
        self.answer(found, id)
    }
}

/// How many objects a page has.
pub(super) fn limit_of(limit: Option<usize>) -> Result<usize, ErrorBody> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(ErrorBody::invalid("limit", format!("must be between 1 and {MAX_LIMIT}")))
}

fn decode<Id: FromStr>(cursor: &str) -> Option<Id> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    String::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_are_the_list(count in 0u32..30, limit in 1usize..8) {
            let all: Vec<u32> = (0..count).rev().collect();
            let (mut seen, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let page = Page::<u32>::parse(Some(limit), cursor.as_deref()).unwrap();
                let answer = page.cut(all.clone(), |number| *number);
                prop_assert!(answer.data.len() <= limit);
                seen.extend(answer.data);
                cursor = answer.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
            prop_assert_eq!(seen, all);
        }

        #[test]
        fn no_cursor_makes_it_panic(cursor in ".{0,20}") {
            let _ = Page::<u32>::parse(None, Some(&cursor));
        }
    }

    #[test]
    fn limits_have_bounds() {
        for limit in [0, MAX_LIMIT + 1, usize::MAX] {
            let error = Page::<u32>::parse(Some(limit), None).unwrap_err();
            assert_eq!(error.details[0].field, "limit");
        }
    }
}

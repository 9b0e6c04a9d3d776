//! The groups of a tenant: trees of bounded size and depth.

use std::collections::HashMap;

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::GroupId,
};

/// Groups on the way from a group to the top of its tree, itself included.
pub const MAX_DEPTH: usize = 16;

/// Groups of one tenant.
pub const MAX_GROUPS: usize = 1_000;

/// Each group of a tenant, and its parent.
#[derive(Debug, Clone, Default)]
pub struct GroupTree(HashMap<GroupId, Option<GroupId>>);

impl FromIterator<(GroupId, Option<GroupId>)> for GroupTree {
    fn from_iter<I: IntoIterator<Item = (GroupId, Option<GroupId>)>>(groups: I) -> Self {
        Self(groups.into_iter().collect())
    }
}

impl GroupTree {
    /// Refuses one more group below `parent`, if the tenant has as many as it can or the parent is
    /// at the bottom.
    pub fn check_new(&self, parent: Option<GroupId>) -> Result<(), ErrorBody> {
        if self.0.len() >= MAX_GROUPS {
            let message = format!("the tenant has {MAX_GROUPS} groups, and can have no more");
            return Err(ErrorBody::new(ErrorCode::ValidationError, message));
        }
        self.check_depth(parent, 1)
    }

    /// Refuses to move `group` below `parent`, if that is below the group itself or too deep.
    pub fn check_move(&self, group: GroupId, parent: Option<GroupId>) -> Result<(), ErrorBody> {
        if parent.is_some_and(|parent| self.path(parent).any(|above| above == group)) {
            let message = "is the group itself or a group below it";
            return Err(ErrorBody::invalid("parent_id", message));
        }
        self.check_depth(parent, self.height(group))
    }

    fn check_depth(&self, parent: Option<GroupId>, height: usize) -> Result<(), ErrorBody> {
        let Some(parent) = parent else { return Ok(()) };
        if !self.0.contains_key(&parent) {
            return Err(ErrorBody::invalid("parent_id", "there is no such group in the tenant"));
        }
        if self.path(parent).count() + height > MAX_DEPTH {
            let message = format!("groups can be nested {MAX_DEPTH} deep, and no deeper");
            return Err(ErrorBody::invalid("parent_id", message));
        }
        Ok(())
    }

    /// The group and those above it. A cycle, which only a damaged database can hold, ends.
    fn path(&self, group: GroupId) -> impl Iterator<Item = GroupId> {
        let above = move |group: &GroupId| self.0.get(group).copied().flatten();
        std::iter::successors(Some(group), above).take(self.0.len().max(1))
    }

    /// Groups on the longest way down from `group`, itself included.
    fn height(&self, group: GroupId) -> usize {
        let depth_below = |below: GroupId| self.path(below).position(|above| above == group);
        self.0.keys().filter_map(|below| depth_below(*below)).max().unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(count: usize) -> Vec<GroupId> {
        (0..count).map(|_| GroupId::generate()).collect()
    }

    /// A chain: each the parent of the next.
    fn chain(ids: &[GroupId]) -> GroupTree {
        let parents = std::iter::once(None).chain(ids.iter().copied().map(Some));
        ids.iter().copied().zip(parents).collect()
    }

    proptest! {
        #[test]
        fn moves_that_are_allowed_keep_trees(
            moves in proptest::collection::vec((0usize..30, proptest::option::of(0usize..30)), 0..200),
        ) {
            let ids = ids(30);
            let mut tree: GroupTree = ids.iter().map(|id| (*id, None)).collect();
            for (group, parent) in moves {
                let (group, parent) = (ids[group], parent.map(|at| ids[at]));
                if tree.check_move(group, parent).is_ok() {
                    tree.0.insert(group, parent);
                }
                for id in &ids {
                    let top = tree.path(*id).last().unwrap();
                    prop_assert_eq!(tree.0[&top], None, "a cycle");
                    prop_assert!(tree.path(*id).count() <= MAX_DEPTH);
                }
            }
        }
    }

    #[test]
    fn depth_counts_what_moves_along() {
        let (deep, other) = (ids(MAX_DEPTH - 1), ids(2));
        let tree: GroupTree = chain(&deep).0.into_iter().chain(chain(&other).0).collect();
        assert!(tree.check_new(Some(deep[MAX_DEPTH - 2])).is_ok());
        assert!(tree.check_move(other[1], Some(deep[MAX_DEPTH - 2])).is_ok());
        let refusal = tree.check_move(other[0], Some(deep[MAX_DEPTH - 2])).unwrap_err();
        assert_eq!(refusal.details[0].field, "parent_id");
        assert!(tree.check_move(deep[0], Some(deep[0])).is_err());
        assert!(tree.check_move(deep[0], Some(deep[5])).is_err());
        assert!(tree.check_new(Some(GroupId::generate())).is_err());
    }

    #[test]
    fn there_is_a_bound_to_groups() {
        let tree: GroupTree = ids(MAX_GROUPS).into_iter().map(|id| (id, None)).collect();
        assert!(tree.check_new(None).unwrap_err().message.contains("1000"));
    }
}

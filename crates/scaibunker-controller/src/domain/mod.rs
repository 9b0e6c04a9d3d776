//! What is allowed, and what follows from what: plain types and rules, no I/O. Time and ids are
//! passed in.

pub mod account;
pub mod actor;
pub mod authority;
pub mod bridge;
pub mod bunker;
pub mod capability;
pub mod create;
pub mod exec;
pub mod exec_record;
pub mod fanout;
pub mod file;
pub mod file_answer;
pub mod group_tree;
pub mod iam;
pub mod image;
pub mod network;
pub mod output;
pub mod patch;
pub mod placement;
pub mod quota;
pub mod quota_drift;
pub mod rate;
pub mod reconcile;
pub mod record;
pub mod scan;
pub mod signal;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod violations;
pub mod worker;

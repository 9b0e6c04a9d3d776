//! The workers as this process knows them: what they offer, what they hold, how to reach them.
//!
//! One lock guards the registry and the ledger of what is allocated, so that two creates cannot
//! take the same room. The ledger is rebuilt from the database when the process starts.

mod inbox;
mod link;
mod registry;

pub use self::{
    inbox::Inbox,
    link::{AnswerBody, ExecFrames, FileRequest, Link, LinkError, RequestBody},
    registry::{Fleet, Heard, Place},
};

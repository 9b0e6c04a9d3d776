//! Threads that act with a caller's rights.
//!
//! Each call has a thread of its own, which takes on the user's identity and ends with the call.
//! Only the *effective* identity is the user's: the kernel checks that one wherever files are
//! concerned, while by its real and saved one the thread still is root's, so that the user's own
//! processes can neither signal, trace nor limit the agent through it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use scaibunker_guest_protocol::files::Rights;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::tree::{Owner, Tree};
use crate::{
    accounts::{self, Account},
    error::AgentError,
    root::BunkerRoot,
};

/// Calls at the same time, each of which holds about a MiB of what it reads or writes; more wait.
const MAX_CALLS: usize = 16;

/// Watches at the same time; more are refused.
const MAX_WATCHES: usize = 16;

const STACK_BYTES: usize = 256 * 1024;

/// Starts the threads.
#[derive(Debug)]
pub struct FileThreads {
    calls: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Default for FileThreads {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { calls: semaphore(MAX_CALLS), watches: semaphore(MAX_WATCHES) }
    }
}

impl FileThreads {
    /// Runs `work` with the caller's rights and waits for its result. Dropping the future tells
    /// the work that nobody waits any more.
    pub async fn run<T: Send + 'static>(
        &self,
        root: Arc<BunkerRoot>,
        rights: Rights,
        work: impl FnOnce(&Tree) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        let (sender, result) = oneshot::channel();
        let abandon = AbandonOnDrop::default();
        let is_abandoned = Arc::clone(&abandon.0);
        let permit = self.permit_for_call().await?;
        start(permit, move || {
            let tree = enter(root, &rights, is_abandoned);
            // Nobody waits when the host has given the call up.
            let _ = sender.send(tree.and_then(|tree| work(&tree)));
        })?;
        result.await.map_err(|_| AgentError::Conflict("the call was cut short".to_owned()))?
    }

    /// Waits until another call may begin.
    pub async fn permit_for_call(&self) -> Result<OwnedSemaphorePermit, AgentError> {
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        permit.map_err(|_| AgentError::Conflict("the agent takes no calls".to_owned()))
    }

    /// Whether another watch may begin.
    pub fn permit_for_watch(&self) -> Result<OwnedSemaphorePermit, AgentError> {
        let refused = |_| AgentError::Conflict(format!("{MAX_WATCHES} paths are watched already"));
        Arc::clone(&self.watches).try_acquire_owned().map_err(refused)
    }
}

/// Runs `work` on a thread of its own, which keeps the permit.
pub fn start(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() + Send + 'static,
) -> Result<(), AgentError> {
    let thread = thread::Builder::new().name("file-call".to_owned()).stack_size(STACK_BYTES);
    let run = move || {
        let _permit = permit;
        work();
    };
    thread.spawn(run).map(drop).map_err(AgentError::io("start a thread"))
}

/// Tells a thread that its result is not wanted any more.
#[derive(Debug, Default)]
pub struct AbandonOnDrop(pub Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes on the rights of a call, for the rest of this thread's life.
pub fn enter(
    root: Arc<BunkerRoot>,
    rights: &Rights,
    is_abandoned: Arc<AtomicBool>,
) -> Result<Tree, AgentError> {
    let account = match &rights.user {
        Some(user) => Some(accounts::find(user, &root)?),
        None => None,
    };
    let new_owner = match (rights.as_root, account) {
        (true, Some(account)) => Owner { uid: Some(account.uid), gid: Some(account.gid) },
        (true, None) => Owner::default(),
        (false, Some(account)) => {
            become_user(&account).map_err(AgentError::io("take on the user's rights"))?;
            Owner::default()
        }
        (false, None) => {
            return Err(AgentError::Invalid(
                "the call does not say whose rights it has".to_owned(),
            ));
        }
    };
    Ok(Tree::new(root, new_owner, is_abandoned))
}

fn become_user(account: &Account) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = account.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(Gid::ROOT, Gid::from_raw(account.gid), Gid::ROOT)?;
    // Takes the thread's capabilities with it, unless the user is root.
    set_thread_res_uid(Uid::ROOT, Uid::from_raw(account.uid), Uid::ROOT)
}

//! Object store adapter and the storage proxy's routes.
//!
//! The proxy streams objects between workers and the object store, so that workers never hold the
//! store's credentials.

mod directory;
mod key;
mod proxy;
mod worker_token;

pub use self::{
    directory::{OpenError, open_directory},
    proxy::router,
    worker_token::WorkerToken,
};

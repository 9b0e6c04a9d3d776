//! Object store adapters, signed URLs and the storage proxy's routes.
//!
//! The proxy streams objects between workers and the object store, so that workers never hold the
//! store's credentials. [`Objects`] is the store: a directory of this machine, or S3.

mod access;
mod alone;
mod capability;
mod directory;
mod error;
mod key;
mod objects;
mod proxy;
mod range;
mod read;
mod s3;
mod s3_transport;
mod seal;
mod secret;
mod segments;
mod signed_url;
mod upload;
mod worker_token;

pub use self::{
    alone::alone,
    capability::{MintError, is_capability},
    error::{OpenError, StorageError},
    objects::{Objects, PresignedPut},
    proxy::router,
    read::ObjectBody,
    s3::{S3Config, S3Patience},
    secret::SigningSecret,
    worker_token::WorkerToken,
};

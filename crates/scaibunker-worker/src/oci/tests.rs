//! Against a real registry: Debian's `docker-registry`, which the tests start.

mod archives;
mod images;
mod pulls;
mod registry;
mod token_server;

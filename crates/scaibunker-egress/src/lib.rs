//! The egress gateway: one process for each worker, through which everything goes that bunkers send
//! into the world.
//!
//! It has no rights and no files. The worker makes the sockets in each bunker's network and passes
//! them over a control socket ([`control`]) together with the bunker's [`Policy`]; the kernel hands
//! the bunker's connections to those sockets, whatever address they were meant for. The gateway
//! decides by name, resolves the name itself, checks every address it is about to connect to
//! ([`addresses`]), and copies bytes. Nothing else leads out of a bunker: when the gateway is gone,
//! nothing does.

mod addresses;
mod audit;
mod bunker;
mod connection;
pub mod control;
mod datagrams;
mod dial;
mod dns;
mod flows;
mod gateway;
mod hello;
mod jail;
mod lookups;
mod metered;
mod names;
mod plain;
mod policy;
mod pump;
mod shaper;
mod syscalls;

pub use self::{
    gateway::{HELPER_COMMAND, helper_main},
    names::Names,
    policy::Policy,
};

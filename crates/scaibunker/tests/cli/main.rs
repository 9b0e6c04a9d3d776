//! The program against a controller that answers as the contract says, without any microVM.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod audit;
mod bench;
mod cp;
mod execs;
mod failures;
mod fake_audit;
mod fake_commands;
mod fake_controller;
mod fake_files;
mod fake_lifecycle;
mod fake_objects;
mod fake_quotas;
mod fake_shell;
mod files;
mod identity;
mod lifecycle;
mod login;
mod program;
mod proxy;
mod pseudo_terminal;
mod quotas;
mod real_controller;
mod records;
mod run;
mod shell;
mod stopping;

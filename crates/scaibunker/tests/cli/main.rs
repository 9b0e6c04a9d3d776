//! The program against a controller that answers as the contract says, without any microVM.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bench;
mod failures;
mod fake_commands;
mod fake_controller;
mod program;
mod records;
mod run;
mod stopping;

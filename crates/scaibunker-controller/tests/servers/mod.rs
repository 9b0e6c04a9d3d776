//! Real servers that tests start for themselves.

#![allow(dead_code, reason = "each test program uses some of them")]

pub mod postgres;
pub mod process;
pub mod redis;

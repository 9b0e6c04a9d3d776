//! Entry point of PID 1; the library does everything.

#![no_main]

use std::ffi::{c_char, c_int};

/// Called by the C library. Rust's own start-up is left out because it aborts when descriptors
/// 0–2 are closed and `/dev/null` is missing, as they are for the first process of a bare
/// initramfs.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    scaibunker_guest::run()
}
